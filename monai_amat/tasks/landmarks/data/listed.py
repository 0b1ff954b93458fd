"""Radiographs and landmarks of any source, from a JSON list with a split of one's own."""

from __future__ import annotations

import json
import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from monai_amat.checks import check_within
from monai_amat.data.pictures import Header, read_headers
from monai_amat.tasks.landmarks.data.files import read_points
from monai_amat.wording import some

__all__ = ["load_landmark_list"]

# Rounding changes the aspect ratio of a reduced image by less; a crop or a rotated picture changes it by more.
_SAME_SHAPE = 0.02


def load_landmark_list(
    file: str | Path, section: str, *, root: str | Path | None = None, limit: int | None = None
) -> list[dict[str, Any]]:
    """Load one section of a JSON list.

    The file maps names of sections to lists of entries:

    ```json
    {"spacing": 0.1,
     "train": [{"image": "films/a.png", "landmarks": [[835, 996], null, [1473.5, 1029]]},
               {"image": "films/b.dcm", "landmarks": "marks/b.txt", "spacing": [0.12, 0.1]}],
     "validation": [], "test": []}
    ```

    Coordinates are x, y in native pixels, with the centre of the first pixel at 0, and `null` or `nan` for a missing
    landmark; a text file has one line `x,y` per landmark. `spacing` is mm per native pixel, one number or x and y, of
    an entry, of the whole list, or of the image file. `native_size` (width, height) is the size before the image was
    reduced; by default it is the size of the image.

    Args:
        file: the list.
        section: name of a section.
        root: folder of relative paths; by default that of the list.
        limit: keep only the first `limit` entries.

    Returns:
        One dictionary per image, as `load_cephalograms` returns it; `case` is the entry's `case`, or the name of the
        image without its ending.

    Raises:
        FileNotFoundError: naming the file, if the list, an image or a text file does not exist.
        ValueError: naming the file and the entry, if the list is malformed, the section is missing or empty, entries
            have different numbers of landmarks, one image is in two places, a spacing is unknown, or an image does not
            fit.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("L", (40, 50)).save(f"{folder}/a.png")
        ...     entry = {"image": "a.png", "landmarks": [[3, 4], None]}
        ...     _ = Path(folder, "list.json").write_text(json.dumps({"spacing": 0.5, "train": [entry]}))
        ...     item = load_landmark_list(f"{folder}/list.json", "train")[0]
        >>> item["case"], item["landmarks"].tolist(), item["spacing"].tolist(), item["native_size"].tolist()
        ('a', [[4.0, 3.0], [nan, nan]], [0.5, 0.5], [50, 40])
    """
    file = Path(file)
    if limit is not None:
        check_within("limit", limit, 1)
    content = _read(file)
    sections = {name: entries for name, entries in content.items() if isinstance(entries, list) and name != "spacing"}
    if section not in sections:
        raise ValueError(f"{file}: section must be one of {', '.join(map(repr, sections))}, got {section!r}")
    base = file.parent if root is None else Path(root)
    _check_distinct(file, sections, base)
    entries = sections[section][:limit]
    if not entries:
        raise ValueError(f"{file}: section {section!r} must hold at least one entry, got none")
    paths = [base / entry["image"] for entry in entries]
    items, outside = [], []
    for number, (entry, header) in enumerate(zip(entries, read_headers(paths, where=str(file)), strict=True), 1):
        where = f"{file}: entry {number} of {section!r} ({entry['image']})"
        size = _native_size(entry, header, where)
        points = _points(entry, base, where)
        beyond = ((points < -0.5) | (points > torch.tensor(size) - 0.5)).any(dim=-1)  # NaN is neither
        points[beyond] = torch.nan
        name = str(entry.get("case", header.path.stem))
        outside += [f"number {i + 1} of {name}" for i in beyond.nonzero().flatten().tolist()]
        if points.isnan().any(dim=-1).all():
            raise ValueError(f"{where}: expected a landmark inside of the image, got none; correct or remove the entry")
        spacing = _spacing(entry.get("spacing", content.get("spacing")), header, size, where)
        items.append(
            {
                "image": str(header.path),
                "landmarks": points.float(),
                "case": name,
                "spacing": torch.tensor(spacing),
                "native_size": torch.tensor(size),
            }
        )
    counts = Counter(len(item["landmarks"]) for item in items)
    if len(counts) > 1:
        found = ", ".join(f"{number} in {count} entries" for number, count in counts.items())
        raise ValueError(f"{file}: all entries of {section!r} must have the same number of landmarks, got {found}")
    cases = Counter(item["case"] for item in items)
    repeated = [name for name, count in cases.items() if count > 1]
    if repeated:
        raise ValueError(f"{file}: names of cases must be unique, got {some(repeated)} more than once; give 'case'")
    if outside:
        warnings.warn(
            f"{file}: {len(outside)} landmark(s) lie outside of their images and count as missing: {some(outside)}",
            stacklevel=2,
        )
    return items


