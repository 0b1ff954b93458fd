"""Pictures in files: header and pixels as a viewer shows them, for grey and colour."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from monai_amat.data import dicom
from monai_amat.wording import some

__all__ = ["ENDINGS", "Header", "check_pictures", "read_colour", "read_grey", "read_headers"]

ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff")
"""Endings of the formats that are read, in lower case."""

# Modes that Pillow converts to grey or colour without loss of range. The luma formula keeps the values of a grey
# picture in colour.
_EIGHT_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
_DEPTHS = (8, 10, 12, 14)
_ORIENTATION = 0x0112
# Pillow reports a broken file by different exceptions, depending on the format.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, Image.DecompressionBombError)


@dataclass(frozen=True)
class Header:
    """Properties of a picture.

    Attributes:
        path: the file.
        size: `(H, W)` as a viewer shows it, after the EXIF orientation.
        orientation: EXIF orientation, 1 to 8; 1 is upright.
        spacing: mm per pixel (y, x), None if the file does not hold it.
        dark: number of bits that the values fill, if it is less than 16 in a grey picture of 16 bits.
    """

    path: Path
    size: tuple[int, int]
    orientation: int = 1
    spacing: tuple[float, float] | None = None
    dark: int | None = None


def read_headers(paths: Sequence[Path], *, where: str) -> list[Header]:
    """Read the headers of pictures, and warn once per kind of doubt, with a count.

    There is a warning if pictures have an EXIF orientation, because annotations may refer to the stored pixels, and if
    grey pictures of 16 bits fill only a part of that range (12-bit radiographs). The values are read only in pictures
    of 16 bits.

    Args:
        paths: the files.
        where: folder or file that names the pictures, for messages.

    Returns:
        One header per file.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: naming the file, if it cannot be opened as an image.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "a.png")
        ...     Image.new("L", (6, 8)).save(path)
        ...     read_headers([path], where=folder)[0].size
        (8, 6)
    """
    headers = [_header(path) for path in paths]
    turned = [header.path.name for header in headers if header.orientation != 1]
    if turned:
        warnings.warn(
            f"{where}: {len(turned)} of {len(headers)} images have an EXIF orientation ({some(turned)}) and are read "
            "as a viewer shows them; check that their annotations refer to that, or store the images upright",
            stacklevel=3,
        )
    dark = [f"{header.path.name} {header.dark} bits" for header in headers if header.dark is not None]
    if dark:
        warnings.warn(
            f"{where}: {len(dark)} of {len(headers)} images hold fewer bits than the 16 of their files ({some(dark)}); "
            "each is scaled by its number of bits, so that white becomes 255",
            stacklevel=3,
        )
    return headers


def check_pictures(paths: Sequence[str | Path], *, colour: bool) -> list[str]:
    """Read all pictures, and refuse those that cannot be read, before work on any of them starts.

    Args:
        paths: the files.
        colour: read them by `read_colour` instead of `read_grey`.

    Returns:
        The paths, unchanged.

    Raises:
        ValueError: naming up to three of the files, each with its reason, and the number of all.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (6, 8)).save(f"{folder}/a.png")
        ...     len(check_pictures([f"{folder}/a.png"], colour=True))
        1
    """
    reasons = []
    for path in paths:
        try:
            (read_colour if colour else read_grey)(path)
        except (FileNotFoundError, ValueError) as error:
            reasons.append(str(error))
    if reasons:
        more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
        raise ValueError(f"{len(reasons)} of {len(paths)} images cannot be used: {'; '.join(reasons[:3])}{more}")
    return [str(path) for path in paths]


def read_grey(path: str | Path) -> np.ndarray:
    """Read grey values `(H, W)` float32, 0 to 255, as a viewer shows them.

    Values of 16 bits are divided by 257, so that 65535 becomes 255. If they fill fewer bits (14, 12, 10 or 8), the
    largest value of that number of bits becomes 255. The EXIF orientation is applied. DICOM files need pydicom.

    Raises:
        FileNotFoundError: if the file does not exist.
        ImportError: if a DICOM file is read without pydicom.
        ValueError: naming the file, if it cannot be read or does not hold one picture of 8 or 16 bits.
    """
    path = Path(path)
    if dicom.is_dicom(path):
        return dicom.read_dicom(path)
    values, mode, orientation = _values(path, "L")
    if mode in _EIGHT_BIT:
        grey = values.astype(np.float32)
    elif values.ndim == 2 and mode.startswith("I") and values.min() >= 0 and values.max() <= 65535:
        bits = _bits(values)
        grey = values.astype(np.float32) / (257 if bits is None else (2**bits - 1) / 255)
    else:
        raise ValueError(
            f"{path}: expected a grey or colour picture of 8 or 16 bits, got Pillow's mode {mode!r}; convert the file"
        )
    return _upright(grey, orientation)


def read_colour(path: str | Path) -> np.ndarray:
    """Read red, green and blue `(H, W, 3)` uint8, as a viewer shows them: grey becomes colour, transparency is ignored.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: naming the file, if it cannot be read or does not hold one picture of 8 bits per channel.
    """
    path = Path(path)
    values, mode, orientation = _values(path, "RGB")
    if mode not in _EIGHT_BIT:
        raise ValueError(
            f"{path}: expected a grey or colour picture of 8 bits, got Pillow's mode {mode!r}; convert the file"
        )
    return _upright(values, orientation)


def _values(path: Path, convert: str) -> tuple[np.ndarray, str, int]:
    """Stored values, the mode of Pillow, and the EXIF orientation."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such image file")
    try:
        # A stream, because Pillow maps uncompressed files with a name into memory, at the wrong size where it turns
        # them.
        with path.open("rb") as stream, Image.open(stream) as image:
            pages = getattr(image, "n_frames", 1)
            sixteen = ";16" in str([tile[3] for tile in image.tile])
            image.load()
            orientation = _orientation(image)  # after loading, since Pillow itself turns TIFF files upright
            mode = image.mode
            values = np.array(image.convert(convert) if mode in _EIGHT_BIT else image)
    except _BROKEN as error:
        raise ValueError(
            f"{path}: cannot be read as an image, corrupt or truncated ({type(error).__name__}: {error}); fetch the "
            "file again"
        ) from error
    if pages > 1:
        raise ValueError(f"{path}: expected one picture, got {pages} pages; store each page in a file of its own")
    if mode in _EIGHT_BIT and sixteen and 0 < values.max() < 64:
        raise ValueError(
            f"{path}: expected values over the whole range of 16 bits per channel, got 14 bits or fewer, which would "
            "be read as nearly black; convert the file to 8 bits per channel"
        )
    return values, mode, orientation


