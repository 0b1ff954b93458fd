"""Whether a volume that somebody wants segmented can be."""

from __future__ import annotations

import torch
from monai.data import MetaTensor

__all__ = ["check_volume", "check_voxels"]


def check_volume(image: torch.Tensor, *, channels: int) -> torch.Tensor:
    """Return a loaded volume as it is, once it is sure that a network can make something of it.

    Without it a volume of other channels fails somewhere inside the network, and one with a NaN comes back as
    background, since the z-score turns all of it to NaN.

    Args:
        image: ``(C, x, y, z)``; a MetaTensor knows the file it came from.
        channels: channels that the network takes.

    Raises:
        ValueError: naming the file, for another number of channels or dimensions, a voxel that is not finite, or a
            constant channel.

    Example:
        >>> tuple(check_volume(torch.rand(1, 8, 6, 4), channels=1).shape)
        (1, 8, 6, 4)
        >>> check_volume(torch.rand(2, 8, 6, 4), channels=1)
        Traceback (most recent call last):
            ...
        ValueError: the volume: expected 1 channel(s) of three dimensions, found (2, 8, 6, 4)
    """
    name = image.meta.get("filename_or_obj", "the volume") if isinstance(image, MetaTensor) else "the volume"
    if image.ndim != 4 or len(image) != channels:
        raise ValueError(f"{name}: expected {channels} channel(s) of three dimensions, found {tuple(image.shape)}")
    check_voxels(image, name)
    return image


def check_voxels(image: torch.Tensor, name: object) -> None:
    """Refuse voxels that a z-score makes nothing of.

    Args:
        image: ``(C, x, y, z)``.
        name: what an error calls it.

    Raises:
        ValueError: for a voxel that is not finite, or a constant channel.
    """
    bad = int((~torch.isfinite(image)).sum())
    if bad:
        raise ValueError(f"{name}: {bad} voxel(s) are NaN or infinite; every voxel must be finite.")
    for channel, voxels in enumerate(image):
        if voxels.amax() == voxels.amin():
            raise ValueError(
                f"{name}: channel {channel} is constant ({float(voxels.amax()):g}): there is no image in it."
            )
