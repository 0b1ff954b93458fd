"""Volumes in their slicing frame brought to one in-plane spacing, and predictions back from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform, Resize

__all__ = ["PlaneSpacing", "PlaneSpacingd", "not_in_mm"]

# NIfTI's codes of the unit of length, in the lowest three bits; 2 is mm, and 0, unknown, is taken for it.
_OTHER_UNITS = {1: "metre", 3: "micron"}
# No scanner's; as many mm are what a header in metres looks like that does not say so.
_SMALLEST = 1e-3


class PlaneSpacing(InvertibleTransform):
    """Resample a turned volume `(C, H, W, slices)` in plane, each slice for itself.

    Sizes become `round(size * own / wanted)` and the edges stay where they are, as in nnU-Net, so the spacing is met
    up to that rounding. The affine follows and `inverse` brings any number of channels back on the original grid.

    Args:
        spacing: wanted spacing along H and W in mm; None leaves every volume as it is.

    Raises:
        ValueError: for anything but two positive numbers; on a volume, naming its file, whose own spacing is not in mm.

    Example:
        >>> volume = MetaTensor(torch.rand(1, 12, 8, 3), affine=torch.diag(torch.tensor([1.25, 1.25, 3, 1])))
        >>> halved = PlaneSpacing((2.5, 2.5))(volume)
        >>> tuple(halved.shape), tuple(PlaneSpacing((2.5, 2.5)).spacing), halved.pixdim.tolist()
        ((1, 6, 4, 3), (2.5, 2.5), [2.5, 2.5, 3.0])
    """

    def __init__(self, spacing: Sequence[float] | None) -> None:
        if spacing is not None and (len(spacing) != 2 or not np.isfinite(spacing).all() or min(spacing) <= 0):
            raise ValueError(f"spacing must be two positive numbers of mm along (H, W), or None, found {spacing!r}.")
        self.resize = Resize(spatial_size=-1, mode="trilinear")
        self.spacing = None if spacing is None else tuple(float(value) for value in spacing)

    def __call__(self, volume: torch.Tensor) -> torch.Tensor:
        """Resample one volume; one without an affine counts as having 1 mm.

        Args:
            volume: `(C, H, W, slices)`, floating point.

        Returns:
            `(C, H', W', slices)`.
        """
        if self.spacing is None:
            return volume
        if isinstance(volume, MetaTensor) and (trouble := not_in_mm(volume)):
            raise ValueError(f"{trouble} It cannot be resampled to {self.spacing[0]:g} x {self.spacing[1]:g} mm.")
        own = np.linalg.norm(np.asarray(volume.affine)[:3, :2], axis=0) if isinstance(volume, MetaTensor) else (1, 1)
        sizes = [
            max(1, round(size * have / want))
            for size, have, want in zip(volume.shape[1:3], own, self.spacing, strict=True)
        ]
        self.resize.spatial_size = (*sizes, int(volume.shape[3]))
        return self.resize(volume)

    def inverse(self, volume: torch.Tensor) -> torch.Tensor:
        """Bring a resampled volume back to the size that it had."""
        return volume if self.spacing is None else self.resize.inverse(volume)


def not_in_mm(volume: MetaTensor) -> str | None:
    """Why a turned volume's spacing cannot be taken for mm, naming its file; None where it can.

    Example:
        >>> not_in_mm(MetaTensor(torch.rand(1, 8, 6, 4), meta={"xyzt_units": 3, "filename_or_obj": "a.nii"}))
        'a.nii: its header gives lengths in micron, not in mm; scale its affine and say so in the header.'
    """
    name = volume.meta.get("filename_or_obj", "the volume")
    unit = _OTHER_UNITS.get(int(volume.meta.get("xyzt_units", 0)) & 7)
    if unit is not None:
        return f"{name}: its header gives lengths in {unit}, not in mm; scale its affine and say so in the header."
    spacing = np.linalg.norm(np.asarray(volume.affine)[:3, :2], axis=0)
    if spacing.min() < _SMALLEST:
        return (
            f"{name}: pixels of {spacing[0]:.3g} x {spacing[1]:.3g} mm, less than a thousandth of a mm: are they in "
            "metres? Scale its affine to mm."
        )
    return None


class PlaneSpacingd(MapTransform, InvertibleTransform):
    """Dictionary form of `PlaneSpacing`.

    Args:
        keys: floating-point volumes; a label map is resampled a channel a class.
        spacing: wanted spacing along H and W in mm; None leaves every volume as it is.
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
        """Bring the volumes of one item back; see `PlaneSpacing.inverse`."""
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.plane_spacing.inverse(item[key])
        return item