def _header(path: Path) -> Header:
    if dicom.is_dicom(path):
        size, spacing = dicom.read_header(path)
        return Header(path, size, spacing=spacing)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such image file")
    try:
        with Image.open(path) as image:  # reads only the header
            tags: Any = getattr(image, "tag_v2", {})  # of TIFF, whose size Pillow gives as turned or not by version
            width, height = (int(tags.get(tag, side)) for tag, side in zip((256, 257), image.size, strict=True))
            dpi, mode, orientation = image.info.get("dpi"), image.mode, _orientation(image)
    except _BROKEN as error:
        raise ValueError(
            f"{path}: cannot be opened as an image ({type(error).__name__}: {error}); fetch the file again, or move it "
            "to another folder"
        ) from error
    size, spacing = (height, width), _spacing(dpi)
    if orientation > 4:
        size, spacing = size[::-1], None if spacing is None else spacing[::-1]
    dark = _bits(_values(path, "L")[0]) if mode.startswith("I") else None
    return Header(path, size, orientation, spacing, dark)


def _orientation(image: Image.Image) -> int:
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # the pixels are usable with damaged EXIF data
        return 1
    return found if found in range(1, 9) else 1


def _spacing(dpi: Sequence[float] | None) -> tuple[float, float] | None:
    """Spacing in mm (y, x) from dots per inch (x, y); None for the 72 or 96 of a screen, which is a default."""
    if dpi is None or len(dpi) != 2:
        return None
    x, y = (float(value) for value in dpi)
    usable = all(0 < value < math.inf and round(value) not in (72, 96) for value in (x, y))
    return (25.4 / y, 25.4 / x) if usable else None


def _bits(values: np.ndarray) -> int | None:
    """Number of bits that values fill, if it is 14 or less; None for 16 bits and for a black picture."""
    highest = int(values.max())
    return next((bits for bits in _DEPTHS if highest < 2**bits), None) if highest > 0 else None


def _upright(values: np.ndarray, orientation: int) -> np.ndarray:
    """Apply an EXIF orientation to an array `(H, W, …)`."""
    if orientation in (5, 7):
        values = values.swapaxes(0, 1)
    turns = {3: 2, 6: -1, 7: 2, 8: 1}.get(orientation, 0)
    if orientation in (2, 4):
        values = np.flip(values, 1 if orientation == 2 else 0)
    return np.ascontiguousarray(np.rot90(values, turns))
