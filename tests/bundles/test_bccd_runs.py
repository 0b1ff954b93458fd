"""The bundle of blood cells run as its users run it, on a phantom: trained, calibrated, attacked, resumed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import torch
from ignite.engine import Events

from monai_amat.data import IndexedDataset
from monai_amat.engines import frozen, load_weights, network_fingerprint, save_weights
from monai_amat.study import Study
from monai_amat.tasks.detection import DetectionLoss, Letterboxd, YOLOv5, load_voc
from monai_amat.tasks.detection.transforms.rgb_image import LoadRGBImage

if TYPE_CHECKING:
    from tests.bundles.conftest import BundleRunner

TERMS = ("box", "cls", "dfl")

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:monai")


Run = Callable[..., None]


@pytest.fixture(scope="module")
def data(bccd: BundleRunner) -> Path:
    """Fourteen images, of which one each for validation and testing."""
    return bccd.dataset_dir


@pytest.fixture(scope="module")
def run(bccd: BundleRunner) -> Run:
    """Run config files by name with values by ID; train.json comes first, small.json last."""
    return bccd.run


@pytest.fixture(scope="module")
def std(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folder of a plain training, calibrated."""
    folder = tmp_path_factory.mktemp("std")
    run(output_dir=str(folder))
    run("calibrate", output_dir=str(folder))
    return folder


def state(folder: Path, epoch: int = 2) -> dict[str, Any]:
    return dict(torch.load(folder / "models" / f"resume_epoch={epoch:04d}.pt", weights_only=True))


def trained(folder: Path) -> torch.nn.Module:
    return load_weights(YOLOv5(3, "n"), folder / "models" / "model.pt")


@pytest.fixture(scope="module")
def seeing(std: Path, data: Path) -> Path:
    """Its weights with statistics of its own activations: after four steps it would hardly see its image."""
    network = trained(std).train()
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0
    files_of = [item["image"] for item in load_voc(data, "all")[:6]]
    with torch.no_grad():
        network(torch.stack([Letterboxd((64, 64))({"image": LoadRGBImage()(file)})["image"] for file in files_of]))
    save_weights(network, std.parent / "seeing.pt")
    return std.parent / "seeing.pt"


def write_thresholds(folder: Path, **values: float) -> str:
    content = {"format": 1, "thresholds": {**dict.fromkeys(TERMS, 1e4), **values}, "provenance": {}}
    (folder / "thresholds.json").write_text(json.dumps(content))
    return str(folder / "thresholds.json")


def test_a_plain_training_leaves_its_files(std: Path) -> None:
    written = {path.relative_to(std).as_posix() for path in std.rglob("*") if path.is_file()}
    models = {f"models/{name}.pt" for name in ("model", "resume_epoch=0001", "resume_epoch=0002")}
    assert models | {"thresholds.json"} <= written
    assert {name for name in written if not name.startswith("logs/")} == models | {"thresholds.json"}
    kept = torch.load(std / "models" / "model.pt", weights_only=True)["settings"]
    assert kept == {"image_size": [64, 64], "classes": ["RBC", "WBC", "Platelets"]}
    resumed = YOLOv5(3, "n")
    resumed.load_state_dict(state(std)["objects"]["network"])
    assert network_fingerprint(resumed) == network_fingerprint(trained(std))


def test_thresholds_are_mean_and_two_deviations_of_each_term(bccd: BundleRunner, std: Path) -> None:
    content = json.loads((std / "thresholds.json").read_text())
    network = trained(std).train()
    loss = DetectionLoss(network)
    found: dict[str, list[float]] = {name: [] for name in TERMS}
    with bccd.workflow(output_dir=str(std)) as workflow:
        dataset: IndexedDataset = workflow.parser.get_parsed_content("train#dataset")
    with frozen(network), torch.no_grad():
        for item in dataset:
            for name, value in loss.terms(network(item["image"][None]), item["label"][None]).items():
                found[name].append(float(value))
    expected = {name: np.mean(values) + 2 * np.std(values) for name, values in found.items()}
    assert content["thresholds"] == pytest.approx(expected, rel=1e-4)
    assert content["provenance"]["data"] == dataset.fingerprint
    assert content["provenance"]["image_size"] == [64, 64]


