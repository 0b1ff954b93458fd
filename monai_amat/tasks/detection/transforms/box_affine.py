"""Scaling and translation of an image in its frame, boxes along with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from monai.transforms import RandomizableTransform

from monai_amat.tasks.detection.transforms.boxes import boxes_of, image_of, move_boxes, visible_boxes
from monai_amat.tasks.detection.transforms.letterbox import GREY

__all__ = ["RandAffineBoxesd"]


class RandAffineBoxesd(RandomizableTransform):
    r"""Scale the image about its centre and shift it, by random amounts, in a frame of the same size.

    .. math:: p' = s\,(p - c) + c + t, \qquad s \sim U(1 - scale, 1 + scale), \quad
        t_{x,y} \sim U(-translate, translate) \cdot (W, H).

    The defaults are YOLOv5's. Boxes follow exactly, are cut at the edge, and are dropped with their labels where too
    little is left, see `visible_boxes`. Mosaic, which YOLOv5 adds, would put four
    images into one: a margin belongs to an image.

    Args:
        scale: largest change of scale, from 0 to below 1.
        translate: largest shift, as a share of the frame, from 0 to below 1.
        prob: how often.
        min_visible: share of a box's area that must stay in the frame.
        min_side: width and height in pixels that must be left of a box.
        image_key: the image `(C, H, W)`.
        box_key: its boxes `(N, 4)`.
        label_key: their labels `(N,)`.
        fill: what comes in from outside.

    Raises:
        ValueError: for a setting out of range.

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
            if not 0 <= value < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, found {value}.")
        if not 0 < min_visible <= 1 or not min_side > 0:
            raise ValueError(
                f"a box without area cannot stay: min_visible must be in (0, 1] and min_side above 0, found "
                f"min_visible={min_visible}, min_side={min_side}."
            )
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
        """Draw scale and shift."""
        super().randomize(data)
        if self._do_transform:
            self._gain = float(self.R.uniform(1 - self.scale, 1 + self.scale))
            x, y = self.R.uniform(-self.translate, self.translate, size=2)
            self._shift = float(x), float(y)

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """The item, moved or not."""
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
        # Where each pixel comes from, in coordinates from -1 to 1 from edge to edge.
        x, y = (-2 * share / self._gain for share in self._shift)
        theta = image.new_tensor([[1 / self._gain, 0.0, x], [0.0, 1 / self._gain, y]])
        grid = F.affine_grid(theta[None], [1, *image.shape], align_corners=False)
        # What is outside counts as 0, so fill is made 0 on the way.
        moved = F.grid_sample(image[None] - self.fill, grid, mode="bilinear", align_corners=False)[0] + self.fill
        # Rounding must not leave the range: attacks refuse inputs outside of theirs.
        return moved.clamp(min(float(image.min()), self.fill), max(float(image.max()), self.fill))
