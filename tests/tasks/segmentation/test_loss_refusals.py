"""Settings, shapes, types and labels that Dice with cross-entropy refuses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from monai.networks import one_hot

from monai_amat.tasks.segmentation import DiceCELoss
from tests.tasks.segmentation.segments import make


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"activation": "relu"}, "activation must be one of.*'relu'"),
        ({"dice_over": "some"}, "dice_over must be one of.*'some'"),
        ({"smooth": 0.0}, "smooth must be"),
        ({"smooth": math.nan}, "smooth must be"),
        ({"weights": {"dise": 1.0}}, "dise"),
        ({"head_weights": [1, -1]}, "head_weights"),
        ({"head_weights": [0, 0]}, "head_weights"),
        ({"head_weights": []}, "head_weights"),
    ],
)
def test_bad_settings(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiceCELoss(**setting)


@pytest.mark.parametrize(
    ("activation", "pred", "target", "message"),
    [
        ("softmax", (2, 3, 4, 4), (2, 2, 4, 4), r"1 or 3 channels.*\(2, 3, 4, 4\).*\(2, 2, 4, 4\)"),
        ("sigmoid", (2, 3, 4, 4), (2, 1, 4, 4), r"3 channels.*\(2, 3, 4, 4\).*\(2, 1, 4, 4\)"),
        ("softmax", (2, 1, 4, 4), (2, 1, 4, 4), "at least 2 channels"),
        ("softmax", (2, 3, 4, 4), (2, 4, 4), r"2 or 3 spatial dimensions.*\(2, 4, 4\)"),
        ("softmax", (2, 3, 4, 4), (1, 1, 4, 4), r"with B and spatial dimensions.*\(1, 1, 4, 4\)"),
        ("softmax", (2, 3, 4, 4), (2, 1, 8, 8), "first head must have the spatial size of the target"),
        ("softmax", (2, 3, 8, 8), (2, 1, 4, 4), "no head may be larger"),
        ("softmax", (2, 3, 4, 4), (2, 1, 4, 4, 4), "with B and spatial dimensions"),
        ("softmax", (2, 2, 2, 3, 4, 4), (2, 1, 4, 4), "with B and spatial dimensions"),
        ("softmax", (2,), (2, 1, 4, 4), "with B and spatial dimensions"),
    ],
)
def test_shapes_that_do_not_fit(activation: Any, pred: Any, target: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiceCELoss(activation=activation)(torch.zeros(pred), torch.zeros(target))


def test_heads_that_do_not_fit() -> None:
    labels = torch.zeros(2, 1, 4, 4)
    with pytest.raises(ValueError, match=r"\(2, 2, 2, 2\)"):
        DiceCELoss()([torch.zeros(2, 3, 4, 4), torch.zeros(2, 2, 2, 2)], labels)
    with pytest.raises(ValueError, match="first head"):
        DiceCELoss()([torch.zeros(2, 3, 2, 2), torch.zeros(2, 3, 4, 4)], labels)


@pytest.mark.parametrize(
    ("pred", "target", "message"),
    [
        ({"a": torch.zeros(2, 3, 4, 4)}, torch.zeros(2, 1, 4, 4), "pred must be logits.*dict"),
        ([], torch.zeros(2, 1, 4, 4), "pred must be logits.*list"),
        (torch.zeros(2, 3, 4, 4), [torch.zeros(2, 1, 4, 4)], "target must be a tensor.*list"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.int64), torch.zeros(2, 1, 4, 4), "floating-point logits.*int64"),
    ],
)
def test_types_that_do_not_fit(pred: Any, target: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        DiceCELoss()(pred, target)


@pytest.mark.parametrize("label", [3, -1, 255, 0.5, math.nan])
def test_labels_outside_the_classes_name_sample_and_value(label: float) -> None:
    target = torch.zeros(3, 1, 4, 4)
    target[1, 0, 2, 3] = label
    with pytest.raises(ValueError, match=rf"\(3, 1, 4, 4\).*labels in 0\.\.2.*samples \[1\].*\[{float(label)}\]"):
        DiceCELoss()(torch.zeros(3, 3, 4, 4), target)


def test_targets_that_are_no_probabilities() -> None:
    truth = one_hot(make(2, 3, (4, 4))[1], 3)
    truth[1, :, 0, 0] = 0
    with pytest.raises(ValueError, match=r"sum 1 over the channels.*samples \[1\]"):
        DiceCELoss()(torch.zeros(2, 3, 4, 4), truth)
    with pytest.raises(ValueError, match=r"lie in 0\.\.1.*samples \[0, 1\].*\[2\.0\]"):
        DiceCELoss(activation="sigmoid")(torch.zeros(2, 1, 4, 4), torch.full((2, 1, 4, 4), 2.0))


def test_a_volume_target_without_channel_is_not_taken_for_stacked_heads() -> None:
    # (B, C, D, H, W) against (B, D, H, W) has the shape of C stacked heads with D channels.
    with pytest.raises(ValueError, match="sum 1 over the channels"):
        DiceCELoss()(torch.zeros(2, 3, 4, 5, 5), torch.randint(0, 2, (2, 4, 5, 5)))
