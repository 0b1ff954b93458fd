"""Arithmetic of boxes, and that all transforms together move boxes and pixels alike."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import Compose

from monai_amat.data import IndexedDataset
from monai_amat.tasks.detection import BoxTargetsd, Letterboxd, RandAffineBoxesd, RandColourJitterd, RandFlipBoxesd
from monai_amat.tasks.detection.transforms.boxes import boxes_of, image_of, move_boxes, visible_boxes


def drawn(size: tuple[int, int], box: tuple[int, int, int, int]) -> torch.Tensor:
    """An image that is 1 inside the box and 0 outside."""
    image = torch.zeros(3, *size)
    image[:, box[1] : box[3], box[0] : box[2]] = 1
    return image


def seen(image: torch.Tensor) -> list[float]:
    """Edges of what is bright in an image, to a fraction of a pixel: where intensity falls to one half."""
    edges = []
    for profile in (image[1].amax(dim=0), image[1].amax(dim=1)):
        bright = (profile > 0.5).nonzero().flatten().tolist()
        first, last = bright[0], bright[-1]
        inside = float(profile.max())
        before = float(profile[first - 1]) if first else 0.0
        after = float(profile[last + 1]) if last + 1 < len(profile) else 0.0
        # A pixel that is half bright is half inside.
        low = first + (1 - float(profile[first]) / inside) - before / inside
        high = last + 1 - (1 - float(profile[last]) / inside) + after / inside
        edges.append((low, high))
    (x1, x2), (y1, y2) = edges
    return [x1, y1, x2, y2]


@given(
    st.tuples(st.integers(80, 300), st.integers(80, 300)),
    st.tuples(*[st.floats(0.0, 1.0)] * 4),
    st.integers(0, 10_000),
)
def test_a_drawn_rectangle_and_its_box_stay_together(
    size: tuple[int, int], place: tuple[float, float, float, float], seed: int
) -> None:
    height, width = size
    # At least 30 pixels wide and high, so that something of it is left after halving twice, and 4 pixels from the far
    # edges, where the frame shows whole pixels alone.
    x1, y1 = int(place[0] * (width - 34)), int(place[1] * (height - 34))
    x2, y2 = x1 + 30 + int(place[2] * (width - x1 - 34)), y1 + 30 + int(place[3] * (height - y1 - 34))
    transform = Compose(
        [
            Letterboxd(size=(96, 128), fill=0.0),
            RandAffineBoxesd(scale=0.4, translate=0.2, min_visible=0.3, min_side=3.0, fill=0.0),
            RandFlipBoxesd("x"),
            RandFlipBoxesd("y"),
        ]
    ).set_random_state(seed=seed)
    item: Any = {
        "image": drawn(size, (x1, y1, x2, y2)),
        "boxes": torch.tensor([[x1, y1, x2, y2]]),
        "labels": torch.tensor([1]),
    }
    moved = transform(item)
    if len(moved["boxes"]):
        assert seen(moved["image"]) == pytest.approx(moved["boxes"][0].tolist(), abs=0.5)
        assert moved["labels"].tolist() == [1]
    else:  # hardly anything of it is in the frame
        assert float(moved["image"][0].mean()) < 0.35


def test_every_step_is_seeded_by_the_data_set() -> None:
    items = [
        {"image": torch.rand(3, 40, 50), "boxes": torch.tensor([[10.0, 10, 30, 30]]), "labels": torch.tensor([i])}
        for i in range(3)
    ]
    transform = Compose(
        [
            Letterboxd(size=(32, 32)),
            RandAffineBoxesd(),
            RandColourJitterd(),
            RandFlipBoxesd("x"),
            BoxTargetsd(max_boxes=4),
        ]
    )

    class Transformed:
        data = items
        transform: Any

        def __len__(self) -> int:
            return len(items)

        def __getitem__(self, index: int) -> Any:
            return self.transform(items[index])

    source = Transformed()
    source.transform = transform
    data = IndexedDataset(source, seed=1)
    first, again = data[1], data[1]
    assert torch.equal(first["image"], again["image"]) and torch.equal(first["targets"], again["targets"])
    assert set(first) == {"image", "targets", "letterbox", "native_size", "sample_id", "sample_seed"}
    data.set_epoch(1)
    assert not torch.equal(first["image"], data[1]["image"])
    assert not torch.equal(first["targets"], data[1]["targets"])


@given(st.tuples(*[st.floats(-50, 50)] * 2), st.tuples(*[st.sampled_from([-2.0, -1.0, 0.5, 3.0])] * 2))
def test_moving_boxes_is_moving_their_corners(shift: tuple[float, float], gain: tuple[float, float]) -> None:
    boxes = torch.tensor([[1.0, 2.0, 5.0, 9.0], [0.0, 0.0, 3.0, 3.0]])
    moved = move_boxes(boxes, gain, shift)
    for axis in (0, 1):
        ends = boxes[:, [axis, axis + 2]] * gain[axis] + shift[axis]
        torch.testing.assert_close(moved[:, axis], ends.amin(dim=1), atol=1e-4, rtol=0)
        torch.testing.assert_close(moved[:, axis + 2], ends.amax(dim=1), atol=1e-4, rtol=0)
    assert move_boxes(torch.zeros(0, 4), gain, shift).shape == (0, 4)


def test_boxes_are_kept_by_share_and_side() -> None:
    boxes = torch.tensor(
        [
            [0.0, 0.0, 10.0, 10.0],  # inside
            [-9.0, 0.0, 1.0, 40.0],  # a tenth of it in view, and 1 wide
            [-8.0, 0.0, 2.0, 20.0],  # a fifth, and 2 wide
            [30.0, 15.0, 70.0, 25.0],  # cut at the right and below
            [50.0, 0.0, 60.0, 10.0],  # outside
        ]
    )
    visible = visible_boxes(boxes, (20, 40), min_visible=0.1, min_side=2.0)
    assert visible.kept.tolist() == [True, False, True, True, False]
    assert visible.boxes.tolist() == [[0, 0, 10, 10], [0, 0, 2, 20], [30, 15, 40, 20]]
    assert visible_boxes(boxes, (20, 40), min_visible=0.126).kept.tolist() == [True, False, True, False, False]
    assert visible_boxes(boxes, (20, 40), min_side=5.0).kept.tolist() == [True, False, False, True, False]
    nothing = visible_boxes(torch.zeros(0, 4), (20, 40))
    assert (nothing.boxes.shape, nothing.kept.shape) == ((0, 4), (0,))


def test_items_are_checked_by_key_and_case() -> None:
    assert type(image_of({"image": MetaTensor(torch.ones(1, 2, 2))}, "image")) is torch.Tensor
    with pytest.raises(ValueError, match=r"'image' of case 'a' must be an image \(C, H, W\), got shape \(2, 2\)"):
        image_of({"image": torch.ones(2, 2), "case": "a"}, "image")
    with pytest.raises(ValueError, match=r"'boxes' of an item must be boxes \(N, 4\), got shape \(4,\)"):
        boxes_of({"boxes": torch.ones(4)}, "boxes")
    for box in ([3.0, 1, 2, 2], [1.0, 1, 2, 1], [float("nan"), 1, 2, 2], [0.0, 0, float("inf"), 1]):
        with pytest.raises(ValueError, match="'boxes' of case 'a' must be x1 y1 x2 y2 with x1 < x2"):
            boxes_of({"boxes": torch.tensor([box]), "case": "a"}, "boxes")
