"""Synthetic blood smears in the Pascal VOC layout, to run the detection task without real data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from monai_amat.data.phantom_folder import write_phantom_folder
from monai_amat.tasks.detection.data.voc import paper_split

__all__ = ["write_cells_phantom"]

# Increased whenever the same settings draw other pixels, so that an older folder is not accepted as the new one.
_VERSION = 1
_LISTS = {"train": "train", "validation": "val", "test": "test"}
# Size of the images of BCCD, the unit of the lengths below.
_SCENE = (480, 640)
_RADII = {"RBC": (42, 54), "WBC": (80, 105), "Platelets": (15, 22)}
_WOBBLE = {"RBC": 0.03, "WBC": 0.06, "Platelets": 0.12}
_PLASMA = (0.86, 0.83, 0.78)
_STAIN = {
    "red": (0.80, 0.52, 0.50),
    "pallor": (0.87, 0.74, 0.70),
    "body": (0.70, 0.62, 0.80),
    "purple": (0.38, 0.22, 0.55),
}

_Cell = tuple[str, tuple[int, int, int, int]]
"""Kind of a cell, and its box x1 y1 x2 y2; pixel i reaches from i to i + 1."""


def write_cells_phantom(root: str | Path, *, images: int = 24, size: Sequence[int] = (480, 640), seed: int = 0) -> Path:
    """Write a data set of synthetic blood smears that `load_voc` reads.

    There are three kinds of cells as in BCCD: red discs with a pale centre, which touch and are cut by the image edge
    (`RBC`); larger pale bodies with a lobed purple nucleus (`WBC`); small purple specks (`Platelets`). Light and
    stain differ between images, and there is noise. Boxes are tight. `ImageSets/Main` holds the split of the paper.

    The folder is renamed to its final name when it is complete. Writing the same phantom again does nothing.

    Args:
        root: the folder to create.
        images: number of images, 3 or more.
        size: `(H, W)` of the images, 48 or more each; cells scale with it.
        seed: determines every pixel, per image, so that a larger phantom begins with the same images.

    Returns:
        `root` as a path.

    Raises:
        ValueError: if a setting is out of range.
        FileExistsError: if `root` holds anything other than this phantom; it is not changed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     root = write_cells_phantom(f"{folder}/cells", images=3, size=(48, 64))
        ...     sorted(str(path.relative_to(root)) for path in root.glob("*/*_000.*"))
        ['Annotations/cells_000.xml', 'JPEGImages/cells_000.jpg']
    """
    root = Path(root)
    size = tuple(int(n) for n in size)
    if images < 3 or len(size) != 2 or min(size) < 48:
        raise ValueError(
            f"a phantom needs at least 3 images and a size (H, W) of at least 48 x 48, got images={images}, size={size}"
        )
    marker = {"version": _VERSION, "images": images, "size": list(size), "seed": seed}
    names = [f"cells_{i:03d}" for i in range(images)]

    def write(folder: Path) -> None:
        for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (folder / part).mkdir(parents=True)
        for i, name in enumerate(names):
            pixels, cells = _smear(np.random.default_rng([seed, i]), size)
            Image.fromarray(pixels).save(folder / "JPEGImages" / f"{name}.jpg", quality=92)
            _annotation(name, size, cells).write(folder / "Annotations" / f"{name}.xml", encoding="utf-8")
        for part, members in paper_split(names, seed=seed).items():
            (folder / "ImageSets" / "Main" / f"{_LISTS[part]}.txt").write_text("\n".join(members) + "\n")
        (folder / "phantom.json").write_text(json.dumps(marker), encoding="utf-8")

    files = [
        f"{part}/{name}{ending}" for part, ending in (("JPEGImages", ".jpg"), ("Annotations", ".xml")) for name in names
    ]
    files += [f"ImageSets/Main/{stem}.txt" for stem in _LISTS.values()]
    return write_phantom_folder(root, marker, place=("phantom.json",), files=files, write=write)


def _annotation(name: str, size: Sequence[int], cells: Sequence[_Cell]) -> ElementTree[Element]:
    """Pascal VOC annotation of one image: pixels counted from 1, the last one included."""
    top = Element("annotation")
    SubElement(top, "filename").text = f"{name}.jpg"
    place = SubElement(top, "size")
    for side, value in (("width", size[1]), ("height", size[0]), ("depth", 3)):
        SubElement(place, side).text = str(value)
    for kind, box in cells:
        node = SubElement(top, "object")
        SubElement(node, "name").text = kind
        corners = SubElement(node, "bndbox")
        for corner, value in zip(("xmin", "ymin", "xmax", "ymax"), (box[0] + 1, box[1] + 1, *box[2:]), strict=True):
            SubElement(corners, corner).text = str(value)
    indent(top)
    return ElementTree(top)


def _smear(rng: np.random.Generator, size: Sequence[int]) -> tuple[np.ndarray, list[_Cell]]:
    """Pixels `(H, W, 3)` uint8, and the cells."""
    unit = min(size[0] / _SCENE[0], size[1] / _SCENE[1])
    grid = np.stack(np.meshgrid(np.arange(size[0]), np.arange(size[1]), indexing="ij"), axis=-1) + 0.5
    image = np.ones((*size, 3)) * _PLASMA
    cells: list[_Cell] = []
    taken: list[tuple[np.ndarray, float]] = []
    kinds = ["RBC"] * rng.integers(6, 15) + ["WBC"] * rng.integers(0, 3) + ["Platelets"] * rng.integers(0, 4)
    for kind in kinds:
        radius = rng.uniform(*_RADII[kind]) * unit
        centre = _place(rng, size, radius, taken)
        if centre is None:  # no space left
            continue
        # Only the window of the cell, because whole large images would take seconds.
        low = np.maximum(np.floor(centre - 1.5 * radius).astype(int), 0)
        high = np.ceil(centre + 1.5 * radius).astype(int)
        window = slice(low[0], high[0]), slice(low[1], high[1])
        depth = _blob(rng, grid[window], centre, radius, _WOBBLE[kind])
        rows, columns = (
            np.flatnonzero((depth < 1).any(axis=axis)) + start for axis, start in ((1, low[0]), (0, low[1]))
        )
        if min(len(rows), len(columns)) < 3:  # almost all of the cell is outside of the image
            continue
        _PAINT[kind](rng, image[window], grid[window], depth, centre, radius)
        taken.append((centre, radius))
        cells.append((kind, (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)))
    image = gaussian_filter(image, (0.8 * unit, 0.8 * unit, 0))
    image *= rng.uniform(0.93, 1.05, size=3)  # stain and white balance
    y, x = np.moveaxis(grid / size - 0.5, -1, 0)
    slope_y, slope_x, bow = rng.uniform(-0.08, 0.08, size=3)  # uneven light
    image *= 1 + (slope_y * y + slope_x * x + 2 * bow * (y**2 + x**2))[..., None]
    image += rng.normal(0, 0.02, image.shape)
    return (np.clip(image, 0, 1) * 255).round().astype(np.uint8), cells


def _place(
    rng: np.random.Generator, size: Sequence[int], radius: float, taken: list[tuple[np.ndarray, float]]
) -> np.ndarray | None:
    """Draw a centre (y, x) where cells touch but hardly overlap; None after 60 tries without success."""
    for _ in range(60):
        centre = rng.uniform((0, 0), size)
        if all(np.hypot(*(centre - other)) > 0.95 * (radius + reach) for other, reach in taken):
            return centre
    return None


def _blob(rng: np.random.Generator, grid: np.ndarray, centre: np.ndarray, radius: float, wobble: float) -> np.ndarray:
    """Distance from `centre` in radii `(H, W)`, 1 on an outline that varies by about the share `wobble`."""
    y, x = np.moveaxis(grid - centre, -1, 0)
    angle, outline = np.arctan2(y, x), np.ones(grid.shape[:2])
    for waves in (2, 3, 4):
        outline += wobble * rng.normal(0, 1) / waves * np.cos(waves * angle + rng.uniform(0, 2 * np.pi))
    return np.hypot(y, x) / (radius * np.clip(outline, 0.6, 1.4))


def _cover(image: np.ndarray, share: np.ndarray, colour: Sequence[float]) -> None:
    """Paint a colour in place, with opacity `(H, W)` from 0 to 1."""
    image += share[..., None] * (np.asarray(colour) - image)


def _inside(depth: np.ndarray, width: float) -> np.ndarray:
    """1 inside the outline, 0 outside, half way on it; `width` in radii."""
    return 1 / (1 + np.exp(np.clip((depth - 1) / width, -50, 50)))


def _red(
    rng: np.random.Generator, image: np.ndarray, grid: np.ndarray, depth: np.ndarray, centre: np.ndarray, radius: float
) -> None:
    _cover(image, 0.9 * _inside(depth, 0.03), _STAIN["red"])
    _cover(image, rng.uniform(0.5, 0.9) * _inside(depth / rng.uniform(0.35, 0.5), 0.25), _STAIN["pallor"])


def _white(
    rng: np.random.Generator, image: np.ndarray, grid: np.ndarray, depth: np.ndarray, centre: np.ndarray, radius: float
) -> None:
    _cover(image, 0.85 * _inside(depth, 0.03), _STAIN["body"])
    nucleus = np.zeros(depth.shape)
    start = rng.uniform(0, 2 * np.pi)
    for lobe in range(rng.integers(2, 5)):
        angle = start + 1.4 * lobe
        middle = centre + 0.36 * radius * np.array([np.sin(angle), np.cos(angle)])
        part = _inside(_blob(rng, grid, middle, rng.uniform(0.34, 0.44) * radius, 0.08), 0.06)
        nucleus = np.maximum(nucleus, part)
    _cover(image, 0.95 * nucleus, _STAIN["purple"])


def _platelet(
    rng: np.random.Generator, image: np.ndarray, grid: np.ndarray, depth: np.ndarray, centre: np.ndarray, radius: float
) -> None:
    _cover(image, rng.uniform(0.7, 0.9) * _inside(depth, 0.12), _STAIN["purple"])


_PAINT = {"RBC": _red, "WBC": _white, "Platelets": _platelet}
