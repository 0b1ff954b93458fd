"""Mirroring of an image, together with its boxes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from monai.transforms import RandomizableTransform

from monai_amat.tasks.detection.transforms.boxes import boxes_of, image_of, move_boxes

__all__ = ["RandFlipBoxesd"]


class RandFlipBoxesd(RandomizableTransform):
    """Mirror the image at random.

    `RandFlipBoxd` of MONAI expects boxes in the order of array axes (y before x); here x comes first.

    Args:
        along: `"x"` swaps left and right, `"y"` top and bottom.
        prob: probability of the transform.
        image_key: the image `(C, H, W)`.
        box_key: its boxes `(N, 4)`.

    Raises:
        ValueError: if `along` is another axis.

    Example:
        >>> import torch
        >>> item = {"image": torch.tensor([[[1.0, 2.0, 3.0]]]), "boxes": torch.tensor([[0.0, 0.0, 1.0, 1.0]])}
        >>> item = RandFlipBoxesd("x", prob=1.0)(item)
        >>> item["image"], item["boxes"]
        (tensor([[[3., 2., 1.]]]), tensor([[2., 0., 3., 1.]]))
    """

    def __init__(
        self, along: Literal["x", "y"], prob: float = 0.5, image_key: str = "image", box_key: str = "boxes"
    ) -> None:
        RandomizableTransform.__init__(self, prob)
        if along not in ("x", "y"):
            raise ValueError(f"along must be 'x' or 'y', got {along!r}")
        self.along = along
        self.image_key = image_key
        self.box_key = box_key

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Mirror image and boxes of the item, or return it unchanged."""
        item = dict(data)
        self.randomize(None)
        if not self._do_transform:
            return item
        image = image_of(item, self.image_key)
        height, width = image.shape[1:]
        if self.along == "x":
            gain, shift, axis = (-1.0, 1.0), (float(width), 0.0), 2
        else:
            gain, shift, axis = (1.0, -1.0), (0.0, float(height)), 1
        item[self.image_key] = image.flip(axis)
        item[self.box_key] = move_boxes(boxes_of(item, self.box_key), gain, shift)
        return item
