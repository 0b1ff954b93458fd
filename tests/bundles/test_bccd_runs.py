"""The bundle of blood cells run as its users run it, on a phantom: trained, calibrated, attacked, resumed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
import torch

from monai_amat.engines import load_weights, network_fingerprint, save_weights
from monai_amat.study import Study
from monai_amat.tasks.detection import Letterboxd, YOLOv5, load_voc
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


def test_thresholds_of_another_size_are_refused(bccd: BundleRunner, std: Path, tmp_path: Path) -> None:
    file = str(std / "thresholds.json")
    assert "image_size" in bccd.failure("amat", output_dir=str(tmp_path), thresholds_file=file, image_size=[96, 96])


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