def test_thresholds_of_another_size_are_refused(bccd: BundleRunner, std: Path, tmp_path: Path) -> None:
    file = str(std / "thresholds.json")
    assert "image_size" in bccd.failure("amat", output_dir=str(tmp_path), thresholds_file=file, image_size=[96, 96])


@pytest.mark.parametrize("names", [("amat",), ("amat", "amat_path"), ("amat", "amat_boundary")], ids="+".join)
def test_margins_grow_where_all_three_terms_are_accepted(run: Run, names: tuple[str, ...], tmp_path: Path) -> None:
    """Δ and the cap are those of 64 x 64 pixels, a fifth of 320 x 320."""
    run(*names, output_dir=str(tmp_path), thresholds_file=write_thresholds(tmp_path), max_margin=1.3)
    for epoch, value in ((1, 1.0), (2, 1.3)):
        margins = state(tmp_path, epoch)["objects"]["margins"]["values"]
        assert margins.tolist() == pytest.approx([value] * 5, abs=1e-5)


@pytest.mark.parametrize("term", TERMS)
def test_one_term_above_its_threshold_refuses_the_noise(run: Run, term: str, tmp_path: Path) -> None:
    """A margin is then at most what it was: noise that is cut off at the range is shorter than its radius."""
    run("amat", output_dir=str(tmp_path), thresholds_file=write_thresholds(tmp_path, **{term: -1.0}), max_epochs=1)
    margins = state(tmp_path, 1)["objects"]["margins"]["values"]
    assert 0.4 < float(margins.min()) <= float(margins.max()) <= 0.5 + 1e-5


def test_controls_and_running_thresholds(bccd: BundleRunner, run: Run, tmp_path: Path) -> None:
    file = write_thresholds(tmp_path)
    for names in (("sat", "sat_uniform"), ("sat", "sat_ramp"), ("amat", "amat_shuffled")):
        values = {"thresholds_file": file, "output_dir": str(tmp_path / names[1])}
        radii: list[float] = []
        with bccd.workflow(*names, **values) as workflow:
            trainer = workflow.parser.get_parsed_content("train#trainer")
            trainer.add_event_handler(
                Events.ITERATION_COMPLETED, lambda engine, seen=radii: seen.extend(engine.prepare_batch.last.radius)
            )
            workflow.run()
        assert len(radii) == 10
        assert len({round(float(radius), 4) for radius in radii}) == {"sat_uniform": 10, "sat_ramp": 4}.get(names[1], 2)
        assert 0 <= min(radii) < max(radii) <= 1.0 + 1e-6
    run("amat", "amat_running", output_dir=str(tmp_path / "running"), warmup=2)
    assert state(tmp_path / "running")["objects"]["margins"]["running"][0]["steps"] == 4


def test_a_killed_run_goes_on_to_the_same_numbers(bccd: BundleRunner, run: Run, std: Path, tmp_path: Path) -> None:
    settings = {"thresholds_file": str(std / "thresholds.json")}
    run("amat", output_dir=str(tmp_path / "whole"), **settings)
    kill = tmp_path / "kill.json"
    event = "$@train#trainer.add_event_handler(ignite.engine.Events.ITERATION_STARTED(once=4), @killer)"
    kill.write_text(
        json.dumps({"+imports": ["$import ignite"], "killer": "$lambda engine: 1 / 0", "+initialize": [event]})
    )
    assert "division by zero" in bccd.failure("amat", kill, output_dir=str(tmp_path / "parts"), **settings)
    assert not (tmp_path / "parts" / "models" / "model.pt").exists()
    run("amat", output_dir=str(tmp_path / "parts"), **settings)
    whole, parts = (state(tmp_path / name) for name in ("whole", "parts"))
    assert whole["objects"]["margins"]["values"].equal(parts["objects"]["margins"]["values"])
    for name, value in whole["objects"]["network"].items():
        assert torch.equal(value, parts["objects"]["network"][name]), name
    assert whole["objects"]["lr_scheduler"] == parts["objects"]["lr_scheduler"]


