"""Scaling and translation of an image in its frame, together with its boxes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from monai.transforms import RandomizableTransform

from monai_amat.checks import check_positive, check_within
from monai_amat.tasks.detection.transforms.boxes import boxes_of, image_of, move_boxes, visible_boxes
from monai_amat.tasks.detection.transforms.letterbox import GREY

__all__ = ["RandAffineBoxesd"]


class RandAffineBoxesd(RandomizableTransform):
    r"""Scale the image about its centre and shift it, by random amounts, in a frame of the same size.

    $$
    p' = s\,(p - c) + c + t, \qquad s \sim U(1 - scale, 1 + scale), \quad
    t_{x,y} \sim U(-translate, translate) \cdot (W, H).
    $$

    The defaults are those of YOLOv5. Boxes move exactly with the image, are cut at the edge, and are dropped with their
    labels if too little of them remains (`visible_boxes`). The mosaic of YOLOv5 is not used, because it joins four
    images and a margin belongs to one image.

    Args:
        scale: largest relative change of scale, in [0, 1).
        translate: largest shift relative to the frame, in [0, 1).
        prob: probability of the transform.
        min_visible: share of the area of a box that must stay in the frame.
        min_side: smallest width and height of a remaining box, in pixels.
        image_key: the image `(C, H, W)`.
        box_key: its boxes `(N, 4)`.
        label_key: their labels `(N,)`.
        fill: value of pixels from outside of the image.

    Raises:
        ValueError: if a setting is out of range.

    Example:
        >>> item = {
        ...     "image": torch.ones(3, 32, 32),
        ...     "boxes": torch.tensor([[8.0, 8.0, 24.0, 24.0]]),
        ...     "labels": torch.tensor([2]),
        ... }
        >>> moved = RandAffineBoxesd(prob=1.0).set_random_state(seed=0)(item)
        >>> tuple(moved["image"].shape), moved["boxes"].round(decimals=1), moved["labels"]
        ((3, 32, 32), tensor([[ 6.9000,  6.6000, 26.4000, 26.0000]]), tensor([2]))
    """

    def __init__(
        self,
        scale: float = 0.5,
        translate: float = 0.1,
        prob: float = 1.0,
        min_visible: float = 0.1,
        min_side: float = 2.0,
        image_key: str = "image",
        box_key: str = "boxes",
        label_key: str = "labels",
        fill: float = GREY,
    ) -> None:
        RandomizableTransform.__init__(self, prob)
        for name, value in (("scale", scale), ("translate", translate)):
            check_within(name, value, 0, 1, without=1)
        # Both positive, so that every box has an area.
        check_within("min_visible", min_visible, 0, 1, without=0)
        check_positive("min_side", min_side)
        self.scale = scale
        self.translate = translate
        self.min_visible = min_visible
        self.min_side = min_side
        self.image_key = image_key
        self.box_key = box_key
        self.label_key = label_key
        self.fill = fill
        self._gain = 1.0
        self._shift = (0.0, 0.0)

    def randomize(self, data: Any = None) -> None:
        """Draw scale and shift of one item."""
        super().randomize(data)
        if self._do_transform:
            self._gain = float(self.R.uniform(1 - self.scale, 1 + self.scale))
            x, y = self.R.uniform(-self.translate, self.translate, size=2)
            self._shift = float(x), float(y)

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Move image and boxes of the item, or return it unchanged."""
        item = dict(data)
        self.randomize()
        if not self._do_transform:
            return item
        image = image_of(item, self.image_key)
        height, width = image.shape[1:]
        item[self.image_key] = self._moved(image)
        x, y = ((1 - self._gain) / 2 + share for share in self._shift)
        gain, shift = (self._gain, self._gain), (x * width, y * height)
        moved = move_boxes(boxes_of(item, self.box_key), gain, shift)
        visible = visible_boxes(moved, (height, width), min_visible=self.min_visible, min_side=self.min_side)
        item[self.box_key] = visible.boxes
        item[self.label_key] = torch.as_tensor(item[self.label_key])[visible.kept]
        return item

    def _moved(self, image: torch.Tensor) -> torch.Tensor:
        # Source of each pixel, in coordinates from -1 to 1, from edge to edge.
        x, y = (-2 * share / self._gain for share in self._shift)
        theta = image.new_tensor([[1 / self._gain, 0.0, x], [0.0, 1 / self._gain, y]])
        grid = F.affine_grid(theta[None], [1, *image.shape], align_corners=False)
        # grid_sample fills with 0, so the fill value is shifted to 0.
        moved = F.grid_sample(image[None] - self.fill, grid, mode="bilinear", align_corners=False)[0] + self.fill
        # Rounding must not leave the range, because attacks refuse inputs outside of their range.
        return moved.clamp(min(float(image.min()), self.fill), max(float(image.max()), self.fill))
