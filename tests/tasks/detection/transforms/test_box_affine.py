"""Scaling and shifting of an image and its boxes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from monai_amat.tasks.detection import RandAffineBoxesd


def item(**changes: Any) -> dict[str, Any]:
    return {
        "image": torch.rand(3, 20, 30),
        "boxes": torch.tensor([[2.0, 3.0, 12.0, 9.0], [20.0, 10.0, 30.0, 20.0]]),
        "labels": torch.tensor([2, 0]),
        "case": "a",
    } | changes


def test_without_scale_and_shift_nothing_moves() -> None:
    before = item()
    after = RandAffineBoxesd(scale=0.0, translate=0.0)(before)
    torch.testing.assert_close(after["image"], before["image"], atol=1e-5, rtol=0)
    torch.testing.assert_close(after["boxes"], before["boxes"])
    assert RandAffineBoxesd(prob=0.0)(before)["image"] is before["image"]


def test_scale_and_shift_are_drawn_from_their_whole_range() -> None:
    move = RandAffineBoxesd(scale=0.5, translate=0.1, min_visible=0.01, min_side=0.1)
    move.set_random_state(seed=0)
    centred = item(boxes=torch.tensor([[14.0, 9.0, 16.0, 11.0]]), labels=torch.tensor([1]))
    boxes = torch.cat([move(centred)["boxes"] for _ in range(300)])
    gain = (boxes[:, 2] - boxes[:, 0]) / 2
    assert 0.5 <= float(gain.min()) < 0.55 and 1.45 < float(gain.max()) <= 1.5
    # The centre of the frame is the fixed point of scaling, so where it is now is the shift, in pixels.
    for axis, side in ((0, 30), (1, 20)):
        shift = (boxes[:, axis] + boxes[:, axis + 2]) / 2 - side / 2
        assert -0.1 * side - 1e-3 <= float(shift.min()) < -0.08 * side
        assert 0.08 * side < float(shift.max()) <= 0.1 * side + 1e-3


def test_labels_go_with_their_boxes() -> None:
    move = RandAffineBoxesd(scale=0.5, translate=0.6, min_visible=0.5)
    move.set_random_state(seed=1)
    numbers = set()
    for _ in range(60):
        after = move(item())
        assert len(after["labels"]) == len(after["boxes"])
        numbers.add(tuple(after["labels"].tolist()))
        bounds = torch.tensor([30.0, 20, 30, 20])
        assert bool((after["boxes"] >= 0).all()) and bool((after["boxes"] <= bounds).all())
    assert numbers == {(), (0,), (2,), (2, 0)}


def test_what_comes_in_from_outside_is_grey_and_values_stay_in_range() -> None:
    usual = RandAffineBoxesd(scale=0.9)
    usual.set_random_state(seed=2)
    for image in (torch.rand(3, 20, 30).round(), torch.ones(3, 20, 30), torch.zeros(3, 20, 30)):
        for _ in range(20):
            after = usual(item(image=image))["image"]
            assert float(after.min()) >= 0 and float(after.max()) <= 1
    move = RandAffineBoxesd(fill=0.25)
    move._gain, move._shift = 0.5, (0.0, 0.0)
    small = move._moved(torch.ones(3, 20, 30))
    assert bool((small[:, :4] == 0.25).all()) and bool((small[:, :, -7:] == 0.25).all())
    assert bool((small[:, 6:14, 9:21] == 1).all())


@pytest.mark.parametrize(
    "setting", [{"scale": 1.0}, {"scale": -0.1}, {"translate": 1.0}, {"min_visible": 0.0}, {"min_side": 0.0}]
)
def test_affine_settings_out_of_range(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(setting))} must (lie in|be positive)"):
        RandAffineBoxesd(**setting)
