"""Whether a volume that somebody wants segmented can be, and whether a label lies where its image does."""

from __future__ import annotations

import warnings
import zlib
from pathlib import Path
from typing import Any, TypeVar

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import LoadImage
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, HeaderTypeError

__all__ = ["check_header", "check_volume", "check_voxels", "compare_grids", "load_volume"]

# nibabel and gzip report a broken file in as many ways as there are places to break it.
_BROKEN = (OSError, EOFError, zlib.error, ValueError)

PathLike = TypeVar("PathLike", str, Path)

# What differs by more is another grid, in degrees and as a share of a spacing; the rest is a scanner's rounding.
_SAME_ANGLE = 1.0
_SAME_SPACING = 1e-2
# Volume of the cell that an affine's axes span, brought to length 1: 1 for right angles, 0 for axes in one plane.
_FLAT = 1e-6


def check_volume(image: torch.Tensor, *, channels: int) -> torch.Tensor:
    """Return a loaded volume as it is, once it is sure that a network can make something of it.

    Without it a volume of other channels fails somewhere inside the network, and one with a NaN comes back as
    background, since the z-score turns all of it to NaN.

    Args:
        image: `(C, x, y, z)`; a MetaTensor knows the file it came from.
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
        image: `(C, x, y, z)`.
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


def check_header(path: PathLike) -> PathLike:
    """Return the path of a NIfTI volume as it is, once its header is one that something can be made of.

    Voxels are not read, so that a folder of volumes is looked through at once instead of while it is worked on.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: naming the file, when it is no NIfTI volume, holds colours or complex numbers, or its affine has no
            inverse.
    """
    try:
        volume = nib.load(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: no such file") from error
    except (*_BROKEN, ImageFileError, HeaderDataError, HeaderTypeError) as error:
        raise _unreadable(path, error) from error
    if not isinstance(volume, nib.Nifti1Image):  # Nifti2Image is one too
        raise ValueError(f"{path}: is no NIfTI volume, but {type(volume).__name__}; convert it.")
    kind = volume.get_data_dtype()
    if kind.names is not None or kind.kind == "c":
        what = "complex numbers" if kind.names is None else "colours"
        raise ValueError(f"{path}: holds {what}, not grey values; store each part as a channel, along a fourth axis.")
    axes = np.asarray(volume.affine, dtype=np.float64)[:3, :3]
    lengths = np.linalg.norm(axes, axis=0)
    if not (np.isfinite(axes).all() and lengths.min() > 0 and abs(np.linalg.det(axes / lengths)) > _FLAT):
        raise ValueError(f"{path}: its affine has no inverse: {np.round(axes, 6).tolist()}. Mend the header.")
    return path


def load_volume(path: Path) -> MetaTensor:
    """Read one NIfTI file as `(channels, x, y, z)` float32.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: naming the file, for what `check_header` refuses, voxels that cannot be read, or other
            dimensions.
    """
    check_header(path)
    try:
        volume = LoadImage(reader="NibabelReader", ensure_channel_first=True)(path)
    except (*_BROKEN, RuntimeError) as error:
        raise _unreadable(path, error) from error
    if volume.ndim != 4 or 0 in volume.shape:
        raise ValueError(f"{path}: expected a volume of three dimensions, channels aside, found {tuple(volume.shape)}.")
    return volume


def _unreadable(path: str | Path, error: BaseException) -> ValueError:
    reason = (str(error).splitlines() or [""])[0]  # MONAI's text quotes the traceback of every reader it tried
    return ValueError(
        f"{path}: cannot be read as NIfTI, corrupt or truncated ({type(error).__name__}: {reason}); fetch the file "
        "again."
    )


def compare_grids(image: Path, label: Path) -> None:
    """Refuse a label whose voxels lie in another order or at other distances than its image's.

    They are taken in pairs as the files hold them, so one of both would be learnt in the wrong place. Small differences
    and shifts, which headers have of rounding and of anonymising, are a warning.

    Raises:
        ValueError: naming both files and how they lie, where directions differ by more than 1 degree or spacings by
            more than 1 %.
    """
    # nibabel's reading, as viewers have it: MONAI's is another where a header has two matrices that disagree.
    own, other = (_affine(path) for path in (image, label))
    if np.allclose(own, other, atol=1e-2):
        return
    spacings = [np.linalg.norm(affine[:3, :3], axis=0) for affine in (own, other)]
    cosines = (own[:3, :3] / spacings[0] * other[:3, :3] / spacings[1]).sum(axis=0)
    angle = float(np.degrees(np.arccos(np.clip(cosines, -1, 1))).max())
    if angle > _SAME_ANGLE or not np.allclose(spacings[0], spacings[1], rtol=_SAME_SPACING, atol=0):
        raise ValueError(
            f"{label}: lies otherwise in space than its image {image}: axes {_described(other)} for the label, "
            f"{_described(own)} for the image, up to {angle:.1f} degrees apart; voxels are taken in pairs as the files "
            "hold them. Where both headers are right bring the label on the image's grid, with "
            "nibabel.processing.resample_from_to(label, (image.shape[:3], image.affine), order=0); where one is wrong "
            "give it the other's affine."
        )
    warnings.warn(f"{label}: its affine differs from that of {image.name}, which is used.", stacklevel=3)


def _affine(path: Path) -> np.ndarray:
    volume: Any = nib.load(path)
    return np.asarray(volume.affine, dtype=np.float64)


def _described(affine: np.ndarray) -> str:
    """Such as `RAS of 1 x 1 x 3 mm`."""
    codes: Any = nib.aff2axcodes(affine)
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    return f"{''.join(codes)} of {' x '.join(f'{mm:.4g}' for mm in lengths)} mm"
