"""The slicing frame of a volume: the axis of largest spacing last, the two in-plane axes in (y, x) order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data import MetaTensor, get_track_meta
from monai.transforms import InvertibleTransform, MapTransform
from monai.utils import TraceKeys, convert_to_tensor

__all__ = ["SlicePlane", "SlicePlaned", "slice_axis"]

# Spacings that differ by a smaller share are equal: affines are rounded, and rotated ones have column norms such as
# 0.9999999, which must not determine the plane.
_SAME_SPACING = 1e-3


def slice_axis(affine: NdarrayOrTensor) -> int:
    """Find the array axis along which a volume is cut into 2-D slices.

    nnU-Net cuts along the axis of largest spacing; among equals along the first in its order (z, y, x), which is the
    last in the order (x, y, z) of NIfTI.

    Args:
        affine: voxel-to-world matrix `(4, 4)`, in mm.

    Returns:
        0, 1 or 2.

    Raises:
        ValueError: if the matrix is not finite and `(4, 4)`, with a positive spacing along each axis.

    Example:
        >>> slice_axis(np.diag([1.0, 1.0, 1.0, 1.0])), slice_axis(np.diag([3.0, 0.6, 0.6, 1.0]))
        (2, 0)
    """
    matrix = np.asarray(affine, dtype=np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise ValueError(f"affine must be a finite 4x4 matrix, got {matrix.tolist()}")
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    if spacing.min() <= 0:
        raise ValueError(f"affine must have a positive spacing along each axis, got {spacing.tolist()} mm")
    return int(np.flatnonzero(spacing >= spacing.max() * (1 - _SAME_SPACING))[-1])


class SlicePlane(InvertibleTransform):
    """Permute the axes of a volume to its slicing frame: `(C, x, y, z)` to `(C, H, W, slices)`.

    The axis of `slice_axis` becomes the last, and the other two are exchanged, so that H is y and W is x, as in
    nnU-Net; nothing is flipped or resampled. The affine is updated, so that every voxel keeps its place in space, and
    `inverse` restores the original order. The affine of a plain tensor is the identity.

    Example:
        >>> volume = MetaTensor(torch.rand(1, 35, 51, 40), affine=torch.eye(4))
        >>> turned = SlicePlane()(volume)
        >>> tuple(turned.shape), tuple(SlicePlane()(turned).shape)
        ((1, 51, 35, 40), (1, 35, 51, 40))
    """

    def __call__(self, volume: torch.Tensor, axis: int | None = None) -> torch.Tensor:
        """Permute one volume.

        Args:
            volume: `(C, x, y, z)`.
            axis: the slicing axis, if another volume determines it (the image, for its label).

        Returns:
            `(C, H, W, slices)`, a view of the memory of the input.

        Raises:
            ValueError: if the input is not a channel-first volume of three dimensions.
        """
        volume = convert_to_tensor(volume, track_meta=get_track_meta())
        if volume.ndim != 4:
            raise ValueError(f"expected a channel-first volume (C, x, y, z), got shape {tuple(volume.shape)}")
        if axis is None:
            axis = _axis_of(volume)
        order = [i for i in (2, 1, 0) if i != axis] + [axis]
        turned = _permute(volume, order)
        if isinstance(turned, MetaTensor):
            self.push_transform(
                turned, affine=_permutation(order), orig_size=tuple(volume.shape[1:]), extra_info={"order": order}
            )
        return turned

    def inverse(self, volume: torch.Tensor) -> torch.Tensor:
        """Permute a volume `(C, H, W, slices)` back to `(C, x, y, z)`, affine included."""
        order = self.pop_transform(volume)[TraceKeys.EXTRA_INFO]["order"]
        back = np.argsort(order).tolist()
        restored = _permute(volume, back)
        if isinstance(restored, MetaTensor):
            restored.affine = restored.affine @ torch.as_tensor(_permutation(back), dtype=restored.affine.dtype)
        return restored


class SlicePlaned(MapTransform, InvertibleTransform):
    """Dictionary form of `SlicePlane`: the affine of the first key determines the permutation of all keys.

    Training and inference both use it, and `Invertd` permutes a prediction back to the original grid.

    Args:
        keys: volumes of one item, the image first.
        allow_missing_keys: skip keys that an item does not have.

    Example:
        >>> item = {"image": MetaTensor(torch.rand(2, 8, 6, 4), affine=torch.diag(torch.tensor([1.0, 1, 3, 1])))}
        >>> transform = SlicePlaned("image")
        >>> turned = transform(item)
        >>> tuple(turned["image"].shape), tuple(transform.inverse(turned)["image"].shape)
        ((2, 6, 8, 4), (2, 8, 6, 4))
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.slice_plane = SlicePlane()

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Permute the volumes of one item; see `SlicePlane.__call__`."""
        item = dict(data)
        axis = None
        for key in self.key_iterator(item):
            axis = _axis_of(item[key]) if axis is None else axis
            item[key] = self.slice_plane(item[key], axis)
        return item

    def inverse(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Permute the volumes of one item back; see `SlicePlane.inverse`."""
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.slice_plane.inverse(item[key])
        return item


def _axis_of(volume: torch.Tensor) -> int:
    return slice_axis(volume.affine) if isinstance(volume, MetaTensor) else 2


def _permute(volume: torch.Tensor, order: list[int]) -> torch.Tensor:
    """Reorder the spatial axes of `(C, ...)`: axis `i` of the result is axis `order[i]` of the input."""
    return volume.permute(0, *(i + 1 for i in order))


def _permutation(order: list[int]) -> np.ndarray:
    """Matrix `(4, 4)` from voxel indices after `_permute` to indices before it."""
    return np.eye(4)[:, [*order, 3]]
