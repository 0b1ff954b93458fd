"""Mirroring of an image and its boxes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from monai_amat.tasks.detection import RandFlipBoxesd


def item(**changes: Any) -> dict[str, Any]:
    return {
        "image": torch.rand(3, 20, 30),
        "boxes": torch.tensor([[2.0, 3.0, 12.0, 9.0], [20.0, 10.0, 30.0, 20.0]]),
        "labels": torch.tensor([2, 0]),
        "case": "a",
    } | changes


def test_flips_mirror_image_and_boxes_along_their_axis() -> None:
    before = item()
    after = RandFlipBoxesd("x", prob=1.0)(before)
    assert torch.equal(after["image"], before["image"].flip(2))
    assert after["boxes"].tolist() == [[18, 3, 28, 9], [0, 10, 10, 20]]
    after = RandFlipBoxesd("y", prob=1.0)(before)
    assert torch.equal(after["image"], before["image"].flip(1))
    assert after["boxes"].tolist() == [[2, 11, 12, 17], [20, 0, 30, 10]]
    assert RandFlipBoxesd("y", prob=0.0)(before)["boxes"] is before["boxes"]
    assert RandFlipBoxesd("x", prob=1.0)(item(boxes=torch.zeros(0, 4)))["boxes"].shape == (0, 4)
    with pytest.raises(ValueError, match="along must be 'x' or 'y', got 'z'"):
        RandFlipBoxesd("z")  # type: ignore[arg-type]


def test_flips_happen_as_often_as_asked() -> None:
    flip = RandFlipBoxesd("x", prob=0.3)
    flip.set_random_state(seed=0)
    before = item()
    flips = sum(not torch.equal(flip(before)["boxes"], before["boxes"]) for _ in range(400))
    assert 85 < flips < 155
