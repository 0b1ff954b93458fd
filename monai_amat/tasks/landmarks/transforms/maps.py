"""Heat maps and offset maps of landmarks, the training targets of a multi-task landmark network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from torch import Tensor

from monai_amat.checks import check_positive

__all__ = ["LandmarkMapsd", "landmark_maps"]


def landmark_maps(landmarks: Tensor, size: Sequence[int], radius: float) -> Tensor:
    r"""Compute a heat map and an offset map along each axis per landmark, with sub-pixel precision.

    Let d be the distance from the centre of a pixel to the landmark. Inside the disc $d < R$

    $$
    \text{heat} = \exp(-d^2 / 2R^2), \qquad \text{offset} = (\text{landmark} - \text{pixel}) / R ,
    $$

    so that every pixel of the disc gives the landmark as pixel + offset·R. Outside of the disc all maps are 0; a
    landmark that is missing (NaN) or outside of the image has maps of zeros. The disc of a landmark inside the image is
    never empty, because the nearest pixel is at most half a pixel away along each axis.

    Args:
        landmarks: `(L, D)` in pixels, one coordinate for each of the image's D axes in their order (y, x in 2-D),
            pixel centres at integers; NaN where a landmark is missing.
        size: the D sizes of the image, in pixels.
        radius: R in pixels, at least 1.

    Returns:
        `((1 + D)·L, *size)` float32, on the device of `landmarks`: L heat maps, then L offset maps along the first
        axis, L along the second, and so on.

    Raises:
        ValueError: if the landmarks have another shape, or the radius is below 1.

    Example:
        >>> maps = landmark_maps(torch.tensor([[1.0, 2.5]]), size=(3, 4), radius=2.0)
        >>> maps.shape
        torch.Size([3, 3, 4])
        >>> row, column = 0, 3
        >>> row + 2.0 * maps[1, row, column].item(), column + 2.0 * maps[2, row, column].item()
        (1.0, 2.5)
    """
    axes = len(size)
    if landmarks.ndim != 2 or landmarks.shape[1] != axes:
        raise ValueError(
            f"landmarks must be (L, {axes}) for an image of size {tuple(size)}, got shape {tuple(landmarks.shape)}"
        )
    if not (math.isfinite(radius) and radius >= 1):
        raise ValueError(
            f"radius must be at least 1 pixel, got {radius:g}, because a smaller disc may hold no pixel; use larger "
            "images or a larger radius"
        )
    # float64 until the last step, so that only the float32 result is rounded.
    points = landmarks.as_subclass(Tensor).double()
    extent = torch.tensor([float(pixels) for pixels in size], dtype=torch.float64, device=points.device)
    # The outermost pixels reach half a pixel beyond their centres; NaN is not inside.
    inside = ((points >= -0.5) & (points <= extent - 0.5)).all(dim=1)
    gaps = []
    for axis, pixels in enumerate(size):
        gap = points[:, axis, None] - torch.arange(pixels, dtype=torch.float64, device=points.device)
        gaps.append(gap.view(-1, *(pixels if other == axis else 1 for other in range(axes))))
    squared = reduce(torch.add, [gap.square() for gap in gaps])
    disc = (squared < radius**2) & inside.view(-1, *(1,) * axes)
    fields = (torch.exp(squared.float() / (-2 * radius**2)), *((gap / radius).float() for gap in gaps))
    return torch.cat([torch.where(disc, field, 0.0) for field in fields])


class LandmarkMapsd(MapTransform):
    """Make the maps of the landmarks of an item (`landmark_maps`), at the present size of its image.

    Place it after all spatial transforms and after `LandmarksToImaged`, which moves the landmarks.

    Args:
        keys: landmarks `(L, D)` in pixels of the image; one key.
        reference_key: the image `(C, *spatial)` with D spatial axes.
        output_key: key of the maps.
        relative_radius: R relative to the first spatial size of the image, its height; 0.05 in the paper (10 pixels of
            200). Metrics need the same value.
        allow_missing_keys: return an item without landmarks unchanged.

    Raises:
        KeyError: if an item has no image or landmarks.
        ValueError: if there is more than one key, `relative_radius` is not greater than 0, landmarks have another
            shape, or an image is so small that R is below 1 pixel.

    Example:
        >>> item = {"image": torch.zeros(3, 200, 160), "landmarks": torch.tensor([[20.5, 30.0], [99.0, 140.0]])}
        >>> LandmarkMapsd("landmarks")(item)["maps"].shape
        torch.Size([6, 200, 160])
    """

    def __init__(
        self,
        keys: KeysCollection = "landmarks",
        reference_key: str = "image",
        output_key: str = "maps",
        *,
        relative_radius: float = 0.05,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if len(self.keys) != 1:
            raise ValueError(f"LandmarkMapsd needs exactly one key, got {self.keys}")
        check_positive("relative_radius", relative_radius)
        self.reference_key = reference_key
        self.output_key = output_key
        self.relative_radius = relative_radius

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Return the item with its maps `((1 + D)·L, *spatial)`, float32."""
        item = dict(data)
        for key in self.key_iterator(item):
            if self.reference_key not in item:
                raise KeyError(
                    f"LandmarkMapsd needs '{self.reference_key}' for the size of the maps, got an item with "
                    f"{sorted(map(str, item))}"
                )
            size = tuple(item[self.reference_key].shape[1:])
            radius = self.relative_radius * size[0]
            try:
                item[self.output_key] = landmark_maps(torch.as_tensor(item[key]), size, radius)
            except ValueError as error:
                raise ValueError(f"'{key}' with '{self.reference_key}' of size {size}: {error}") from error
        return item
