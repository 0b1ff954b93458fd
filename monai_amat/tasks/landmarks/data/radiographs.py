"""A folder of radiographs without annotations: what a trained landmark network is applied to."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from monai_amat.data.folder import files_by_name
from monai_amat.tasks.landmarks.data.files import read_frame

__all__ = ["list_radiographs"]

_ENDINGS = (".bmp", ".jpg", ".jpeg", ".png")
_MM_PER_INCH = 25.4
# What programs write that know nothing of the resolution: that of a screen.
_SCREEN_DPI = (72, 96)
# Rounding changes the shape of a reduced image by less; a crop, or a picture on its side, by more.
_SAME_SHAPE = 0.02


def list_radiographs(folder: str | Path, *, spacing: float | None = None) -> list[dict[str, Any]]:
    """The radiographs of a folder, sorted by name, with what is needed to give landmarks in native pixels and in mm.

    Images are BMP, JPEG or PNG of any size; hidden files are left out. The size of a pixel is, in this order: what
    `spacing` says; what an `info.json` in the folder says (see
    `read_frame`), which is also how to tell that images were reduced, and from
    what size; the resolution that the file itself holds, unless it is a screen's (72 or 96 dpi).

    Args:
        folder: of the images.
        spacing: mm per native pixel, the same along both axes.

    Returns:
        One dictionary an image: `image`, its path; `case`, its name without ending; `spacing` `(2,)` float32,
        mm per native pixel, (y, x); `native_size` `(2,)` int64, (H, W), for
        `LoadCephalogramd`.

    Raises:
        FileNotFoundError: when the folder does not exist or holds no image.
        ValueError: for a spacing out of range, an image that cannot be opened or whose pixels are of unknown size, one
            that is no reduced image of what `info.json` says, or two of one name.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("L", (60, 80)).save(f"{folder}/a.png", dpi=(254, 254))
        ...     item = list_radiographs(folder)[0]
        >>> item["case"], item["native_size"].tolist(), item["spacing"]
        ('a', [80, 60], tensor([0.1000, 0.1000]))
    """
    root = Path(folder).expanduser()
    if spacing is not None and not 0 < spacing < math.inf:
        raise ValueError(f"spacing must be a positive number of mm per pixel, found {spacing}")
    paths = files_by_name(root, _ENDINGS, one="radiograph", many="radiographs")
    frame = read_frame(root)
    items = []
    for case, path in paths.items():
        size, stored = _header(path)
        native = frame.size if frame.stated else size
        if abs(size[1] / size[0] * native[0] / native[1] - 1) > _SAME_SHAPE:
            raise ValueError(
                f"{path}: {size[1]}x{size[0]} pixels are no reduced image of {native[1]}x{native[0]}, the native size "
                f"in {root / 'info.json'}: the shape differs."
            )
        if spacing is not None:
            pixel = (spacing, spacing)
        elif frame.stated:
            pixel = (frame.spacing, frame.spacing)
        elif stored is not None:
            pixel = stored
        else:
            raise ValueError(
                f"{path}: nobody knows the size of its pixels. Give it in mm, as --spacing 0.1, or write it into "
                f'{root / "info.json"}: {{"native_size_xy": [{size[1]}, {size[0]}], "pixel_spacing_mm": 0.1}}.'
            )
        items.append(
            {
                "image": str(path),
                "case": case,
                "spacing": torch.tensor(pixel, dtype=torch.float32),
                "native_size": torch.tensor(native),
            }
        )
    return items


def _header(path: Path) -> tuple[tuple[int, int], tuple[float, float] | None]:
    """Size `(H, W)` and, where it is known, mm per pixel (y, x); the pixels themselves are not read."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            dpi = image.info.get("dpi")
    # SyntaxError is Pillow's word for a broken header.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{path}: cannot be opened as an image ({type(error).__name__}: {error}); fetch the file again, or move it "
            "elsewhere."
        ) from error
    if dpi is None or len(dpi) != 2:
        return (height, width), None
    x, y = (float(value) for value in dpi)
    usable = all(0 < value < math.inf and round(value) not in _SCREEN_DPI for value in (x, y))
    return (height, width), (_MM_PER_INCH / y, _MM_PER_INCH / x) if usable else None
