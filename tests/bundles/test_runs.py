"""One bundle per task run as users run it: every arm trained, calibrated, attacked, resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import torch
from ignite.engine import Events

from monai_amat.engines import describe, frozen, load_weights, network_fingerprint
from monai_amat.handlers import MetricHandler

if TYPE_CHECKING:
    from tests.bundles.conftest import BundleRunner

# After four steps hardly any heat map has learnt where its landmark is.
pytestmark = pytest.mark.filterwarnings("ignore:.* heat maps have no peak")


def state(folder: Path, epoch: int = 2) -> dict[str, Any]:
    return dict(torch.load(folder / "models" / f"resume_epoch={epoch:04d}.pt", weights_only=True))


def margins(folder: Path, epoch: int = 2) -> np.ndarray:
    return np.asarray(state(folder, epoch)["objects"]["margins"]["values"], dtype=float)


def weights(bundle: BundleRunner, folder: Path) -> torch.nn.Module:
    return load_weights(bundle.parser().get_parsed_content("network_def"), folder / "models" / "model.pt")


def thresholds(bundle: BundleRunner, folder: Path, value: float, **terms: float) -> str:
    judged = bundle.parser().get_parsed_content("loss").judged
    content = {"format": 1, "thresholds": {**dict.fromkeys(judged, value), **terms}, "provenance": {}}
    (folder / "limits.json").write_text(json.dumps(content))
    return str(folder / "limits.json")


# ---------------------------------------------------------------------------------- training

ARMS: list[tuple[str, ...]] = [(), ("amat",)]
OWN: dict[str, list[tuple[str, ...]]] = {
    "hippocampus": [("sat",), ("amat", "amat_boundary"), ("amat", "amat_relative", "amat_balanced")],
    "cephalometric": [("bce",), ("sat", "own_statistics"), ("amat", "amat_balanced", "separate_forwards")],
    "bccd": [("sat",), ("amat", "amat_path")],
}


@pytest.mark.parametrize(
    ("task_bundle", "names"),
    [(bundle, names) for bundle, own in OWN.items() for names in [*ARMS, *own]],
    indirect=["task_bundle"],
    ids=lambda value: value if isinstance(value, str) else "+".join(value) or "std",
)
def test_every_arm_trains_and_leaves_its_files(
    task_bundle: BundleRunner, task_std: Path, names: tuple[str, ...], tmp_path: Path
) -> None:
    made = {"thresholds_file": str(task_std / "thresholds.json")} if "amat" in names else {}
    task_bundle.run(*names, output_dir=str(tmp_path), **made)
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    expected = {"models/model.pt", "models/resume_epoch=0001.pt", "models/resume_epoch=0002.pt"}
    expected |= {"margins.csv"} if "amat" in names else set()
    assert {file for file in files if not file.startswith(("logs/events.", "models/."))} == expected
    assert any(file.startswith("logs/events.") for file in files)
    objects = state(tmp_path)["objects"]
    own = {"margins"} if "amat" in names else {"noisy_statistics"} if "own_statistics" in names else set()
    assert set(objects) == {"network", "optimizer", "lr_scheduler", "guard", *own}
    # Whatever the arm, the exported weights fit the plain network and are those of the last epoch.
    trained, resumed = weights(task_bundle, tmp_path), task_bundle.parser().get_parsed_content("network_def")
    resumed.load_state_dict(objects["network"])
    assert network_fingerprint(trained) == network_fingerprint(resumed)
    assert (network_fingerprint(trained) == network_fingerprint(weights(task_bundle, task_std))) == (not names)
    if "own_statistics" in names:
        clean, noisy = objects["network"], objects["noisy_statistics"]
        assert all(not torch.equal(clean[key], value) for key, value in noisy.items() if key.endswith("mean"))


def test_margins_grow_by_delta_per_visit_up_to_their_cap_where_everything_is_accepted(
    task_bundle: BundleRunner, tmp_path: Path
) -> None:
    for names in (("amat",), ("amat", "amat_boundary")):
        output = tmp_path / names[-1]
        values = {"delta": 0.5, "max_margin": 1.3, "thresholds_file": thresholds(task_bundle, tmp_path, 1e4)}
        task_bundle.run(*names, output_dir=str(output), **values)
        rows = pd.read_csv(output / "margins.csv")
        assert rows["accepted"].tolist() == [1.0, 1.0]
        assert set(np.round(margins(output), 4).tolist()) <= {0.5, 1.0, 1.3}
        assert margins(output).mean() > margins(output, 1).mean() > 0.5
        assert rows["mean"].iloc[-1] == pytest.approx(margins(output).mean())
    with task_bundle.workflow("amat", output_dir=str(tmp_path), **values) as workflow:
        dataset = workflow.parser.get_parsed_content("train::dataset")
        groups = workflow.parser.get_parsed_content("margin_stats").groups
    assert state(output)["objects"]["margins"]["fingerprint"] == dataset.fingerprint
    assert {f"mean[{name}]" for name in groups or []} == {name for name in rows if str(name).startswith("mean[")}


def test_margins_do_not_grow_where_one_term_is_above_its_threshold(task_bundle: BundleRunner, tmp_path: Path) -> None:
    """A rejected margin is at most what it was: noise that is cut off at the range is shorter than its radius."""
    for term in task_bundle.parser().get_parsed_content("loss").judged:
        file = thresholds(task_bundle, tmp_path, 1e4, **{term: -1e4})
        task_bundle.run("amat", output_dir=str(tmp_path / term), thresholds_file=file, delta=0.5, max_epochs=1)
        values = margins(tmp_path / term, 1)
        assert 0.4 < values.min() <= values.max() <= 0.5 + 1e-5
        assert pd.read_csv(tmp_path / term / "margins.csv")["accepted"].tolist() == [0.0]


def test_acceptance_by_dice_along_the_path_and_by_growth_of_the_loss(bundle: BundleRunner, tmp_path: Path) -> None:
    """A Dice of 0 is always reached, one above 1 never, and without a thresholds file."""
    for threshold, expected in ((0.0, {2.5, 5.0}), (1.1, {2.5})):
        output = tmp_path / str(threshold)
        bundle.run("amat", "amat_path", output_dir=str(output), dice_threshold=threshold, max_epochs=1)
        assert set(np.round(margins(output, 1), 4).tolist()) == expected
    content = {"format": 1, "thresholds": {"total": -100.0}, "provenance": {"std": {"total": 0.5}}}
    (tmp_path / "limits.json").write_text(json.dumps(content))
    for tolerance, accepted in ((100.0, 1.0), (-100.0, 0.0)):
        output = tmp_path / str(tolerance)
        values = {"tolerance": tolerance, "thresholds_file": str(tmp_path / "limits.json"), "max_epochs": 1}
        bundle.run("amat", "amat_relative", output_dir=str(output), **values)
        assert pd.read_csv(output / "margins.csv")["accepted"].tolist() == [accepted]


def test_controls_draw_ramp_and_shuffle(bundle: BundleRunner, tmp_path: Path) -> None:
    radii: dict[str, list[float]] = {}
    for name in ("sat_uniform", "sat_ramp"):
        seen = radii.setdefault(name, [])
        with bundle.workflow("sat", name, epsilon=0.4, output_dir=str(tmp_path / name)) as workflow:
            trainer = workflow.parser.get_parsed_content("train::trainer")
            trainer.add_event_handler(
                Events.ITERATION_COMPLETED,
                lambda engine, seen=seen: seen.extend(engine.prepare_batch.last.radius.tolist()),
            )
            workflow.run()
        assert 0 <= min(seen) < max(seen) <= 0.4 + 1e-6
    assert len(set(radii["sat_uniform"])) == len(radii["sat_uniform"])
    assert radii["sat_ramp"] == sorted(radii["sat_ramp"])
    values = {"thresholds_file": thresholds(bundle, tmp_path, 1e4), "delta": 0.5}
    for names in (("amat",), ("amat", "amat_shuffled")):
        bundle.run(*names, output_dir=str(tmp_path / names[-1]), start_margin=0.1, **values)
    # Before anything has moved, all margins are equal and dealing them out changes nothing.
    assert (margins(tmp_path / "amat", 1) == margins(tmp_path / "amat_shuffled", 1)).all()


def test_running_thresholds_let_margins_wait_for_their_warm_up(bundle: BundleRunner, tmp_path: Path) -> None:
    for warmup, moved in ((1, True), (100, False)):
        output = tmp_path / str(warmup)
        bundle.run("amat", "amat_running", output_dir=str(output), warmup=warmup, delta=0.5, **{"thresholds::k": 99.0})
        assert (margins(output).max() > 0.6) == moved


def test_training_starts_from_given_weights(task_bundle: BundleRunner, task_std: Path, tmp_path: Path) -> None:
    file = str(task_std / "models" / "model.pt")
    task_bundle.run(output_dir=str(tmp_path), initial_weights=file, learning_rate=0.0, max_epochs=1)
    # Statistics of BatchNorm move without a rate.
    begun, ended = (dict(weights(task_bundle, folder).named_parameters()) for folder in (task_std, tmp_path))
    assert all(torch.equal(value, ended[name]) for name, value in begun.items())
    assert state(tmp_path, 1)["settings"]["started_from"] == "model.pt"


def test_a_stopped_run_goes_on_to_the_same_numbers(task_bundle: BundleRunner, task_std: Path, tmp_path: Path) -> None:
    values = {"thresholds_file": str(task_std / "thresholds.json")}
    task_bundle.run("amat", output_dir=str(tmp_path / "whole"), **values)
    kill = tmp_path / "kill.json"
    event = "$@train::trainer.add_event_handler(ignite.engine.Events.ITERATION_STARTED(once=4), @killer)"
    kill.write_text(
        json.dumps({"+imports": ["$import ignite"], "killer": "$lambda engine: 1 / 0", "+initialize": [event]})
    )
    assert "division by zero" in task_bundle.failure("amat", kill, output_dir=str(tmp_path / "parts"), **values)
    assert not (tmp_path / "parts" / "models" / "model.pt").exists()
    task_bundle.run("amat", output_dir=str(tmp_path / "parts"), **values)
    assert (margins(tmp_path / "whole") == margins(tmp_path / "parts")).all()
    whole, parts = (state(tmp_path / name)["objects"] for name in ("whole", "parts"))
    assert all(torch.equal(value, parts["network"][name]) for name, value in whole["network"].items())
    assert whole["lr_scheduler"] == parts["lr_scheduler"]


# ------------------------------------------------------------------- thresholds and evaluation


def test_thresholds_are_the_statistic_of_each_term_of_the_trained_network(
    task_bundle: BundleRunner, task_std: Path
) -> None:
    content = json.loads((task_std / "thresholds.json").read_text())
    with task_bundle.workflow("calibrate", output_dir=str(task_std)) as workflow, torch.no_grad():
        parser = workflow.parser
        # Before any item is made: MONAI's transforms keep what they drew beside their settings.
        fitted_with = json.loads(json.dumps(describe(parser.get_parsed_content("fitted_with"))))
        dataset, loss = (parser.get_parsed_content(name) for name in ("train::dataset", "loss"))
        prepare, k = parser.get_parsed_content("plain_batch"), parser.get_parsed_content("statistic").k
        network = load_weights(parser.get_parsed_content("network"), task_std / "models" / "model.pt").train()
        terms: dict[str, list[float]] = {name: [] for name in loss.judged}
        with frozen(network):
            for batch in torch.utils.data.DataLoader(dataset, batch_size=1):
                image, target = prepare(batch, "cpu")[:2]
                for name, value in loss.terms(network(image), target).items():
                    if name in terms:
                        terms[name].append(float(value))
                if loss.judged == ("total",):
                    terms["total"].append(float(loss(network(image), target)))
    expected = {name: np.mean(values) + k * np.std(values) for name, values in terms.items()}
    assert content["thresholds"] == pytest.approx(expected, rel=1e-4)
    provenance = content["provenance"]
    assert provenance["samples"] == len(dataset)
    assert provenance["network"] == network_fingerprint(network)
    assert {key: provenance[key] for key in fitted_with} == fitted_with
    below = np.all([np.array(values) < content["thresholds"][name] for name, values in terms.items()], axis=0)
    assert provenance["clean_accepted"] == pytest.approx(below.mean())


def test_evaluation_and_curve_come_to_the_same_figures(
    task_bundle: BundleRunner, task_std: Path, tmp_path: Path
) -> None:
    """At each noise level, on all test samples; and the curve does not compute again what is there."""
    common: dict[str, Any] = {"checkpoint": str(task_std / "models" / "model.pt"), "noise_levels": [0.0, 0.5]}
    own: dict[str, dict[str, Any]] = {"bccd": {"section": "all", "test_cases": 4}}
    own["hippocampus"] = {"test_slices": "$None"}
    common |= own.get(task_bundle.name, {})
    task_bundle.run("robustness", output_dir=str(tmp_path), **common)
    folder = tmp_path / "robustness"
    levels = json.loads((folder / "summary.json").read_text())["levels"]
    (label,) = task_bundle.merged()["validate"]["key_metric"]
    for epsilon in (0.0, 0.5):
        with task_bundle.workflow("evaluate", output_dir=str(tmp_path), epsilon=epsilon, **common) as workflow:
            handler = workflow.parser.get_parsed_content("validate::key_metric")[label]
            workflow.run()
        assert isinstance(handler, MetricHandler)
        told = (tmp_path / f"epsilon={epsilon:g}" / "metrics.csv").read_text().split()
        metrics = {name: float(value) for name, value in (line.split(",") for line in told)}
        headline = next(name for name, figure in levels["0"].items() if isinstance(figure, dict))
        for name, figure in {label: headline, **handler.further}.items():
            value = levels[f"{epsilon:g}"][figure]["value"]
            assert metrics[name] == pytest.approx(np.nan if value is None else value, rel=1e-5, abs=1e-6, nan_ok=True)
    assert levels["0.5"]["loss"] >= levels["0"]["loss"]
    rows = pd.read_csv(folder / "robustness.csv", dtype={"case": str})
    assert rows.groupby("noise_level")["sample_id"].nunique().tolist() == [len(rows) // 2] * 2
    assert rows[rows["noise_level"] == 0.0]["noise_norm"].max() == 0.0
    assert rows[rows["noise_level"] == 0.5]["noise_norm"].to_numpy() == pytest.approx(0.5, abs=0.02)
    assert {"curve.png", "examples.png", "table.md"} <= {path.name for path in folder.iterdir()}
    before = (folder / "robustness.csv").read_bytes()
    task_bundle.run("robustness", output_dir=str(tmp_path), evaluation_steps=2, **common)
    assert (folder / "robustness.csv").read_bytes() == before


def test_the_attack_is_measured_against_others(task_bundle: BundleRunner, task_std: Path, tmp_path: Path) -> None:
    file = str(task_std / "models" / "model.pt")
    changes = {"checkpoint": file, "source_checkpoint": file, "strength_samples": 2, "strength_steps": [3]}
    chosen = "('pgd-2', 'pgd-3', 'other-loss', 'transfer', 'random', 'huge-radius')"
    probes = f"${{name: @standard_probes[name] for name in {chosen}}}"
    task_bundle.run("robustness", "strength", output_dir=str(tmp_path), probes=probes, **changes)
    table = pd.read_csv(tmp_path / "strength" / "strength.csv").set_index("probe")
    assert {"pgd-2", "pgd-3", "other-loss", "transfer", "random", "huge-radius", "worst of all"} <= set(table.index)
    # Noise made on the same network by another copy of it is its own.
    assert table.loc["transfer", "difference"] == pytest.approx(0, abs=1e-9)
    loss = table["loss"]
    assert loss["huge-radius"] >= loss["pgd-2"] >= loss["random"]
    assert (tmp_path / "strength" / "strength.md").is_file()