def test_training_starts_from_given_weights(run: Run, std: Path, tmp_path: Path) -> None:
    """Of this package, or of ultralytics, where another number of classes leaves the class layers as drawn."""
    weights = std / "models" / "model.pt"
    run(output_dir=str(tmp_path / "own"), initial_weights=str(weights), learning_rate=0.0, max_epochs=1)
    # Statistics of BatchNorm move without a rate.
    parameters = [dict(trained(folder).named_parameters()) for folder in (std, tmp_path / "own")]
    assert all(torch.equal(value, parameters[1][name]) for name, value in parameters[0].items())
    assert state(tmp_path / "own", 1)["settings"]["started_from"] == "model.pt"

    other = YOLOv5(5, "n")
    torch.save({"model": other.model, "ema": None}, tmp_path / "coco.pt")
    run(
        output_dir=str(tmp_path / "coco"),
        pretrained_weights=str(tmp_path / "coco.pt"),
        learning_rate=0.0,
        max_epochs=1,
    )
    begun = dict(trained(tmp_path / "coco").named_parameters())
    same = {name for name, value in other.named_parameters() if torch.equal(value, begun[name])}
    assert {name.split(".")[3] for name in begun.keys() - same} == {"cv3"}
    assert state(tmp_path / "coco", 1)["settings"]["started_from"] == "coco.pt"


def test_evaluation_and_curve_come_to_the_same_figures(run: Run, seeing: Path, tmp_path: Path) -> None:
    common = {"checkpoint": str(seeing), "section": "all", "test_cases": 6}
    run("robustness", output_dir=str(tmp_path), **common)
    levels = json.loads((tmp_path / "robustness" / "summary.json").read_text())["levels"]
    for epsilon in (0.0, 1.0):
        run("evaluate", output_dir=str(tmp_path), epsilon=epsilon, **common)
        told = (tmp_path / f"epsilon={epsilon:g}" / "metrics.csv").read_text()
        figures = dict(line.split(",") for line in told.split())
        for ours, theirs in (("iou", "iou_true"), ("iou_detected", "iou_detected"), ("map", "map"), ("map50", "map50")):
            value = levels[f"{epsilon:g}"][theirs]["value"]
            expected = float("nan") if value is None else value
            assert float(figures[f"val_{ours}"]) == pytest.approx(expected, abs=1e-6, nan_ok=True)
    assert levels["1"]["loss"] > levels["0"]["loss"]
    rows = pd.read_csv(tmp_path / "robustness" / "robustness.csv", dtype={"case": str})
    assert rows.groupby("noise_level")["case"].nunique().tolist() == [6, 6]
    assert rows[rows["noise_level"] == 1.0]["noise_norm"].max() <= 1.0 + 1e-4
    for name in ("curve.png", "curve_map.png", "examples.png", "table.md"):
        assert (tmp_path / "robustness" / name).is_file()


def test_a_network_that_ultralytics_saved_is_attacked_like_one_of_ours(run: Run, seeing: Path, tmp_path: Path) -> None:
    network = load_weights(YOLOv5(3, "n"), seeing)
    torch.save({"epoch": -1, "model": network.model, "ema": None}, tmp_path / "best.pt")
    tables = []
    for name, file in (("ours", seeing), ("theirs", tmp_path / "best.pt")):
        run("robustness", output_dir=str(tmp_path / name), checkpoint=str(file), section="all", test_cases=2)
        tables.append(pd.read_csv(tmp_path / name / "robustness" / "robustness.csv"))
    pd.testing.assert_frame_equal(tables[0], tables[1])
    assert (tables[0]["noise_norm"] > 0.9).sum() == 2


