"""Reading and checking volumes: headers, voxels, and whether image and label share a grid."""

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

# nibabel and gzip report a broken file by different exceptions.
_BROKEN = (OSError, EOFError, zlib.error, ValueError)

PathLike = TypeVar("PathLike", str, Path)

# Largest differences, in degrees and relative to a spacing, that are rounding; larger ones are another grid.
_SAME_ANGLE = 1.0
_SAME_SPACING = 1e-2
# Volume of the cell spanned by the normalised axes of an affine: 1 for right angles, 0 for axes in one plane.
_FLAT = 1e-6


def check_volume(image: torch.Tensor, *, channels: int) -> torch.Tensor:
    """Check a loaded volume before inference, and return it unchanged.

    Without this check, a volume with another number of channels fails inside the network, and a volume with a NaN is
    segmented as background, because the z-score turns all its voxels to NaN.

    Args:
        image: `(C, x, y, z)`; messages name the file if it is a MetaTensor.
        channels: number of input channels of the network.

    Raises:
        ValueError: naming the file, if the number of channels or dimensions is another, a voxel is not finite, or a
            channel is constant.

    Example:
        >>> tuple(check_volume(torch.rand(1, 8, 6, 4), channels=1).shape)
        (1, 8, 6, 4)
        >>> check_volume(torch.rand(2, 8, 6, 4), channels=1)
        Traceback (most recent call last):
            ...
        ValueError: the volume: expected 1 channel(s) of three dimensions, got (2, 8, 6, 4)
    """
    name = image.meta.get("filename_or_obj", "the volume") if isinstance(image, MetaTensor) else "the volume"
    if image.ndim != 4 or len(image) != channels:
        raise ValueError(f"{name}: expected {channels} channel(s) of three dimensions, got {tuple(image.shape)}")
    check_voxels(image, name)
    return image


def check_voxels(image: torch.Tensor, name: object) -> None:
    """Refuse voxels that cannot be z-scored.

    Args:
        image: `(C, x, y, z)`.
        name: name of the volume in messages.

    Raises:
        ValueError: if a voxel is not finite, or a channel is constant.
    """
    bad = int((~torch.isfinite(image)).sum())
    if bad:
        raise ValueError(f"{name}: every voxel must be finite, got {bad} that are NaN or infinite; replace them")
    for channel, voxels in enumerate(image):
        if voxels.amax() == voxels.amin():
            raise ValueError(
                f"{name}: channel {channel} must not be constant, got {float(voxels.amax()):g} everywhere; replace "
                "the volume"
            )


def check_header(path: PathLike) -> PathLike:
    """Check the header of a NIfTI volume, and return its path unchanged.

    Voxels are not read, so that a whole folder is checked quickly before work on it starts.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: naming the file, if it is not a NIfTI volume, holds colours or complex numbers, or its affine has no
            inverse.
    """
    try:
        volume = nib.load(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: no such file") from error
    except (*_BROKEN, ImageFileError, HeaderDataError, HeaderTypeError) as error:
        raise _unreadable(path, error) from error
    if not isinstance(volume, nib.Nifti1Image):  # Nifti2Image is one too
        raise ValueError(f"{path}: expected a NIfTI volume, got {type(volume).__name__}; convert it")
    kind = volume.get_data_dtype()
    if kind.names is not None or kind.kind == "c":
        what = "complex numbers" if kind.names is None else "colours"
        raise ValueError(f"{path}: expected grey values, got {what}; store each part as a channel, along a fourth axis")
    axes = np.asarray(volume.affine, dtype=np.float64)[:3, :3]
    lengths = np.linalg.norm(axes, axis=0)
    if not (np.isfinite(axes).all() and lengths.min() > 0 and abs(np.linalg.det(axes / lengths)) > _FLAT):
        raise ValueError(
            f"{path}: expected an affine with an inverse, got {np.round(axes, 6).tolist()}; correct the header"
        )
    return path


def load_volume(path: Path) -> MetaTensor:
    """Read one NIfTI file as `(channels, x, y, z)` float32.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: naming the file, if `check_header` refuses it, its voxels cannot be read, or it does not have three
            dimensions.
    """
    check_header(path)
    try:
        volume = LoadImage(reader="NibabelReader", ensure_channel_first=True)(path)
    except (*_BROKEN, RuntimeError) as error:
        raise _unreadable(path, error) from error
    if volume.ndim != 4 or 0 in volume.shape:
        raise ValueError(f"{path}: expected a volume of three dimensions and channels, got {tuple(volume.shape)}")
    return volume


def _unreadable(path: str | Path, error: BaseException) -> ValueError:
    reason = (str(error).splitlines() or [""])[0]  # the text of MONAI quotes the traceback of every reader
    return ValueError(
        f"{path}: cannot be read as NIfTI, corrupt or truncated ({type(error).__name__}: {reason}); fetch the file "
        "again"
    )


def compare_grids(image: Path, label: Path) -> None:
    """Refuse a label whose axes or spacings differ from those of its image.

    Voxels of image and label are paired in the order of the files, so a label on another grid would be learnt in the
    wrong place. Small differences and shifts, from rounding or anonymisation of headers, give a warning.

    Raises:
        ValueError: naming both files and their axes, if directions differ by more than 1 degree or spacings by more
            than 1 %.
    """
    # The affine of nibabel, as in viewers; that of MONAI differs if the two matrices of a header disagree.
    own, other = (_affine(path) for path in (image, label))
    if np.allclose(own, other, atol=1e-2):
        return
    spacings = [np.linalg.norm(affine[:3, :3], axis=0) for affine in (own, other)]
    cosines = (own[:3, :3] / spacings[0] * other[:3, :3] / spacings[1]).sum(axis=0)
    angle = float(np.degrees(np.arccos(np.clip(cosines, -1, 1))).max())
    if angle > _SAME_ANGLE or not np.allclose(spacings[0], spacings[1], rtol=_SAME_SPACING, atol=0):
        raise ValueError(
            f"{label}: expected the grid of its image {image}, {_described(own)}, got {_described(other)}, up to "
            f"{angle:.1f} degrees apart; voxels are paired in the order of the files. If both headers are right, "
            "resample the label: nibabel.processing.resample_from_to(label, (image.shape[:3], image.affine), "
            "order=0); if one is wrong, copy the affine of the other"
        )
    warnings.warn(
        f"{label}: its affine differs slightly from that of {image.name}; the affine of the image is used", stacklevel=3
    )


def _affine(path: Path) -> np.ndarray:
    volume: Any = nib.load(path)
    return np.asarray(volume.affine, dtype=np.float64)


def _described(affine: np.ndarray) -> str:
    """Text such as `RAS of 1 x 1 x 3 mm`."""
    codes: Any = nib.aff2axcodes(affine)
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    return f"{''.join(codes)} of {' x '.join(f'{mm:.4g}' for mm in lengths)} mm"
