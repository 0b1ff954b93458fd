"""Padded targets."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from monai_amat.tasks.detection import BoxTargetsd


def item(**changes: Any) -> dict[str, Any]:
    return {
        "image": torch.rand(3, 20, 30),
        "boxes": torch.tensor([[2.0, 3.0, 12.0, 9.0], [20.0, 10.0, 30.0, 20.0]]),
        "labels": torch.tensor([2, 0]),
        "case": "a",
    } | changes


def test_targets_are_padded_rows() -> None:
    after = BoxTargetsd(max_boxes=3)(item())
    assert set(after) == {"image", "case", "targets"}
    assert after["targets"].tolist() == [[2, 2, 3, 12, 9], [0, 20, 10, 30, 20], [-1, 0, 0, 0, 0]]
    assert after["targets"].dtype == torch.float32
    nothing = BoxTargetsd(max_boxes=2)(item(boxes=torch.zeros(0, 4), labels=torch.zeros(0)))
    assert nothing["targets"].tolist() == [[-1, 0, 0, 0, 0]] * 2


def test_too_many_boxes_are_an_error_that_names_the_case() -> None:
    with pytest.raises(ValueError, match="case 'a': expected at most max_boxes=1 boxes, got 2"):
        BoxTargetsd(max_boxes=1)(item())
    with pytest.raises(ValueError, match=r"'labels' of case 'a' must be one per box, \(2,\), got shape \(1,\)"):
        BoxTargetsd(max_boxes=3)(item(labels=torch.tensor([1])))
    with pytest.raises(ValueError, match="'boxes' of case 'a' must be x1 y1 x2 y2"):
        BoxTargetsd(max_boxes=3)(item(boxes=torch.zeros(2, 4)))
    with pytest.raises(ValueError, match="max_boxes must be at least 1"):
        BoxTargetsd(max_boxes=0)
