"""Resampling of volumes in their slicing frame to one in-plane spacing, and of predictions back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform, Resize

__all__ = ["PlaneSpacing", "PlaneSpacingd", "not_in_mm"]

# Codes of NIfTI for the unit of length, in the lowest three bits; 2 is mm, and 0 (unknown) counts as mm.
_OTHER_UNITS = {1: "metre", 3: "micron"}
# Smaller than the pixels of any scanner, and typical of a header in metres without a unit.
_SMALLEST = 1e-3


class PlaneSpacing(InvertibleTransform):
    """Resample a volume `(C, H, W, slices)` in plane, each slice separately.

    Sizes become `round(size * own / wanted)` and the edges stay in place, as in nnU-Net, so the spacing is reached up
    to that rounding. The affine is updated, and `inverse` resamples any number of channels to the original grid.

    Args:
        spacing: wanted spacing along H and W in mm; None does not resample.

    Raises:
        ValueError: if `spacing` is not two positive numbers, or, naming its file, if the spacing of a volume is not in
            mm.

    Example:
        >>> volume = MetaTensor(torch.rand(1, 12, 8, 3), affine=torch.diag(torch.tensor([1.25, 1.25, 3, 1])))
        >>> halved = PlaneSpacing((2.5, 2.5))(volume)
        >>> tuple(halved.shape), tuple(PlaneSpacing((2.5, 2.5)).spacing), halved.pixdim.tolist()
        ((1, 6, 4, 3), (2.5, 2.5), [2.5, 2.5, 3.0])
    """

    def __init__(self, spacing: Sequence[float] | None) -> None:
        if spacing is not None and (len(spacing) != 2 or not np.isfinite(spacing).all() or min(spacing) <= 0):
            raise ValueError(f"spacing must be two positive numbers of mm along (H, W), or None, got {spacing!r}")
        self.resize = Resize(spatial_size=-1, mode="trilinear")
        self.spacing = None if spacing is None else tuple(float(value) for value in spacing)

    def __call__(self, volume: torch.Tensor) -> torch.Tensor:
        """Resample one volume; without an affine its spacing counts as 1 mm.

        Args:
            volume: `(C, H, W, slices)`, floating point.

        Returns:
            `(C, H', W', slices)`.
        """
        if self.spacing is None:
            return volume
        if isinstance(volume, MetaTensor) and (trouble := not_in_mm(volume)):
            raise ValueError(f"{trouble}, so that it can be resampled to {self.spacing[0]:g} x {self.spacing[1]:g} mm")
        own = np.linalg.norm(np.asarray(volume.affine)[:3, :2], axis=0) if isinstance(volume, MetaTensor) else (1, 1)
        sizes = [
            max(1, round(size * have / want))
            for size, have, want in zip(volume.shape[1:3], own, self.spacing, strict=True)
        ]
        self.resize.spatial_size = (*sizes, int(volume.shape[3]))
        return self.resize(volume)

    def inverse(self, volume: torch.Tensor) -> torch.Tensor:
        """Resample a volume back to its original size."""
        return volume if self.spacing is None else self.resize.inverse(volume)


def not_in_mm(volume: MetaTensor) -> str | None:
    """Describe why the spacing of a volume is not in mm, naming its file; None if it is in mm.

    Example:
        >>> not_in_mm(MetaTensor(torch.rand(1, 8, 6, 4), meta={"xyzt_units": 3, "filename_or_obj": "a.nii"}))
        'a.nii: expected lengths in mm, got micron; scale its affine and set the unit in the header'
    """
    name = volume.meta.get("filename_or_obj", "the volume")
    unit = _OTHER_UNITS.get(int(volume.meta.get("xyzt_units", 0)) & 7)
    if unit is not None:
        return f"{name}: expected lengths in mm, got {unit}; scale its affine and set the unit in the header"
    spacing = np.linalg.norm(np.asarray(volume.affine)[:3, :2], axis=0)
    if spacing.min() < _SMALLEST:
        return (
            f"{name}: expected pixels of at least 0.001 mm, got {spacing[0]:.3g} x {spacing[1]:.3g}, perhaps in "
            "metres; scale its affine to mm"
        )
    return None


class PlaneSpacingd(MapTransform, InvertibleTransform):
    """Dictionary form of `PlaneSpacing`.

    Args:
        keys: floating-point volumes; resample a label map as one channel per class.
        spacing: wanted spacing along H and W in mm; None does not resample.
        allow_missing_keys: skip keys that an item does not have.

    Example:
        >>> transform = PlaneSpacingd("image", spacing=(0.5, 1.0))
        >>> item = transform({"image": MetaTensor(torch.rand(2, 8, 6, 4))})
        >>> tuple(item["image"].shape), tuple(transform.inverse(item)["image"].shape)
        ((2, 16, 6, 4), (2, 8, 6, 4))
    """

    def __init__(self, keys: KeysCollection, spacing: Sequence[float] | None, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.plane_spacing = PlaneSpacing(spacing)

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Resample the volumes of one item; see `PlaneSpacing.__call__`."""
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.plane_spacing(item[key])
        return item

    def inverse(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Resample the volumes of one item back; see `PlaneSpacing.inverse`."""
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.plane_spacing.inverse(item[key])
        return item
