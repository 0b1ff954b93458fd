"""Whatever is wrong with cephalograms, files or settings reaches the user by name, before training starts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from monai_amat.engines import save_weights
from monai_amat.tasks.landmarks import MultiTaskUNet

if TYPE_CHECKING:
    from tests.bundles.conftest import BundleRunner

IMAGE, MARKS = "RawImage/TrainingData/003.png", "AnnotationsByMD/400_junior/003.txt"


@pytest.fixture
def data(skulls: Path, tmp_path: Path) -> Path:
    """A copy of the data set, to be spoilt."""
    return Path(shutil.copytree(skulls, tmp_path / "spoilt"))


def lines(data: Path, change: Callable[[list[str]], list[str]]) -> None:
    file = data / MARKS
    file.write_text("\n".join(change(file.read_text().splitlines())))


SPOILT: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "folder": (shutil.rmtree, ["spoilt: no such folder", "RawImage"]),
    "annotation missing": (lambda data: (data / MARKS).unlink(), [MARKS, "no such file"]),
    "image missing": (lambda data: (data / IMAGE).unlink(), ["003", "AnnotationsByMD"]),
    "points missing": (lambda data: lines(data, lambda text: text[:18]), [MARKS, "got 18 lines"]),
    "not a number": (
        lambda data: lines(data, lambda text: [*text[:4], "12,north", *text[5:]]),
        [MARKS, "line 5 (subspinale)", "'12,north'"],
    ),
    "no image": (lambda data: (data / IMAGE).write_text("no image"), [IMAGE, "cannot be opened"]),
    "truncated image": (
        lambda data: (data / IMAGE).write_bytes((data / IMAGE).read_bytes()[:200]),
        [IMAGE, "corrupt or truncated"],
    ),
    "no info.json": (lambda data: (data / "info.json").unlink(), ["1935x2400", "info.json"]),
    "one ID twice": (
        lambda data: shutil.copy(data / IMAGE, (data / IMAGE).with_suffix(".bmp")),
        ["003.", "two images have this ID"],
    ),
}


@pytest.mark.parametrize("what", SPOILT)
def test_spoilt_data_are_named_before_training(
    cephalometric: BundleRunner, data: Path, what: str, tmp_path: Path
) -> None:
    spoil, expected = SPOILT[what]
    spoil(data)
    message = cephalometric.failure(dataset_dir=str(data), output_dir=str(tmp_path / "out"))
    assert [part for part in expected if part not in message] == []
    assert not list(tmp_path.rglob("*.pt"))


SETTINGS: dict[str, tuple[tuple[str, ...], dict[str, Any], list[str]]] = {
    "images below 32 pixels": ((), {"image_size": [30, 24]}, ["32 pixels", "30x24"]),
    "a disc of less than a pixel": ((), {"relative_radius": 0.01}, ["radius", "at least 1 pixel"]),
    "a reader that there is not": ((), {"reader": "nurse"}, ["reader", "nurse"]),
    "VGG19 weights that are not there": ((), {"encoder_weights": "vgg.pth"}, ["vgg.pth"]),
    "negative ε": (("sat",), {"epsilon": -1.0}, ["-1"]),
    "a cap below Δ": (("amat",), {"max_margin": 0.01}, ["max_margin", "0.01"]),
    "a section that there is not": (("robustness",), {"section": "test1"}, ["section", "test1"]),
    "negative noise level": (("robustness",), {"noise_levels": [0.0, -1.0]}, ["noise_levels", "-1"]),
    "images outside the clip range": (("sat",), {"attack#clip_range": [0.0, 1.0]}, ["clip_range"]),
}


@pytest.mark.parametrize("what", SETTINGS)
def test_settings_out_of_range_are_named(
    cephalometric: BundleRunner, cephalometric_std: Path, what: str, tmp_path: Path
) -> None:
    names, changes, expected = SETTINGS[what]
    made = {
        "thresholds_file": str(cephalometric_std / "thresholds.json"),
        "checkpoint": str(cephalometric_std / "models" / "model.pt"),
        "output_dir": str(tmp_path / "out"),
    }
    message = cephalometric.failure(*names, **made, **changes)
    assert [part for part in expected if part not in message] == []
    assert not list(tmp_path.rglob("*.pt"))


def test_thresholds_without_a_term_are_named(cephalometric: BundleRunner, tmp_path: Path) -> None:
    """ξ of a segmentation network has one term, the total."""
    file = tmp_path / "thresholds.json"
    file.write_text(json.dumps({"format": 1, "thresholds": {"dice": 1.0}, "provenance": {}}))
    message = cephalometric.failure("amat", thresholds_file=str(file), output_dir=str(tmp_path / "out"))
    assert "dice" in message
    assert "heatmap" in message


@pytest.mark.parametrize("names", [("calibrate",), ("evaluate",), ("robustness",)], ids="+".join)
def test_weights_of_another_width_are_named(
    cephalometric: BundleRunner, names: tuple[str, ...], tmp_path: Path
) -> None:
    file = tmp_path / "other.pt"
    save_weights(MultiTaskUNet(width=1 / 16), file)
    message = cephalometric.failure(*names, checkpoint=str(file), output_dir=str(tmp_path / "out"))
    assert f"{file} is of another architecture" in message


def test_a_checkpoint_of_another_forward_is_refused(
    cephalometric: BundleRunner, cephalometric_std: Path, tmp_path: Path
) -> None:
    """Or of another size of image: weights fit any, what they learnt does not."""
    shutil.copytree(cephalometric_std, tmp_path / "out")
    for names, changes, what in (
        (("separate_forwards",), {}, "forward.class SimpleInferer, but this run has SeparateForwardsInferer"),
        ((), {"image_size": [64, 52]}, "image_size[0] 50, but this run has 64"),
        (("bce",), {}, "HeatmapBCE"),
        ((), {"train#random_transforms": []}, "transforms.transforms [{"),
    ):
        message = cephalometric.failure(*names, output_dir=str(tmp_path / "out"), **changes)
        assert "was made with" in message
        assert what in message
