"""Conversion of points between native pixels and the pixels of an image after spatial transforms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

__all__ = ["LandmarksToImaged", "pixel_spacing", "points_to_image", "points_to_native"]


def points_to_native(points: torch.Tensor, affine: torch.Tensor) -> torch.Tensor:
    """Convert points in the pixels of an image, such as predictions of a network, to native pixels.

    Args:
        points: `(..., L, 2)`, (y, x), pixel centres at integers; NaN stays NaN.
        affine: affine of the image, `(3, 3)` or `(4, 4)`, or a batch of them `(..., 4, 4)`: image pixels to native.

    Returns:
        `(..., L, 2)`, with dtype and device of `points`.

    Raises:
        ValueError: if a shape is another, or the affine is not finite or not invertible.

    Example:
        >>> third = torch.tensor([[3.0, 0.0, 1.0], [0.0, 3.0, 1.0], [0.0, 0.0, 1.0]])
        >>> points_to_native(torch.tensor([[0.0, 10.0]]), third)
        tensor([[ 1., 31.]])
    """
    turn, shift = _planar(points, affine)
    return (points.double() @ turn.mT + shift).to(points.dtype)


def points_to_image(points: torch.Tensor, affine: torch.Tensor) -> torch.Tensor:
    """Convert points in native pixels to the pixels of an image, the inverse of `points_to_native`.

    Example:
        >>> third = torch.tensor([[3.0, 0.0, 1.0], [0.0, 3.0, 1.0], [0.0, 0.0, 1.0]])
        >>> points_to_image(torch.tensor([[1.0, 31.0]]), third)
        tensor([[ 0., 10.]])
    """
    turn, shift = _planar(points, affine)
    return ((points.double() - shift) @ torch.linalg.inv(turn).mT).to(points.dtype)


def pixel_spacing(spacing: torch.Tensor, affine: torch.Tensor) -> torch.Tensor:
    """Compute the size in mm of the pixels of an image along its axes.

    Distances between points are exact if the axes are at right angles in mm, which holds except after shearing or after
    rotation of unequally scaled axes.

    Args:
        spacing: `(..., 2)`, mm per native pixel, (y, x).
        affine: affine of the image, `(3, 3)` or `(4, 4)`, or a batch of them `(..., 4, 4)`: image pixels to native.

    Returns:
        `(..., 2)`, mm per pixel of the image, (y, x).

    Raises:
        ValueError: if a shape is another, or the affine is not finite or not invertible.

    Example:
        >>> pixel_spacing(torch.tensor([0.1, 0.1]), torch.diag(torch.tensor([12.0, 12.0, 1.0])))
        tensor([1.2000, 1.2000])
    """
    turn, _ = _planar(spacing, affine)
    return torch.linalg.norm(spacing.double().unsqueeze(-1) * turn, dim=-2).to(spacing.dtype)


class LandmarksToImaged(MapTransform):
    """Move landmarks to the pixels of the transformed image: the last geometric step of a pipeline.

    Landmarks stay in native pixels while the spatial transforms of MONAI (`Resized`, `RandFlipd`, `RandRotated`,
    `RandZoomd`, `RandAffined`, padding, crops; also lazy ones) move the image and record it in the affine. This
    transform applies all of them at once. A landmark that is missing, or has left the image, becomes NaN. Transforms
    that are not affine (elastic deformation, grid distortion) do not change the affine, so landmarks would stay behind.

    Reduce images with `Resized(mode="area")`, which averages all pixels that become one; for a random zoom that
    enlarges set `mode="bilinear"` (with its default, area, the image is displaced by up to 0.06 pixels). With
    `"nearest"` the image is displaced by half a pixel from its affine.

    Args:
        keys: landmarks `(L, 2)`, (y, x), in native pixels, pixel centres at integers.
        reference_key: the image `(C, H, W)` whose affine maps its pixels to native ones.
        spacing_key: the spacing `(2,)` in mm per native pixel, which becomes mm per pixel of the image (see
            `pixel_spacing`); None if there is no spacing.
        allow_missing_keys: skip landmarks that an item does not have; the spacing is converted in any case.

    Raises:
        KeyError: if an item has no image, landmarks or spacing.
        TypeError: if the image has no metadata.
        ValueError: if landmarks or spacing have another shape.

    Example:
        >>> from monai.transforms import Compose, Resized
        >>> item = {
        ...     "image": MetaTensor(torch.zeros(1, 2400, 1935)),
        ...     "landmarks": torch.tensor([[5.5, 964.0], [float("nan"), float("nan")]]),
        ...     "spacing": torch.tensor([0.1, 0.1]),
        ... }
        >>> moved = Compose([Resized("image", (200, 129), mode="area"), LandmarksToImaged("landmarks")])(item)
        >>> moved["landmarks"], moved["spacing"]
        (tensor([[ 0.0000, 63.8000],
                [    nan,     nan]]), tensor([1.2000, 1.5000]))
    """

    def __init__(
        self,
        keys: KeysCollection = "landmarks",
        reference_key: str = "image",
        spacing_key: str | None = "spacing",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.reference_key = reference_key
        self.spacing_key = spacing_key

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Return the item with its landmarks in the pixels of its image."""
        item = dict(data)
        affine, size = self._frame(item)
        for key in self.key_iterator(item):
            points = _plain(item[key])
            if points.ndim != 2 or points.shape[-1] != 2:
                raise ValueError(f"'{key}' must be landmarks (L, 2), (y, x), got shape {tuple(points.shape)}")
            moved = points_to_image(points, affine)
            # The outermost pixels reach half a pixel beyond their centres; NaN is not inside.
            inside = ((moved >= -0.5) & (moved <= size - 0.5)).all(dim=-1, keepdim=True)
            item[key] = torch.where(inside, moved, torch.nan)
        if self.spacing_key is not None:
            if self.spacing_key not in item:
                raise KeyError(
                    f"LandmarksToImaged needs '{self.spacing_key}', got an item with {sorted(map(str, item))}; set "
                    "spacing_key=None if there is no spacing"
                )
            spacing = _plain(item[self.spacing_key])
            if spacing.shape != (2,):
                raise ValueError(
                    f"'{self.spacing_key}' must be (2,), mm per native pixel, got shape {tuple(spacing.shape)}"
                )
            item[self.spacing_key] = pixel_spacing(spacing, affine)
        return item

    def _frame(self, item: Mapping[Any, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Affine and size `(2,)` of the image."""
        if self.reference_key not in item:
            raise KeyError(f"LandmarksToImaged needs '{self.reference_key}', got an item with {sorted(map(str, item))}")
        image = item[self.reference_key]
        if not isinstance(image, MetaTensor):
            raise TypeError(
                f"'{self.reference_key}' must be a MetaTensor, whose affine records how it was moved, got "
                f"{type(image).__name__}; load it with LoadCephalogramd and keep monai.data.set_track_meta(True)"
            )
        # Pending operations of lazy transforms count as done.
        return image.peek_pending_affine(), torch.as_tensor([int(n) for n in image.peek_pending_shape()[-2:]])


def _plain(value: Any) -> torch.Tensor:
    """A floating-point tensor without metadata."""
    tensor = torch.as_tensor(value).as_subclass(torch.Tensor)
    return tensor if tensor.is_floating_point() else tensor.float()


def _planar(points: torch.Tensor, affine: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """In-plane part of an affine, float64: `(..., 2, 2)` and `(..., 1, 2)`."""
    matrix = torch.as_tensor(affine).as_subclass(torch.Tensor).to(points.device, torch.float64)
    if matrix.ndim < 2 or matrix.shape[-2:] not in ((3, 3), (4, 4)):
        raise ValueError(f"affine must be (3, 3) or (4, 4), or a batch of these, got shape {tuple(matrix.shape)}")
    if points.shape[-1:] != (2,):
        raise ValueError(f"points must be (..., L, 2), (y, x), got shape {tuple(points.shape)}")
    turn, shift = matrix[..., :2, :2], matrix[..., :2, -1].unsqueeze(-2)
    if not (bool(torch.isfinite(matrix).all()) and bool((torch.linalg.det(turn) != 0).all())):
        raise ValueError(f"affine must be finite and invertible, got {matrix.tolist()}")
    return turn, shift
