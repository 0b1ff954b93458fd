"""Radiographs that occur more than once: identical files, and several exports of one exposure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.cluster.hierarchy import DisjointSet
from scipy.ndimage import gaussian_filter
from torch import Tensor

from monai_amat.data.duplicates import identical_files
from monai_amat.data.pictures import read_grey

__all__ = ["find_copies", "picture_correlation"]

# Of the 400 images of the challenge, 23 pairs are closer than 1.5 mm, and no others are closer than 2.5.
_SAME_HEAD = 2.0
# The same 23 pairs have correlations of at least .95, no others of more than .8.
_SAME_PICTURE = 0.9
_COMPARED_AT = (129, 160)  # (W, H): about a fifteenth of an original, which is fast to read
_BACKGROUND = 3.0  # in pixels of that size; exposures differ in smoother structures


def find_copies(images: Mapping[int, Path], landmarks: Mapping[int, Tensor], *, spacing: float) -> list[list[int]]:
    """Find groups of IDs whose images show one exposure.

    Identical files are copies, independent of their landmarks. Other images are copies if their landmarks are within 2
    mm on average and the pictures correlate: this finds copies that were compressed or brightened again, and opens only
    pictures that may be copies.

    Args:
        images: paths by ID.
        landmarks: `(L, 2)` in native pixels by ID, NaN where missing; IDs without landmarks are compared only by their
            files.
        spacing: mm per native pixel.

    Returns:
        Groups of two or more IDs, ascending.

    Raises:
        ValueError: if an image cannot be read.

    Example:
        >>> import tempfile, torch
        >>> noise = np.random.default_rng(0).integers(0, 255, (160, 129)).astype("uint8")
        >>> places = torch.rand(19, 2) * 100
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     paths = {i: Path(folder, f"{i}.png") for i in (1, 2)}
        ...     Image.fromarray(noise).save(paths[1])
        ...     Image.fromarray(noise // 2 + 40).save(paths[2])  # another exposure
        ...     find_copies(paths, {1: places, 2: places + 1}, spacing=0.1)
        [[1, 2]]
    """
    ids = sorted(images)
    number_of = {path: number for number, path in images.items()}
    groups = DisjointSet(ids)
    for same in identical_files(images[number] for number in ids):
        for path in same[1:]:
            groups.merge(number_of[same[0]], number_of[path])
    for one, other in _near([number for number in ids if number in landmarks], landmarks, spacing):
        if not groups.connected(one, other) and picture_correlation(images[one], images[other]) > _SAME_PICTURE:
            groups.merge(one, other)
    return sorted(sorted(group) for group in groups.subsets() if len(group) > 1)


def picture_correlation(first: str | Path, second: str | Path) -> float:
    """Compute the correlation, -1 to 1, of two grey pictures at one small size, without their smooth part.

    Raises:
        ValueError: if a picture cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "a.png")
        ...     Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64)).astype("uint8")).save(path)
        ...     round(picture_correlation(path, path), 3)
        1.0
    """
    a, b = _detail(Path(first)), _detail(Path(second))
    size = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / size if size else 0.0


def _detail(path: Path) -> NDArray[np.float64]:
    image = Image.fromarray(read_grey(path).round().astype(np.uint8))
    grey = np.asarray(image.resize(_COMPARED_AT, Image.Resampling.BOX), dtype=np.float64)
    detail: NDArray[np.float64] = grey - gaussian_filter(grey, _BACKGROUND)
    return detail - detail.mean()


def _near(ids: list[int], landmarks: Mapping[int, Tensor], spacing: float) -> list[tuple[int, int]]:
    """Pairs of IDs whose landmarks are as close as two annotations of one head."""
    if len(ids) < 2:
        return []
    places = np.stack([landmarks[number].numpy() for number in ids])
    apart = np.linalg.norm(places[:, None] - places, axis=-1)
    # Landmarks that are missing in one of the two do not count.
    both = ~np.isnan(apart)
    total, count = np.where(both, apart, 0).sum(axis=-1), both.sum(axis=-1)
    close = (total * spacing < _SAME_HEAD * count) & (count > 0)
    return [(ids[i], ids[j]) for i, j in np.argwhere(np.triu(close, 1))]