def _read(file: Path) -> Mapping[str, Any]:
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such list; expected a JSON file with the sections of a data set")
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
        raise ValueError(f"{file}: not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file}: expected a JSON object with sections, got {type(content).__name__}")
    return content


def _check_distinct(file: Path, sections: Mapping[str, Sequence[Any]], base: Path) -> None:
    """Refuse incomplete entries, and images that are listed twice, for example for training and for test."""
    places: dict[Path, list[str]] = {}
    for section, entries in sections.items():
        for number, entry in enumerate(entries, 1):
            if not isinstance(entry, dict) or not isinstance(entry.get("image"), str) or "landmarks" not in entry:
                raise ValueError(
                    f"{file}: entry {number} of {section!r} needs an 'image' and 'landmarks', got {str(entry)[:200]}"
                )
            entry["image"] = entry["image"].replace("\\", "/")
            places.setdefault((base / entry["image"]).resolve(), []).append(f"entry {number} of {section!r}")
    twice = [f"{path.name} ({' and '.join(listed)})" for path, listed in places.items() if len(listed) > 1]
    if twice:
        raise ValueError(f"{file}: expected each image once, got {len(twice)} several times: {some(twice)}")


def _points(entry: Mapping[str, Any], base: Path, where: str) -> torch.Tensor:
    """Landmarks `(L, 2)` float64, (y, x)."""
    listed = entry["landmarks"]
    if isinstance(listed, str):
        return read_points(base / listed.replace("\\", "/"))
    rows = []
    for number, point in enumerate(listed if isinstance(listed, list) else [listed], 1):
        x, y = (
            (math.nan, math.nan) if point is None else point if isinstance(point, list) and len(point) == 2 else (0, "")
        )
        if not all(isinstance(value, int | float) and not math.isinf(value) for value in (x, y)):
            raise ValueError(f"{where}: landmark {number} must be [x, y] in pixels or null, got {point!r}")
        rows.append((float(y), float(x)))
    if not rows:
        raise ValueError(f"{where}: expected at least one landmark, got none")
    return torch.tensor(rows, dtype=torch.float64)


def _native_size(entry: Mapping[str, Any], header: Header, where: str) -> tuple[int, int]:
    """`(H, W)` before the image was reduced."""
    size = entry.get("native_size")
    if size is None:
        return header.size
    if not (isinstance(size, list) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)):
        raise ValueError(f"{where}: 'native_size' must be [width, height] in pixels, got {size!r}")
    height, width = header.size
    if abs(width / height * size[1] / size[0] - 1) > _SAME_SHAPE:
        raise ValueError(f"{where}: expected the aspect ratio of 'native_size' {size}, got {width}x{height} pixels")
    return size[1], size[0]


def _spacing(stated: Any, header: Header, native: tuple[int, int], where: str) -> tuple[float, float]:
    """Mm per native pixel, (y, x)."""
    if stated is None:
        if header.spacing is None:
            raise ValueError(f"{where}: the pixel size is unknown; give 'spacing' in mm per native pixel")
        y, x = (mm * have / had for mm, have, had in zip(header.spacing, header.size, native, strict=True))
        return y, x
    pair = stated if isinstance(stated, list) else [stated, stated]
    numbers = [value for value in pair if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(pair) != 2 or len(numbers) != 2 or not all(0 < value < math.inf for value in numbers):
        raise ValueError(f"{where}: 'spacing' must be a positive number of mm, or one along x and y, got {stated!r}")
    return float(numbers[1]), float(numbers[0])
