"""DICOM files with one picture, through the optional package pydicom."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["ENDINGS", "is_dicom", "read_dicom", "read_header"]

ENDINGS = (".dcm", ".dicom")
"""Endings of DICOM files, in lower case."""


def is_dicom(path: Path) -> bool:
    """Whether a file has an ending of DICOM."""
    return path.suffix.lower() in ENDINGS


def read_header(path: Path) -> tuple[tuple[int, int], tuple[float, float] | None]:
    """Read size `(H, W)` and, if known, mm per pixel (y, x), without the pixels.

    Raises:
        FileNotFoundError: if the file does not exist.
        ImportError: if pydicom is not installed.
        ValueError: naming the file, if it is not a DICOM file with one picture.
    """
    content = _opened(path, pixels=False)
    spacing = content.get("PixelSpacing") or content.get("ImagerPixelSpacing")
    known = spacing is not None and len(spacing) == 2 and all(float(mm) > 0 for mm in spacing)
    size = int(content.Rows), int(content.Columns)
    return size, (float(spacing[0]), float(spacing[1])) if known else None


def read_dicom(path: Path) -> np.ndarray:
    """Read grey values `(H, W)` float32, 0 to 255, as a viewer shows them.

    Rescaling and the first window or VOI look-up table are applied; without a window, the ends of the range of 8, 10,
    12, 14 or 16 bits that the values fill become 0 and 255. Inverted pictures (MONOCHROME1) are inverted back.

    Raises:
        FileNotFoundError: if the file does not exist.
        ImportError: if pydicom is not installed.
        ValueError: naming the file, if it is not a DICOM file with one grey picture.
    """
    content = _opened(path, pixels=True)
    kind = str(content.get("PhotometricInterpretation", ""))
    if not kind.startswith("MONOCHROME"):
        raise ValueError(f"{path}: expected a grey picture (MONOCHROME1 or 2), got {kind!r}; convert the file")
    looks: Any = importlib.import_module("pydicom.pixels")
    try:
        values = looks.apply_modality_lut(content.pixel_array, content)
        if content.get("WindowCenter") is not None or content.get("VOILUTSequence"):
            values = looks.apply_voi_lut(values, content)
    except Exception as error:  # a damaged or compressed file fails in many ways
        raise ValueError(
            f"{path}: cannot be decoded ({type(error).__name__}: {str(error).splitlines()[0]}); convert the file to PNG"
        ) from error
    low, high = _range(content)
    grey = np.clip((np.asarray(values, dtype=np.float64) - low) / max(high - low, 1e-12), 0, 1) * 255
    return (255 - grey if kind == "MONOCHROME1" else grey).astype(np.float32)


def _range(content: Any) -> tuple[float, float]:
    """Values that become 0 and 255: the ends of the stored bits, or of those that are in use without a window."""
    bits, signed = int(content.BitsStored), bool(content.get("PixelRepresentation", 0))
    if content.get("VOILUTSequence"):
        return 0.0, 2.0 ** int(content.VOILUTSequence[0].LUTDescriptor[2]) - 1
    if not signed and content.get("WindowCenter") is None:
        highest = int(content.pixel_array.max())
        bits = next((fewer for fewer in (8, 10, 12, 14) if 0 < highest < 2**fewer), bits)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    slope, intercept = float(content.get("RescaleSlope", 1)), float(content.get("RescaleIntercept", 0))
    ends = sorted((low * slope + intercept, high * slope + intercept))
    return ends[0], ends[1]


def _opened(path: Path, *, pixels: bool) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such image file")
    try:
        pydicom: Any = importlib.import_module("pydicom")
    except ImportError as error:
        raise ImportError(
            f"{path}: DICOM files need pydicom: pip install pydicom, or convert the file to PNG"
        ) from error
    try:
        content = pydicom.dcmread(path, stop_before_pixels=not pixels)
        single = int(content.get("NumberOfFrames", 1) or 1) == 1 and int(content.Rows) > 0 and int(content.Columns) > 0
    except Exception as error:  # a damaged file fails in many ways
        raise ValueError(
            f"{path}: cannot be read as DICOM ({type(error).__name__}: {error}); fetch the file again"
        ) from error
    if not single:
        raise ValueError(f"{path}: expected one picture, got {content.get('NumberOfFrames')} frames; convert the file")
    return content
