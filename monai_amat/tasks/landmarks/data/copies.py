"""Radiographs that are there more than once: identical files, and exports of one exposure that were read anew."""

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

__all__ = ["find_copies", "picture_correlation"]

# Of the challenge's 400 images 23 pairs are closer than 1.5 mm, and no others are closer than 2.5.
_SAME_HEAD = 2.0
# The same 23 pairs correlate by .95 and more, no others by more than .8.
_SAME_PICTURE = 0.9
_COMPARED_AT = (129, 160)  # (W, H): an original is read a tenth as sharp in no time
_BACKGROUND = 3.0  # pixels of these; exposures differ in what is smoother


def find_copies(images: Mapping[int, Path], landmarks: Mapping[int, Tensor], *, spacing: float) -> list[list[int]]:
    """Groups of IDs whose images show one exposure.

    Identical files are copies whatever their landmarks. Others are where the readers put the landmarks in the same
    places, within 2 mm on average, and the pictures correlate too: so a copy is found that was compressed or brightened
    anew, and only pictures that may be copies are opened.

    Args:
        images: path by ID.
        landmarks: `(L, 2)` in native pixels by ID, NaN where missing; IDs without any are compared by their files
            alone.
        spacing: mm per native pixel.

    Returns:
        Groups of two IDs and more, ascending.

    Raises:
        OSError: an image cannot be read.

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
    """Correlation of two pictures' detail, -1 to 1: grey, reduced to one small size, without what is smooth.

    Raises:
        OSError: a picture cannot be read.

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
    with Image.open(path) as image:
        grey = np.asarray(image.convert("L").resize(_COMPARED_AT, Image.Resampling.BOX), dtype=np.float64)
    detail: NDArray[np.float64] = grey - gaussian_filter(grey, _BACKGROUND)
    return detail - detail.mean()


def _near(ids: list[int], landmarks: Mapping[int, Tensor], spacing: float) -> list[tuple[int, int]]:
    """Pairs of IDs whose landmarks are as close as two readings of one head."""
    if len(ids) < 2:
        return []
    places = np.stack([landmarks[number].numpy() for number in ids])
    apart = np.linalg.norm(places[:, None] - places, axis=-1)
    # Landmarks that one of the two has not got tell nothing; where none is left, the sum is 0 of 0.
    both = ~np.isnan(apart)
    total, count = np.where(both, apart, 0).sum(axis=-1), both.sum(axis=-1)
    close = (total * spacing < _SAME_HEAD * count) & (count > 0)
    return [(ids[i], ids[j]) for i, j in np.argwhere(np.triu(close, 1))]
