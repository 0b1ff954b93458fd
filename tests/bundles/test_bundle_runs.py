"""The bundle run as its users run it: every arm trained, calibrated, attacked, and shared out over processes."""

from __future__ import annotations

import csv
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.image
import pandas as pd
import pytest
import torch
from ignite.engine import Events

from monai_amat.engines import describe, frozen, load_weights, network_fingerprint
from monai_amat.robustness.store import RowStore
from monai_amat.tasks.segmentation import DiceCELoss, nnunet_2d

if TYPE_CHECKING:
    from tests.bundles.conftest import BundleRunner


def network(width: int = 4) -> torch.nn.Module:
    return nnunet_2d(in_channels=1, out_channels=3, patch_size=(32, 32), base_features=width)


def checkpoint(folder: Path, epoch: int = 2) -> dict[str, Any]:
    return dict(torch.load(folder / "models" / f"resume_epoch={epoch:04d}.pt", weights_only=True))


def write_thresholds(folder: Path, value: float) -> str:
    file = folder / "thresholds.json"
    file.write_text(json.dumps({"format": 1, "thresholds": {"total": value}, "provenance": {}}))
    return str(file)


def table(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


# ---------------------------------------------------------------------------------- training


@pytest.mark.parametrize(
    "names", [(), ("sat",), ("amat",), ("amat", "amat_boundary")], ids=lambda names: "+".join(names)
)
def test_every_arm_trains_and_leaves_its_files(
    bundle: BundleRunner, std: Path, names: tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        made = {"thresholds_file": str(std / "thresholds.json")} if "amat" in names else {}
        bundle.run(*names, output_dir=str(tmp_path), **made)
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    expected = {"models/model.pt", "models/resume_epoch=0001.pt", "models/resume_epoch=0002.pt"}
    expected |= {"margins.csv"} if "amat" in names else set()
    assert {file for file in files if not file.startswith("logs/events.")} == expected
    assert any(file.startswith("logs/events.") for file in files)

    state = checkpoint(tmp_path)
    kept = {"network", "optimizer", "lr_scheduler", "guard"}
    kept |= {"margins"} if "amat" in names else set()
    assert set(state["objects"]) == kept
    exported, resumed = network(), network()
    load_weights(exported, tmp_path / "models" / "model.pt")
    resumed.load_state_dict(state["objects"]["network"])
    assert network_fingerprint(exported) == network_fingerprint(resumed)
    if names:
        assert network_fingerprint(exported) != network_fingerprint(
            load_weights(network(), std / "models" / "model.pt")
        )
    # Polynomial decay over two epochs has come to its end.
    assert state["objects"]["lr_scheduler"]["last_epoch"] == 2
    for epoch in (1, 2):
        assert f"Epoch: {epoch}/2, Iter: 2/2 -- train_loss: " in caplog.text
        assert f"Epoch[{epoch}] Metrics -- val_adi: " in caplog.text
    assert "network saved to" in caplog.text


@pytest.mark.parametrize("names", [("amat",), ("amat", "amat_boundary")], ids="+".join)
def test_margins_grow_by_delta_a_visit_where_everything_is_accepted(
    bundle: BundleRunner, names: tuple[str, ...], tmp_path: Path
) -> None:
    bundle.run(*names, output_dir=str(tmp_path), thresholds_file=write_thresholds(tmp_path, 100.0), max_margin=6.0)
    margins = checkpoint(tmp_path)["objects"]["margins"]
    rows = table(tmp_path / "margins.csv")
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert [float(row["accepted"]) for row in rows] == [1.0, 1.0]
    assert float(rows[1]["mean"]) == pytest.approx(float(margins["values"].mean()))
    # Δ, a visit or two later, and the cap.
    assert {2.5, 5.0} <= set(margins["values"].tolist()) <= {2.5, 5.0, 6.0}
    grown = int((margins["values"] > 2.5).sum())
    assert 0 < grown <= 16
    with bundle.workflow(
        "amat", thresholds_file=str(tmp_path / "thresholds.json"), output_dir=str(tmp_path)
    ) as workflow:
        slices = workflow.parser.get_parsed_content("train::data")
        assert margins["fingerprint"] == workflow.parser.get_parsed_content("train#dataset").fingerprint
    assert len(margins["values"]) == len(slices)
    groups = {f"mean[classes {item['classes'] or 'none'}]" for item in slices}
    assert groups == {key for key in rows[0] if key.startswith("mean[")}


def test_margins_follow_dice_along_the_path_where_that_is_asked_for(bundle: BundleRunner, tmp_path: Path) -> None:
    """amat_path needs no thresholds file; a Dice of 0 is always reached, one above 1 never."""
    for threshold, expected in ((0.0, {2.5, 5.0}), (1.1, {2.5})):
        output = tmp_path / str(threshold)
        bundle.run("amat", "amat_path", output_dir=str(output), dice_threshold=threshold, max_epochs=1)
        values = checkpoint(output, 1)["objects"]["margins"]["values"].tolist()
        assert {round(value, 4) for value in values} == expected


def test_relative_acceptance_takes_samples_that_are_above_the_threshold_already(
    bundle: BundleRunner, tmp_path: Path
) -> None:
    file = tmp_path / "thresholds.json"
    content = {"format": 1, "thresholds": {"total": -100.0}, "provenance": {"std": {"total": 0.5}}}
    file.write_text(json.dumps(content))
    for tolerance, expected in ((100.0, 1.0), (-100.0, 0.0)):
        output = tmp_path / str(tolerance)
        settings: dict[str, Any] = {"tolerance": tolerance, "thresholds_file": str(file), "max_epochs": 1}
        bundle.run("amat", "amat_relative", output_dir=str(output), **settings)
        assert float(table(output / "margins.csv")[0]["accepted"]) == expected


def test_controls_draw_ramp_and_shuffle(bundle: BundleRunner, tmp_path: Path) -> None:
    """What a control does to its radii is tested with its class; here, that the overlay makes it do so."""
    for name in ("sat_uniform", "sat_ramp"):
        with bundle.workflow("sat", name, epsilon=4.0, output_dir=str(tmp_path / name)) as workflow:
            trainer = workflow.parser.get_parsed_content("train#trainer")
            seen: list[list[float]] = []

            def note(engine: Any, seen: list[list[float]] = seen) -> None:
                seen.append(engine.prepare_batch.last.radius.tolist())

            trainer.add_event_handler(Events.ITERATION_COMPLETED, note)
            workflow.run()
        if name == "sat_ramp":
            assert seen == [[pytest.approx(4.0 * i / 3)] * 4 for i in range(4)]
        else:
            assert len({radius for step in seen for radius in step}) == 16
            assert 0 <= min(map(min, seen)) < max(map(max, seen)) <= 4
    settings = {"thresholds_file": write_thresholds(tmp_path, 100.0), "max_epochs": 1}
    for names in (("amat",), ("amat", "amat_shuffled")):
        bundle.run(*names, output_dir=str(tmp_path / names[-1]), **settings)
    objects = [checkpoint(tmp_path / name, 1)["objects"]["margins"]["values"] for name in ("amat", "amat_shuffled")]
    assert objects[0].equal(objects[1])  # in the first epoch all margins were equal when they were dealt
    settings["max_epochs"] = 2
    for names in (("amat",), ("amat", "amat_shuffled")):
        bundle.run(*names, output_dir=str(tmp_path / f"{names[-1]}2"), **settings)
    longer = [checkpoint(tmp_path / f"{name}2")["objects"]["margins"]["values"] for name in ("amat", "amat_shuffled")]
    assert not longer[0].equal(longer[1])


def test_training_starts_from_given_weights(bundle: BundleRunner, std: Path, tmp_path: Path) -> None:
    weights = std / "models" / "model.pt"
    bundle.run(output_dir=str(tmp_path), initial_weights=str(weights), learning_rate=0.0, max_epochs=1)
    started, trained = (load_weights(network(), file) for file in (weights, tmp_path / "models" / "model.pt"))
    assert network_fingerprint(started) == network_fingerprint(trained)
    assert checkpoint(tmp_path, 1)["settings"]["started_from"] == "model.pt"


def test_running_thresholds_let_margins_wait_for_their_warm_up(bundle: BundleRunner, tmp_path: Path) -> None:
    for warmup, moved in ((3, True), (100, False)):
        output = tmp_path / str(warmup)
        settings: dict[str, Any] = {"thresholds#k": 9.0, "warmup": warmup}
        bundle.run("amat", "amat_running", output_dir=str(output), **settings)
        margins = checkpoint(output)["objects"]["margins"]
        assert margins["running"][0]["steps"] == 4
        assert (margins["values"].max() > 2.6) == moved


@pytest.mark.parametrize("names", [("amat",), ("amat", "amat_boundary")], ids="+".join)
def test_margins_stay_at_delta_where_nothing_is_accepted(
    bundle: BundleRunner, names: tuple[str, ...], tmp_path: Path
) -> None:
    bundle.run(*names, output_dir=str(tmp_path), thresholds_file=write_thresholds(tmp_path, -100.0), delta=1.5)
    assert checkpoint(tmp_path)["objects"]["margins"]["values"].numpy() == pytest.approx(1.5, abs=1e-5)
    assert [float(row["accepted"]) for row in table(tmp_path / "margins.csv")] == [0.0, 0.0]


# ------------------------------------------------------------------- thresholds and evaluation


def test_thresholds_are_the_mean_loss_of_the_trained_network_over_the_training_set(
    bundle: BundleRunner, std: Path
) -> None:
    content = json.loads((std / "thresholds.json").read_text())
    trained = load_weights(network(), std / "models" / "model.pt").train()
    loss, losses = DiceCELoss(), []
    with bundle.workflow(output_dir=str(std)) as workflow, frozen(trained), torch.no_grad():
        dataset = workflow.parser.get_parsed_content("train#dataset")
        # Before any item is made: MONAI's transforms keep what they drew beside their settings.
        transforms = json.loads(json.dumps(describe(workflow.parser.get_parsed_content("train#preprocessing"))))
        for i in range(len(dataset)):
            item = dataset[i]
            losses.append(float(loss(trained(item["image"][None]), item["label"][None])))
    assert content["thresholds"] == {"total": pytest.approx(sum(losses) / len(losses), rel=1e-5)}
    provenance = content["provenance"]
    assert provenance["samples"] == len(losses)
    assert provenance["clean_accepted"] == sum(loss < content["thresholds"]["total"] for loss in losses) / len(losses)
    assert provenance["checkpoint"] == "model.pt"
    assert provenance["network"] == network_fingerprint(trained)
    assert provenance["data"] == dataset.fingerprint
    assert provenance["transforms"] == transforms
    assert provenance["statistic"] == "MeanStd(k=0.0)"
    assert provenance["date"].startswith("20")


def test_evaluation_and_robustness_curve_come_to_the_same_figures(
    bundle: BundleRunner, std: Path, tmp_path: Path
) -> None:
    """At each noise level, on all test slices; and the curve does not do again what is done."""
    common = {"checkpoint": str(std / "models" / "model.pt"), "test_slices": "$None", "batch_size": 16}
    bundle.run("robustness", output_dir=str(tmp_path), **common)
    folder = tmp_path / "robustness"
    levels = json.loads((folder / "summary.json").read_text())["levels"]
    clean_loss = {}
    for epsilon in (0.0, 2.0):
        bundle.run("evaluate", output_dir=str(tmp_path), epsilon=epsilon, **common)
        told = (tmp_path / f"epsilon={epsilon:g}" / "metrics.csv").read_text()
        metrics = dict(line.split(",") for line in told.split())
        assert set(metrics) == {
            *("val_adi", "val_adi_1", "val_adi_2", "val_adi_every_class", "val_tvdi", "val_tvdi_1", "val_tvdi_2")
        }
        for name in ("adi", "tvdi"):
            assert float(metrics[f"val_{name}"]) == pytest.approx(levels[f"{epsilon:g}"][name]["value"], abs=1e-6)
        clean_loss[epsilon] = levels[f"{epsilon:g}"]["loss"]
    assert clean_loss[2.0] > clean_loss[0.0]

    rows = pd.read_csv(folder / "robustness.csv")
    assert rows.groupby("noise_level")["sample_id"].nunique().tolist() == [len(rows) // 2] * 2
    assert rows[rows["noise_level"] == 0.0]["noise_norm"].max() == 0.0
    assert rows[rows["noise_level"] == 2.0]["noise_norm"].to_numpy() == pytest.approx(2.0, rel=1e-4)
    assert set(rows["case"]) == {"phantom_007", "phantom_011"}  # the test section of fifteen cases
    for name in ("curve.png", "curve_tvdi.png", "examples.png"):
        assert matplotlib.image.imread(folder / name).shape[2] >= 3
    assert (folder / "table.md").read_text().startswith("| adi at noise")

    with RowStore(folder) as store:
        kept = store.read()
    bundle.run("robustness", output_dir=str(tmp_path), **common)
    with RowStore(folder) as store:
        pd.testing.assert_frame_equal(store.read(), kept)  # with the seconds that each row took
    assert pd.read_csv(folder / "robustness.csv").equals(rows)


def test_a_subset_of_the_test_slices_is_balanced_over_volumes(bundle: BundleRunner, std: Path, tmp_path: Path) -> None:
    bundle.run(
        *("robustness",),
        output_dir=str(tmp_path),
        checkpoint=str(std / "models" / "model.pt"),
        test_slices=6,
        noise_levels=[0.0],
    )
    rows = pd.read_csv(tmp_path / "robustness" / "robustness.csv")
    assert rows.groupby("case").size().to_dict() == {"phantom_007": 3, "phantom_011": 3}


# ------------------------------------------------------------------------------ processes


@pytest.mark.slow
def test_the_command_line_overrides_any_id(bundle: BundleRunner, environment: dict[str, str], tmp_path: Path) -> None:
    arguments = bundle.arguments(
        "amat",
        **{
            "output_dir": str(tmp_path / "out"),
            "thresholds_file": write_thresholds(tmp_path, 100.0),
            "max_epochs": 1,
            "learning_rate": 0.125,
            "network_def#base_features": 6,
            "optimizer#weight_decay": 0.0625,
            "train#dataloader#batch_size": 2,
            "rule#step": 0.75,
            "attack#norm": "inf",
            "seed": 7,
        },
    )
    arguments += ["--logging_file", str(bundle.root / "configs" / "logging.conf")]
    finished = subprocess.run(
        [sys.executable, "-m", "monai.bundle", *arguments],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert "train_loss" in finished.stdout
    state = checkpoint(tmp_path / "out", 1)
    load_weights(network(6), tmp_path / "out" / "models" / "model.pt")
    group = state["objects"]["optimizer"]["param_groups"][0]
    assert (group["initial_lr"], group["weight_decay"]) == (0.125, 0.0625)
    assert state["epoch_length"] == 4  # eight draws by two
    assert set(state["objects"]["margins"]["values"].tolist()) >= {2.5, 3.25}
    # Nothing is written where it was not asked for.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "thresholds.json"]


@pytest.mark.slow
def test_two_processes_train_as_one(bundle: BundleRunner, environment: dict[str, str], tmp_path: Path) -> None:
    """torchrun with gloo: the same margins on both ranks, and those of one process; only rank 0 reports and writes."""
    report = tmp_path / "report.json"
    state = "{'margins': @margins.values, 'network': @network.state_dict()}"
    file = "@output_dir + '/rank' + os.environ.get('RANK', 'alone') + '.pt'"
    report.write_text(json.dumps({"+run": [f"$torch.save({state}, {file})"]}))
    changes = {
        "thresholds_file": write_thresholds(tmp_path, 2.0),
        "iterations_per_epoch": 4,
        # Adam would blow rounding up to whole steps where a gradient is next to nothing.
        "optimizer": {"_target_": "torch.optim.SGD", "params": "$@network.parameters()", "lr": 0.05},
    }
    bundle.run("amat", report, output_dir=str(tmp_path / "one"), **changes)
    arguments = bundle.arguments("multi_gpu_train", "amat", report, output_dir=str(tmp_path / "two"), **changes)
    finished = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
            *("-m", "monai.bundle", *arguments),
            *("--logging_file", str(bundle.root / "configs" / "logging.conf")),
        ],
        cwd=tmp_path,
        env={**environment, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-4000:]

    alone = torch.load(tmp_path / "one" / "rankalone.pt", weights_only=True)
    first, second = (torch.load(tmp_path / "two" / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert torch.equal(first["margins"], second["margins"])
    assert len(first["margins"].unique()) > 1
    torch.testing.assert_close(first["margins"], alone["margins"])
    for name, value in alone["network"].items():
        assert torch.equal(first["network"][f"module.{name}"], second["network"][f"module.{name}"])
        torch.testing.assert_close(first["network"][f"module.{name}"], value, rtol=1e-3, atol=1e-5)

    best = [checkpoint(tmp_path / name)["engine"]["best_metric"] for name in ("one", "two")]
    assert best[1] == pytest.approx(best[0], abs=1e-3)
    written = [sorted(path.name.split(".")[0] for path in (tmp_path / name).rglob("*")) for name in ("one", "two")]
    assert [name for name in written[1] if name not in ("rank0", "rank1")] == [
        name for name in written[0] if name != "rankalone"
    ]
    for line in ("train_loss", "Metrics -- val_adi", "epoch 2: margins", "network saved to"):
        assert finished.stdout.count(line) == (2 if line in ("train_loss", "Metrics -- val_adi") else 1), line
