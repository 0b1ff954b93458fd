"""The text files of the cephalometric challenge: landmarks of one image, and the native size of the images."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch

__all__ = ["LANDMARK_NAMES", "NativeFrame", "read_frame", "read_landmarks", "read_points"]

LANDMARK_NAMES = (
    "sella",
    "nasion",
    "orbitale",
    "porion",
    "subspinale",
    "supramentale",
    "pogonion",
    "menton",
    "gnathion",
    "gonion",
    "lower incisal incision",
    "upper incisal incision",
    "upper lip",
    "lower lip",
    "subnasale",
    "soft tissue pogonion",
    "posterior nasal spine",
    "anterior nasal spine",
    "articulare",
)
"""The 19 landmarks in the order of the challenge: lines 1 to 19 of a text file."""

# The originals end in eight lines with the classes of eight anatomical measurements.
_CLASS_LINES = 8


@dataclass(frozen=True)
class NativeFrame:
    """The frame of coordinates.

    Attributes:
        size: `(H, W)` of the images before they were reduced.
        spacing: mm per pixel, along both axes.
        stated: whether `info.json` gives the frame; otherwise all images must have exactly this size.
    """

    size: tuple[int, int] = (2400, 1935)
    spacing: float = 0.1
    stated: bool = False


def read_frame(root: Path) -> NativeFrame:
    """Read the native frame of a data set from its `info.json`, or return that of the challenge if there is none.

    Args:
        root: folder of the data set; its `info.json` belongs to images that were reduced, and holds
            `native_size_xy` (width, height), `pixel_spacing_mm` and optionally `landmarks` (19).

    Raises:
        ValueError: naming the file, if it is not JSON or its values are out of range.
    """
    file = root / "info.json"
    if not file.is_file():
        return NativeFrame()
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
        raise ValueError(f"{file}: not valid JSON: {error}") from error
    content = content if isinstance(content, dict) else {}
    size, spacing = content.get("native_size_xy"), content.get("pixel_spacing_mm")
    if not (isinstance(size, list) and len(size) == 2 and all(type(n) is int and n > 0 for n in size)):
        raise ValueError(f"{file}: 'native_size_xy' must be [width, height] in pixels, got {size!r}")
    if isinstance(spacing, bool) or not isinstance(spacing, (int, float)) or not 0 < spacing < math.inf:
        raise ValueError(f"{file}: 'pixel_spacing_mm' must be a positive number, got {spacing!r}")
    if content.get("landmarks", len(LANDMARK_NAMES)) != len(LANDMARK_NAMES):
        raise ValueError(f"{file}: 'landmarks' must be {len(LANDMARK_NAMES)}, got {content['landmarks']!r}")
    return NativeFrame((size[1], size[0]), float(spacing), stated=True)


def read_landmarks(path: str | Path) -> torch.Tensor:
    r"""Read the landmarks that one reader marked in one image.

    There is one line per landmark, `x,y` in native pixels, or `nan,nan` for a missing landmark. The eight class lines
    at the end of the files of the challenge, and empty lines at the end, are ignored.

    Args:
        path: text file of 19 or 19 + 8 lines.

    Returns:
        `(19, 2)` float64, (y, x): the order of array axes, not of the file.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: naming file and line, if the number of lines is another or a line is not `x,y`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "001.txt").write_text("835,996\n" * 19)
        ...     points = read_landmarks(f"{folder}/001.txt")
        >>> points[0]
        tensor([996., 835.], dtype=torch.float64)
    """
    path = Path(path)
    lines = _lines(path)
    count = len(LANDMARK_NAMES)
    if len(lines) not in (count, count + _CLASS_LINES):
        raise ValueError(
            f"{path}: expected {count} lines 'x,y', with or without {_CLASS_LINES} class lines after them, "
            f"got {len(lines)} lines"
        )
    named = zip(lines, LANDMARK_NAMES, strict=False)
    rows = [_point(path, i, line, f" ({name})") for i, (line, name) in enumerate(named, 1)]
    return torch.tensor(rows, dtype=torch.float64)


def read_points(path: str | Path) -> torch.Tensor:
    r"""Read any number of landmarks, one line `x,y` in native pixels per landmark, or `nan,nan` for a missing one.

    Args:
        path: text file.

    Returns:
        `(L, 2)` float64, (y, x).

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: naming file and line, if a line is not `x,y`, or there is none.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "a.txt").write_text("835,996\nnan,nan\n")
        ...     tuple(read_points(f"{folder}/a.txt").shape)
        (2, 2)
    """
    path = Path(path)
    lines = _lines(path)
    if not lines:
        raise ValueError(f"{path}: expected one line 'x,y' per landmark, got none")
    return torch.tensor([_point(path, i, line) for i, line in enumerate(lines, 1)], dtype=torch.float64)


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; each image needs the landmarks of each reader")
    try:
        return path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file: {error}") from error


def _point(path: Path, number: int, line: str, name: str = "") -> tuple[float, float]:
    """One line as `(y, x)`."""
    try:
        x, y = (float(part) for part in line.split(","))
    except ValueError:
        x, y = math.inf, math.inf
    if math.isinf(x) or math.isinf(y) or math.isnan(x) != math.isnan(y):
        raise ValueError(
            f"{path}, line {number}{name}: expected 'x,y' in pixels, or 'nan,nan' for a missing landmark, got {line!r}"
        )
    return y, x
