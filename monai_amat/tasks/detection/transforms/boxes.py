"""Boxes that move with their image: checked, moved by an affine map, cut at the edge, and dropped by rule.

The box transforms of MONAI take the first coordinate of a box along the first axis of the image. Detectors and Pascal
VOC have x first, which is the last axis of an image `(C, H, W)`, so `RandFlipBoxd`, `RandZoomBoxd` and similar
transforms would move such boxes along the wrong axis. The functions here use those of MONAI for boxes alone, with sizes
and matrices in the order (x, y).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from monai.apps.detection.transforms.box_ops import apply_affine_to_boxes
from monai.data.box_utils import box_area, clip_boxes_to_image
from torch import Tensor

from monai_amat.wording import some

__all__ = ["Visible", "boxes_of", "case_of", "image_of", "move_boxes", "visible_boxes"]


class Visible(NamedTuple):
    """Boxes that remain in a frame.

    Args:
        boxes: `(M, 4)`, cut at the edge.
        kept: `(N,)` bool, True for the boxes that remain.
    """

    boxes: Tensor
    kept: Tensor


def move_boxes(boxes: Tensor, gain: tuple[float, float], shift: tuple[float, float]) -> Tensor:
    """Scale boxes, then shift them; a negative gain mirrors.

    Args:
        boxes: `(N, 4)`, x1 y1 x2 y2.
        gain: along x and y.
        shift: along x and y, in pixels after scaling.

    Returns:
        `(N, 4)` float32, corners in order.

    Example:
        >>> move_boxes(torch.tensor([[1.0, 2.0, 3.0, 6.0]]), (-1.0, 0.5), (10.0, 0.0))
        tensor([[7., 1., 9., 3.]])
    """
    matrix = torch.tensor([[gain[0], 0.0, shift[0]], [0.0, gain[1], shift[1]], [0.0, 0.0, 1.0]])
    moved: Tensor = apply_affine_to_boxes(boxes, matrix)
    return moved


def visible_boxes(boxes: Tensor, size: tuple[int, int], *, min_visible: float = 0.1, min_side: float = 2.0) -> Visible:
    """Cut boxes at the edge of a frame and drop those with too little area left.

    A box is kept if at least a share `min_visible` of its area lies in the frame and, after cutting, it is at least
    `min_side` pixels wide and high.

    Args:
        boxes: `(N, 4)`, x1 y1 x2 y2 in pixels of the frame; they may lie outside of it.
        size: `(H, W)` of the frame.
        min_visible: see above.
        min_side: see above.

    Example:
        >>> boxes = torch.tensor([[-5.0, 0.0, 5.0, 8.0], [-19.0, 0.0, 1.0, 8.0]])
        >>> visible_boxes(boxes, (20, 20))
        Visible(boxes=tensor([[0., 0., 5., 8.]]), kept=tensor([ True, False]))
    """
    clipped = torch.as_tensor(clip_boxes_to_image(boxes, size[::-1], remove_empty=False)[0])
    sides = clipped[:, 2:] - clipped[:, :2]
    share = torch.as_tensor(box_area(clipped)) / torch.as_tensor(box_area(boxes))
    kept = (share >= min_visible) & (sides >= min_side).all(dim=1)
    return Visible(clipped[kept], kept)


def boxes_of(item: Mapping[Any, Any], key: str) -> Tensor:
    """Return the boxes of an item as a plain float32 tensor `(N, 4)`.

    Raises:
        ValueError: naming key and case, if the shape is another, or a box is not finite or has no area.
    """
    boxes = torch.as_tensor(item[key]).as_subclass(Tensor).float()
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"'{key}' of {case_of(item)} must be boxes (N, 4), got shape {tuple(boxes.shape)}")
    # NaN fails the comparison as well.
    wrong = boxes[~((boxes[:, 2:] > boxes[:, :2]).all(dim=1) & boxes.isfinite().all(dim=1))]
    if len(wrong):
        raise ValueError(
            f"'{key}' of {case_of(item)} must be x1 y1 x2 y2 with x1 < x2 and y1 < y2, got {len(wrong)} of "
            f"{len(boxes)} "
            f"that are not: {some(wrong.tolist())}"
        )
    return boxes


def image_of(item: Mapping[Any, Any], key: str) -> Tensor:
    """Return the image of an item as a plain float32 tensor `(C, H, W)`.

    Raises:
        ValueError: naming key and case, if the shape is another.
    """
    image = torch.as_tensor(item[key]).as_subclass(Tensor).float()
    if image.ndim != 3 or 0 in image.shape:
        raise ValueError(f"'{key}' of {case_of(item)} must be an image (C, H, W), got shape {tuple(image.shape)}")
    return image


def case_of(item: Mapping[Any, Any]) -> str:
    """Name of an item in messages."""
    return f"case {item['case']!r}" if "case" in item else "an item"
