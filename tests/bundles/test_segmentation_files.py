"""Segmentation bundles as files: the committed ones are what the code writes, with the paper's values."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser

from monai_amat.tasks.segmentation import nnunet_2d
from monai_amat.templates import SegmentationSettings, paper_settings, segmentation_files, write_bundle

REPOSITORY = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:monai")

TASKS = ("hippocampus", "heart", "prostate")


PAPER: dict[str, dict[str, Any]] = {
    "heart": {
        "network": (1, 2, [320, 256], [32, 64, 128, 256, 480, 480, 480]),
        "training": (40, 50, 50),
        "noise": (5.0, 25.0, [0, 5, 10, 15], 0.91),
        "split": "16/1/3",
    },
    "prostate": {
        "network": (2, 3, [320, 320], [32, 64, 128, 256, 480, 480, 480]),
        "training": (32, 50, 50),
        "noise": (10.0, 40.0, [0, 10, 20, 40], 0.86),
        "split": "25/2/5",
    },
}


@pytest.mark.parametrize("task", PAPER)
def test_defaults_are_the_papers(task: str) -> None:
    configs = REPOSITORY / "bundles" / f"{task}_amat" / "configs"
    train, amat, path, curve = (
        json.loads((configs / f"{name}.json").read_text()) for name in ("train", "amat", "amat_path", "robustness")
    )
    channels, classes, patch, features = PAPER[task]["network"]
    assert (train["in_channels"], train["num_classes"], train["patch_size"]) == (channels, classes, patch)
    assert (train["batch_size"], train["max_epochs"], train["iterations_per_epoch"]) == PAPER[task]["training"]
    delta, cap, levels, dice = PAPER[task]["noise"]
    assert (amat["delta"], amat["max_margin"], curve["noise_levels"]) == (delta, cap, levels)
    assert path["dice_threshold"] == dice
    assert f"split {PAPER[task]['split']} into" in (configs.parent / "docs" / "README.md").read_text()
    with torch.device("meta"):  # shapes alone
        network = ConfigParser(train).get_parsed_content("network_def")
        ours = nnunet_2d(in_channels=channels, out_channels=classes, patch_size=patch, features=features)
    assert {name: value.shape for name, value in network.state_dict().items()} == {
        name: value.shape for name, value in ours.state_dict().items()
    }


@pytest.mark.parametrize("task", TASKS)
def test_metadata_name_the_channels_and_classes_of_the_settings(task: str) -> None:
    file = REPOSITORY / "bundles" / f"{task}_amat" / "configs" / "metadata.json"
    formats = json.loads(file.read_text(encoding="utf-8"))["network_data_format"]
    settings = paper_settings(task)
    assert list(formats["outputs"]["pred"]["channel_def"].values()) == ["background", *settings.classes]
    assert len(formats["inputs"]["image"]["channel_def"]) == len(settings.channels)


def test_noise_is_stated_per_image_and_per_value() -> None:
    text = segmentation_files(paper_settings("prostate"))["docs/README.md"]
    values = 320 * 320 * 2
    assert f"{values} values of a 320×320 slice of 2 channels" in text
    for level in (10, 20, 40):
        assert re.search(rf"\| noise level +\| {level} +\| {level / math.sqrt(values):.3f} ", text)


# ------------------------------------------------------------------------------- settings


def test_settings_survive_their_file(tmp_path: Path) -> None:
    for task in TASKS:
        settings = paper_settings(task)
        (tmp_path / "s.json").write_text(settings.to_json(), encoding="utf-8")
        assert SegmentationSettings.read(tmp_path / "s.json") == settings


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"patch_sise": [1, 2]}, "patch_sise"),
        ({"patch_size": [0, 2]}, "patch_size must be positive"),
        ({"noise_levels": [0.0, 5.0, 5.0]}, "noise_levels must rise from 0"),
        ({"noise_levels": [1.0, 5.0]}, "noise_levels must rise from 0"),
        ({"delta": -1.0}, "delta must be positive"),
        ({"classes": []}, "settings need a name, channels and classes"),
        ({"cases": None}, "not the settings of a segmentation bundle"),
    ],
)
def test_settings_that_cannot_be_used_are_named(change: dict[str, Any], expected: str, tmp_path: Path) -> None:
    file = tmp_path / "s.json"
    file.write_text(json.dumps({**json.loads(paper_settings("heart").to_json()), **change}))
    with pytest.raises(ValueError, match=r"s\.json: not the settings") as caught:
        SegmentationSettings.read(file)
    assert expected in str(caught.value)


def test_absent_settings_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.json: no such settings file; hippocampus, heart, prostate"):
        SegmentationSettings.read(tmp_path / "absent.json")
    with pytest.raises(ValueError, match="not 'liver'"):
        paper_settings("liver")


# ------------------------------------------------------------------------------- writing


def test_writing_twice_is_writing_once_and_nothing_else_is_overwritten(tmp_path: Path) -> None:
    heart = paper_settings("heart")
    root = write_bundle(heart, tmp_path / "b")
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*.json")}
    assert write_bundle(heart, root) == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*.json")} == before
    with pytest.raises(FileExistsError, match=r"b/.* differs from what this version writes"):
        write_bundle(dataclasses.replace(heart, batch_size=7), root)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*.json")} == before


def test_a_larger_evaluation_stands_in_the_configuration(tmp_path: Path) -> None:
    settings = dataclasses.replace(paper_settings("heart"), eval_size=(320, 320), poolings=(5, 5))
    train = json.loads(segmentation_files(settings)["configs/train.json"])
    assert (train["eval_size"], train["poolings"]) == ([320, 320], [5, 5])
    assert json.loads(segmentation_files(paper_settings("heart"))["configs/train.json"])["eval_size"] == "@patch_size"
