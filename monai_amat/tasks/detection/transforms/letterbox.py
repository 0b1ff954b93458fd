"""Images of any shape in a frame of one size, without distortion, together with their boxes; and the inverse."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from monai.transforms import Transform
from torch import Tensor

from monai_amat.tasks.detection.transforms.boxes import boxes_of, image_of, move_boxes

__all__ = ["GREY", "Letterboxd", "boxes_to_native"]

GREY = 114 / 255
"""Fill value of the frames of YOLO."""


class Letterboxd(Transform):
    r"""Scale the image to fit the frame, centre it, and fill the rest with grey.

    Both axes have the same gain, which is applied exactly, even if the result is not a whole number of pixels, so that
    boxes and image agree:

    $$
    x' = gain \cdot x + pad_{left}, \qquad y' = gain \cdot y + pad_{top}.
    $$

    Images are shrunk with anti-aliasing.

    Args:
        size: `(H, W)` of the frame.
        image_key: the image `(C, H, W)`.
        box_key: its boxes `(N, 4)`; an item may have none, as at inference.
        letterbox_key: key of the output `(3,)` float32: gain, left and top padding; see `boxes_to_native`.
        size_key: key of the output `(2,)` int64: size `(H, W)` of the image before.
        fill: value of the padding.

    Raises:
        ValueError: if the frame has no pixels, or an image is so narrow that no pixel of it would remain.

    Example:
        >>> item = {"image": torch.ones(3, 480, 640), "boxes": torch.tensor([[0.0, 0.0, 640.0, 240.0]])}
        >>> item = Letterboxd(size=(320, 320))(item)
        >>> tuple(item["image"].shape), item["letterbox"], item["boxes"]
        ((3, 320, 320), tensor([ 0.5000,  0.0000, 40.0000]), tensor([[  0.,  40., 320., 160.]]))
    """

    def __init__(
        self,
        size: Sequence[int],
        image_key: str = "image",
        box_key: str = "boxes",
        letterbox_key: str = "letterbox",
        size_key: str = "native_size",
        fill: float = GREY,
    ) -> None:
        self.size = tuple(int(n) for n in size)
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"size must be (H, W) of a frame with pixels, got {tuple(size)}")
        self.image_key = image_key
        self.box_key = box_key
        self.letterbox_key = letterbox_key
        self.size_key = size_key
        self.fill = fill

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Return the item with image and boxes in the frame."""
        item = dict(data)
        image = image_of(item, self.image_key)
        native = image.shape[1:]
        gain = min(frame / side for frame, side in zip(self.size, native, strict=True))
        # Slightly more, so that 479.99999 pixels are not rounded down to 479.
        height, width = (math.floor(side * gain * (1 + 1e-9)) for side in native)
        if min(height, width) < 1:
            raise ValueError(
                f"'{self.image_key}' must keep at least one pixel along each axis in a frame of "
                f"{self.size[0]}x{self.size[1]}, got {native[0]}x{native[1]} pixels; use a larger frame"
            )
        scaled = _scaled(image, gain, (height, width))
        top, left = ((frame - side) // 2 for frame, side in zip(self.size, (height, width), strict=True))
        framed = image.new_full((len(image), *self.size), self.fill)
        framed[:, top : top + height, left : left + width] = scaled
        item[self.image_key] = framed
        item[self.letterbox_key] = torch.tensor([gain, left, top], dtype=torch.float32)
        item[self.size_key] = torch.tensor(native, dtype=torch.int64)
        if self.box_key in item:
            item[self.box_key] = move_boxes(boxes_of(item, self.box_key), (gain, gain), (left, top))
        return item


def boxes_to_native(boxes: Tensor, letterbox: Tensor, native_size: Tensor | Sequence[int] | None = None) -> Tensor:
    """Invert `Letterboxd`: convert boxes in the frame, such as detections of a network, to native pixels.

    Args:
        boxes: `(N, 4 or more)`, x1 y1 x2 y2 first; further columns (score, class) are kept.
        letterbox: gain, left and top padding `(3,)`.
        native_size: `(H, W)` of the image, to cut boxes at its edge; None does not cut.

    Returns:
        `(N, 4 or more)`.

    Raises:
        ValueError: if a shape is another.

    Example:
        >>> found = torch.tensor([[10.0, 30.0, 110.0, 90.0, 0.9, 2.0]])
        >>> boxes_to_native(found, torch.tensor([0.5, 0.0, 40.0]), (480, 640)).tolist()[0][:4]
        [20.0, 0.0, 220.0, 100.0]
    """
    if boxes.ndim != 2 or boxes.shape[1] < 4 or letterbox.shape != (3,):
        raise ValueError(
            f"expected boxes (N, 4 or more) and a letterbox (3,), got {tuple(boxes.shape)} and {tuple(letterbox.shape)}"
        )
    gain, left, top = (float(number) for number in letterbox)
    corners = (boxes[:, :4] - boxes.new_tensor([left, top, left, top])) / gain
    if native_size is not None:
        height, width = (int(side) for side in native_size)
        limits = boxes.new_tensor([width, height, width, height])
        corners = torch.minimum(corners.clamp(min=0), limits)
    return torch.cat([corners, boxes[:, 4:]], dim=1)


def _scaled(image: Tensor, gain: float, size: tuple[int, int]) -> Tensor:
    """Scale the image by `gain`, up to the last whole pixel: `(C, *size)`."""
    if gain < 1:
        factor = gain * (1 + 1e-9)
        scaled = F.interpolate(
            image[None], scale_factor=(factor, factor), mode="bilinear", antialias=True, recompute_scale_factor=False
        )[0]
    else:
        # F.interpolate does not scale an axis that keeps its number of pixels, even if it should grow by half a pixel.
        y, x = (after / (gain * before) for after, before in zip(size, image.shape[1:], strict=True))
        theta = image.new_tensor([[x, 0.0, x - 1], [0.0, y, y - 1]])
        grid = F.affine_grid(theta[None], [1, len(image), *size], align_corners=False)
        scaled = F.grid_sample(image[None], grid, mode="bilinear", padding_mode="border", align_corners=False)[0]
    # Rounding must not leave the range, because attacks refuse inputs outside of their range.
    return scaled.clamp(float(image.min()), float(image.max()))
