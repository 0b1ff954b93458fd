"""A folder of radiographs without annotations, for inference."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from monai_amat.data import dicom
from monai_amat.data.folder import files_by_name
from monai_amat.data.pictures import ENDINGS, check_pictures, read_headers
from monai_amat.tasks.landmarks.data.files import read_frame

__all__ = ["list_radiographs"]

# Rounding changes the aspect ratio of a reduced image by less; a crop or a rotated picture changes it by more.
_SAME_SHAPE = 0.02


def list_radiographs(folder: str | Path, *, spacing: float | None = None) -> list[dict[str, Any]]:
    """List the radiographs of a folder, sorted by name, with native size and spacing.

    Images are BMP, JPEG, PNG or TIFF of any size, or DICOM if pydicom is installed; hidden files are left out. The
    pixel size comes from the first of these that is known: `spacing`; an `info.json` in the folder (see `read_frame`),
    which also gives the native size of reduced images; the resolution in the file, unless it is that of a screen (72 or
    96 dpi).

    Args:
        folder: folder of the images.
        spacing: mm per native pixel, equal along both axes.

    Returns:
        One dictionary per image: `image`, its path; `case`, its name without ending; `spacing` `(2,)` float32, mm per
        native pixel, (y, x); `native_size` `(2,)` int64, (H, W), for `LoadCephalogramd`.

    Raises:
        FileNotFoundError: if the folder does not exist or holds no image.
        ValueError: if `spacing` is out of range, an image cannot be opened, its pixel size is unknown, its aspect ratio
            differs from that in `info.json`, or two images have one name.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("L", (60, 80)).save(f"{folder}/a.png", dpi=(254, 254))
        ...     item = list_radiographs(folder)[0]
        >>> item["case"], item["native_size"].tolist(), item["spacing"]
        ('a', [80, 60], tensor([0.1000, 0.1000]))
    """
    root = Path(folder).expanduser()
    if spacing is not None and not 0 < spacing < math.inf:
        raise ValueError(f"spacing must be a positive number of mm per pixel, got {spacing}")
    paths = files_by_name(root, (*ENDINGS, *dicom.ENDINGS), one="radiograph", many="radiographs")
    frame = read_frame(root)
    items = []
    for (case, path), header in zip(paths.items(), read_headers([*paths.values()], where=str(root)), strict=True):
        size, stored = header.size, header.spacing
        native = frame.size if frame.stated else size
        if abs(size[1] / size[0] * native[0] / native[1] - 1) > _SAME_SHAPE:
            raise ValueError(
                f"{path}: expected the aspect ratio of {native[1]}x{native[0]}, the native size in "
                f"{root / 'info.json'}, "
                f"got {size[1]}x{size[0]} pixels; correct info.json or move the image to another folder"
            )
        if spacing is not None:
            pixel = (spacing, spacing)
        elif frame.stated:
            pixel = (frame.spacing, frame.spacing)
        elif stored is not None:
            pixel = stored
        else:
            raise ValueError(
                f"{path}: the pixel size is unknown; give it in mm, for example --spacing 0.1, or write it into "
                f'{root / "info.json"}: {{"native_size_xy": [{size[1]}, {size[0]}], "pixel_spacing_mm": 0.1}}'
            )
        items.append(
            {
                "image": str(path),
                "case": case,
                "spacing": torch.tensor(pixel, dtype=torch.float32),
                "native_size": torch.tensor(native),
            }
        )
    check_pictures([*paths.values()], colour=False)
    return items
