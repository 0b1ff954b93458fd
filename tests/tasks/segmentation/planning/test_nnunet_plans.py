"""Plans of nnU-Net version 2: both of its forms, and every key that can be amiss."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from monai_amat.tasks.segmentation import Plan2D, read_plans

STRIDES = [[1, 1], [2, 2], [2, 2], [2, 2], [2, 1]]
WIDTHS = [32, 64, 128, 256, 512]


def older() -> dict[str, Any]:
    return {
        "batch_size": 12,
        "patch_size": [320, 24],
        "spacing": [0.625, 0.7],
        "normalization_schemes": ["ZScoreNormalization"],
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 32,
        "unet_max_num_features": 512,
        "n_conv_per_stage_encoder": [2] * 5,
        "n_conv_per_stage_decoder": [2] * 4,
        "num_pool_per_axis": [4, 3],
        "pool_op_kernel_sizes": STRIDES,
        "conv_kernel_sizes": [[3, 3]] * 5,
    }


def newer() -> dict[str, Any]:
    content = {key: value for key, value in older().items() if key in ("batch_size", "patch_size", "spacing")}
    return {
        **content,
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {
                "n_stages": 5,
                "features_per_stage": WIDTHS,
                "kernel_sizes": [[3, 3]] * 5,
                "strides": STRIDES,
                "n_conv_per_stage": [2] * 5,
                "n_conv_per_stage_decoder": [2] * 4,
            },
        },
    }


def write(folder: Path, configuration: Any) -> Path:
    file = folder / "nnUNetPlans.json"
    file.write_text(json.dumps({"plans_name": "nnUNetPlans", "configurations": {"2d": configuration, "3d": {}}}))
    return file


@pytest.mark.parametrize("form", [older, newer])
def test_both_forms_say_the_same(form: Callable[[], dict[str, Any]], tmp_path: Path) -> None:
    assert read_plans(write(tmp_path, form())) == Plan2D((320, 24), (4, 3), tuple(WIDTHS), 12, (0.625, 0.7))


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "sprung",))

    file = tmp_path / "nnUNetPlansv2.1_plans_2D.pkl"
    file.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match=r"nnUNetPlansv2\.1_plans_2D\.pkl: expected .* got a pickle of version 1"):
        read_plans(file)
    assert not (tmp_path / "sprung").exists()


def changed(form: Callable[[], dict[str, Any]], key: str, value: Any) -> dict[str, Any]:
    content = form()
    *path, last = key.split("#")
    part = content
    for name in path:
        part = part[name]
    if value is None:
        del part[last]
    else:
        part[last] = value
    return content


KWARGS = "architecture#arch_kwargs"


@pytest.mark.parametrize(
    ("form", "key", "value", "expected"),
    [
        (older, "patch_size", None, "2d#patch_size must be two positive whole numbers"),
        (older, "patch_size", [320, 24.5], "2d#patch_size must be two positive whole numbers"),
        (older, "patch_size", [64, 320, 256], "2d#patch_size must be two"),
        (older, "patch_size", [321, 24], "2d#patch_size must be divisible by 16, got [321, 24]"),
        (older, "spacing", [0.0, 1.0], "2d#spacing must be two positive numbers"),
        (older, "batch_size", "twelve", "2d#batch_size must be a whole number"),
        (older, "UNet_class_name", "ResidualEncoderUNet", "network class must be PlainConvUNet"),
        (older, "pool_op_kernel_sizes", [[1, 1], [2, 2]], "2d#pool_op_kernel_sizes must be"),
        (older, "pool_op_kernel_sizes", [[1, 1], [4, 4], [2, 2], [2, 2], [2, 1]], "pool_op_kernel_sizes must be"),
        (
            older,
            "pool_op_kernel_sizes",
            [[1, 1], [2, 1], [2, 2], [2, 2], [2, 2]],
            "where an axis with fewer poolings has them first",
        ),
        (older, "UNet_base_num_features", None, "2d#features_per_stage must be 5 numbers"),
        (older, "conv_kernel_sizes", [[3, 3]] * 4 + [[1, 3]], "2d#conv_kernel_sizes must be 3 throughout"),
        (older, "n_conv_per_stage_decoder", [1] * 4, "2d#n_conv_per_stage_decoder must be 2 throughout"),
        (newer, "architecture#network_class_name", "some.ResidualEncoderUNet", "network class must be PlainConvUNet"),
        (newer, f"{KWARGS}#strides", None, "arch_kwargs#strides must be"),
        (newer, f"{KWARGS}#features_per_stage", [32, 64], "arch_kwargs#features_per_stage must be 5 numbers"),
        (newer, f"{KWARGS}#n_conv_per_stage", [1, 3, 4, 6, 6], "arch_kwargs#n_conv_per_stage must be 2 throughout"),
    ],
)
def test_what_cannot_be_built_is_named_with_file_and_key(
    form: Callable[[], dict[str, Any]], key: str, value: Any, expected: str, tmp_path: Path
) -> None:
    file = write(tmp_path, changed(form, key, value))
    with pytest.raises(ValueError) as caught:
        read_plans(file)
    assert str(caught.value).startswith(f"{file}: configurations#2d")
    assert expected in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"configurations": {"3d_fullres": {}}}', '{"configurations": 3}'])
def test_what_is_no_plans_file_is_named(text: str, tmp_path: Path) -> None:
    file = tmp_path / "nnUNetPlans.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"nnUNetPlans\.json: (not valid JSON|configurations#2d must be an object)"):
        read_plans(file)
    with pytest.raises(FileNotFoundError, match=r"absent\.json: no such plans file"):
        read_plans(tmp_path / "absent.json")


def test_another_normalisation_is_said(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"normalization_schemes is \['CTNormalization'\]"):
        read_plans(write(tmp_path, {**older(), "normalization_schemes": ["CTNormalization"]}))