def test_the_attack_is_measured_against_others(run: Run, seeing: Path, tmp_path: Path) -> None:
    save_weights(YOLOv5(3, "n"), tmp_path / "source.pt")
    run(
        *("robustness", "strength"),
        checkpoint=str(seeing),
        source_checkpoint=str(tmp_path / "source.pt"),
        output_dir=str(tmp_path),
        section="all",
        strength_samples=2,
        strength_steps=[3],
        strength_auto_steps=2,
        strength_queries=3,
        strength_noise_levels=[1.0],
    )
    table = pd.read_csv(tmp_path / "strength" / "strength.csv").set_index("probe")
    named = ["pgd-2", "pgd-3", "other-loss", "transfer", "apgd-vanishing", "apgd-appearing", "large-radius-first"]
    assert {*named, "square", "random", "huge-radius", "clean", "worst of all"} <= set(table.index)
    loss = {str(name): float(value) for name, value in table["loss"].items()}
    assert loss["worst of all"] >= loss["pgd-2"] > loss["random"]
    assert loss["huge-radius"] > loss["pgd-2"] > loss["clean"]
    summary = json.loads((tmp_path / "strength" / "strength.json").read_text())
    assert summary["probes"]["other-loss"]["attack_loss"]["weights"] == {"box": 0.0, "cls": 0.5, "dfl": 0.0}


@pytest.mark.slow
def test_a_study_has_its_tables_and_pictures(
    bccd: BundleRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, std: Path
) -> None:
    def in_process(self: Any, arguments: Any, log: Any, environment: Any = None) -> tuple[int, str]:
        words = list(arguments)[list(arguments).index("run") + 1 :]
        values = dict(zip(words[::2], words[1::2], strict=True))
        values.pop("--logging_file", None)
        names = [Path(file).stem for file in json.loads(values.pop("--config_file"))]
        bccd.run(*names[1:], **{name[2:]: value for name, value in values.items()})
        return 0, ""

    monkeypatch.setattr("monai_amat.study.process.Processes.run", in_process)
    table = Study(
        bccd.root,
        ["std", "amat:initial_weights=std"],
        dataset_dir=bccd.dataset_dir,
        output_dir=tmp_path,
        overlays=["small"],
        values={
            **bccd.small,
            "max_epochs": 1,
            "section": "all",
            "test_cases": 2,
            "initial_weights": str(std / "models" / "model.pt"),
        },
        say=lambda text: None,
    ).run()
    assert [name.split()[0] for name in dict.fromkeys(table["arm"])] == ["STD", "AMAT"]
    assert {"iou_true", "iou_detected", "map", "map50"} <= set(table["name"])
    text = (tmp_path / "table.md").read_text()
    assert [name for name in ("iou_true", "iou_detected", "map", "map50") if f"| {name} at noise" in text] == [
        *("iou_true", "iou_detected", "map", "map50")
    ]
    for name in ("curve.png", "examples.png", "margins.png", "costs.md", "differences.md"):
        assert (tmp_path / name).is_file(), name
    # STD goes on from the given weights, the other arm from STD's.
    assert state(next(tmp_path.glob("arms/std/seed=0")), 1)["settings"]["started_from"] == "model.pt"
    assert len(list(tmp_path.glob("arms/*/*/models/model.pt"))) == 2


def test_what_cannot_be_run_is_named(bccd: BundleRunner, data: Path, tmp_path: Path) -> None:
    for changes, expected in (
        ({"dataset_dir": str(tmp_path / "absent")}, "absent: no such folder; expected the Pascal VOC layout"),
        ({"classes": ["RBC", "WBC"]}, "Platelets"),
        ({"max_boxes": 2}, "max_boxes=2"),
        ({"size": "z"}, "size must be one of n, s, m, l, x, got 'z'"),
        ({"image_size": [60, 60]}, "divisible by 32"),
        ({"initial_weights": str(tmp_path / "absent.pt")}, "no checkpoint at"),
    ):
        assert expected in bccd.failure(output_dir=str(tmp_path / "out"), **{"train_cases": 12, **changes})
    assert len(load_voc(data, "all")) == 14
