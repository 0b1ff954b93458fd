"""What a bundle run refuses before anything of it is built."""

from __future__ import annotations

from typing import Any

import pytest

from monai_amat.templates import bundle_files, check_configuration
from monai_amat.templates.check import _check_words

FILES: dict[str, dict[str, Any]] = {
    "train": {
        **{"output_dir": "$@bundle_root + '/runs'", "dataset_dir": "/data", "bundle_root": ".", "device": "$x"},
        **{"max_epochs": 3, "num_workers": 4, "seed": 0, "rate": 0.1, "amp": True, "image_size": [4, 5]},
        **{"classes": ["a"], "train_cases": None, "initial_weights": None},
    },
    "evaluate": {"epsilon": "$2 * @scale", "scale": 1.5, "checkpoint": "$@output_dir + '/model.pt'"},
}
CONFIG = {**FILES["evaluate"], **FILES["train"]}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"max_epoch": 3}, "no configuration file has the id 'max_epoch', .* nearest is 'max_epochs'"),
        ({"epsilonn": 1}, "'epsilonn'.* nearest is 'epsilon'"),
        ({"output_dir": "/runs/out ::1"}, "output_dir is '/runs/out ::1': MONAI replaces #"),
        ({"dataset_dir": 2024}, "dataset_dir is the number 2024, expected a path: write ./2024"),
        ({"dataset_dir": "@home/x"}, "dataset_dir is '@home/x', which MONAI reads as a reference"),
        ({"output_dir": "$HOME/out dir"}, "output_dir is .* which MONAI reads as a Python expression"),
        ({"initial_weights": "@model.pt"}, "initial_weights is '@model.pt'"),
        ({"max_epochs": 0}, "max_epochs is 0, expected a whole number of at least 1, such as 3"),
        ({"max_epochs": 2.5}, "max_epochs is 2.5"),
        ({"max_epochs": "three"}, "max_epochs is 'three'"),
        ({"rate": [1]}, r"rate is \[1\], expected a number such as 0.1"),
        ({"seed": True}, "seed is True, expected a number"),
        ({"classes": "a"}, "classes is 'a', expected a list"),
        ({"image_size": [4]}, r"image_size is \[4\], expected two numbers"),
        ({"epsilon": [5]}, r"epsilon is \[5\], expected a number that is not negative"),
        ({"epsilon": -1}, "epsilon is -1, expected a number that is not negative"),
        ({"lies_on": {"train": None, "amat_path": "amat"}}, r"amat_path.json lies on amat.json.*train amat amat_path"),
        ({"lies_on": {"amat": "train", "train": None}}, r"amat.json lies on train.json"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(change: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        check_configuration({**CONFIG, **change}, {**FILES, "extra": {"lies_on": None}})


@pytest.mark.parametrize(
    "change",
    [
        {"own": 3, "max_epochs": "$@own + 1"},
        {"own": 3, "train": {"deep": ["%own"]}},
        {"_comment": "text"},
        {"tracking_uri": "sqlite:///runs.db"},
        {"num_workers": 0, "epsilon": 0, "train_cases": 4, "classes": ("a", "b"), "image_size": "$(8, 8)"},
        {"dataset_dir": "/data/user@site/$x/a%b", "output_dir": "@dataset_dir", "checkpoint": "$str(@dataset_dir)"},
        {"lies_on": {"train": None, "amat": "train", "amat_path": "amat", "small": "train"}},
    ],
)
def test_what_can_be_meant_passes(change: dict[str, Any]) -> None:
    check_configuration({**CONFIG, **change}, {**FILES, "extra": {"train": {}, "lies_on": None}})


@pytest.mark.parametrize("words", [["run", "--output_dir", "runs#2"], ["run", "--output_dir=runs#2", "--seed", "1"]])
def test_a_path_that_the_command_line_cuts_is_refused(words: list[str]) -> None:
    with pytest.raises(ValueError, match="output_dir is 'runs#2': MONAI replaces #"):
        _check_words(words)
    _check_words(["run", "--config_file", "a#b.json", "--train#dataloader#batch_size", "3"])


@pytest.mark.parametrize("name", ["hippocampus", "cephalometric", "bccd"])
def test_each_bundle_starts_with_the_check(name: str) -> None:
    for file in ("train", "evaluate", "multi_gpu_train", "inference"):
        text = bundle_files(name)[f"configs/{file}.json"]
        assert '"initialize": [\n        "$monai_amat.templates.check_run()"' in text
