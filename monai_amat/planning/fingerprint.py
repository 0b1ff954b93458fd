"""What a Decathlon folder's volumes are like, as far as a 2-D plan and noise levels depend on it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from monai.data import MetaTensor
from tqdm.auto import tqdm

from monai_amat.data.decathlon import Case, Decathlon, check_case
from monai_amat.transforms.slice_plane import SlicePlaned

__all__ = ["Fingerprint", "take_fingerprint"]

# In-plane spacings within this share of their median are one spacing: what a scanner's rounding makes.
_SAME_SPACING = 0.01
# nnU-Net pools axes apart whose spacings differ by this factor.
_SQUARE = 2.0


@dataclass(frozen=True)
class Fingerprint:
    """What a data set's volumes are like, in their slicing frame.

    Attributes:
        channels: names of the image channels.
        labels: names of the classes by value, background included.
        cases: number of cases.
        pixel: in-plane spacing ``(H, W)`` in mm that the sizes below are given at.
        resampled: whether slices have to be resampled to it; otherwise all have it as they are.
        median_size: median ``(H, W)`` in pixels of what is not empty, there.
        median_slices: median number of slices that are not empty.
        foreground_size: smallest centred ``(H, W)`` window that holds every slice's foreground.
        occurrences: number of cases in which each foreground class occurs.
        deviations: median over cases of each channel's standard deviation, in grey values; what a z-scored unit is.
    """

    channels: tuple[str, ...]
    labels: dict[int, str]
    cases: int
    pixel: tuple[float, float]
    resampled: bool
    median_size: tuple[int, int]
    median_slices: int
    foreground_size: tuple[int, int]
    occurrences: dict[int, int]
    deviations: tuple[float, ...]


@dataclass(frozen=True)
class _Volume:
    """One case: the same as of the data set, before any resampling."""

    spacing: np.ndarray  # (2,), mm
    content: np.ndarray  # (3,), extent of what is not zero: H, W, slices
    window: np.ndarray  # (2,)
    classes: set[int]
    deviations: np.ndarray  # (channels,)


def take_fingerprint(root: str | Path, *, progress: bool = True) -> Fingerprint:
    """Read every volume of a Decathlon folder, refuse what would spoil a training, and measure the rest.

    As nnU-Net does, sizes are taken without empty margins, since many images are padded to a square. Slices are to be
    resampled where in-plane spacings differ among cases by more than 1 %, to the median of each axis; where those
    differ by a factor of two or more, to square pixels of the finer one.

    Args:
        root: folder with ``dataset.json``.
        progress: show a progress bar.

    Raises:
        FileNotFoundError: folder, ``dataset.json`` or a listed file is missing.
        ValueError: a case fails :func:`~monai_amat.data.decathlon.check_case` or has an affine without spacing, or a
            class occurs in no case.

    Example:
        >>> import tempfile
        >>> from monai_amat.data import write_phantom
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = take_fingerprint(write_phantom(f"{folder}/p", volumes=2, shape=(16, 22, 14)), progress=False)
        >>> found.channels, found.labels[2], found.occurrences, found.pixel, found.resampled
        (('MRI',), 'Posterior', {1: 2, 2: 2}, (1.0, 1.0), False)
    """
    data = Decathlon(root)
    _warn_of_unlisted(data)
    bar = tqdm(data.cases, desc=f"{data.root.name} fingerprint", unit="volume", disable=not progress)
    volumes = [_measure(case, data) for case in bar]
    occurrences = {value: sum(value in volume.classes for volume in volumes) for value in data.labels if value != 0}
    absent = [f"{value} ({data.labels[value]})" for value, count in occurrences.items() if not count]
    if absent:
        raise ValueError(
            f"{data.root / 'dataset.json'}: 'labels' names class {', '.join(absent)}, which occurs in none of the "
            f"{len(data.cases)} cases: nothing could be learnt of it. Take it off 'labels' (values must stay without a "
            "gap), or add cases that have it."
        )
    pixel, resampled = _target([volume.spacing for volume in volumes])
    scales = [volume.spacing / pixel if resampled else np.ones(2) for volume in volumes]
    sizes = np.array([volume.content[:2] * scale for volume, scale in zip(volumes, scales, strict=True)])
    windows = np.array([volume.window * scale for volume, scale in zip(volumes, scales, strict=True)])
    height, width = (int(value) for value in np.round(np.median(sizes, axis=0)))
    rows, columns = (int(value) for value in np.ceil(windows.max(axis=0)))
    return Fingerprint(
        channels=data.channels,
        labels=data.labels,
        cases=len(data.cases),
        pixel=pixel,
        resampled=resampled,
        median_size=(max(1, height), max(1, width)),
        median_slices=max(1, round(float(np.median([volume.content[2] for volume in volumes])))),
        foreground_size=(rows, columns),
        occurrences=occurrences,
        deviations=tuple(float(value) for value in np.median([volume.deviations for volume in volumes], axis=0)),
    )


def _warn_of_unlisted(data: Decathlon) -> None:
    """Volumes beside the listed ones are more often forgotten than left out on purpose."""
    listed = {case.image.resolve() for case in data.cases}
    for folder in sorted({path.parent for path in listed}):
        others = sorted(
            path.name
            for path in folder.glob("[!.]*.nii*")
            if path.resolve() not in listed and path.name.endswith((".nii", ".nii.gz"))
        )
        if others:
            warnings.warn(
                f"{folder} holds {len(others)} volume(s) that {data.root / 'dataset.json'} does not list under "
                f"'training', {others[0]} first; they are left out.",
                stacklevel=3,
            )


def _measure(case: Case, data: Decathlon) -> _Volume:
    image, label = check_case(case, num_classes=data.num_classes, channels=data.num_channels)
    try:
        turned = SlicePlaned(("image", "label"))({"image": image, "label": label})
    except ValueError as error:  # an affine without a spacing along each axis
        raise ValueError(f"{case.image}: {error} Mend the header.") from error
    volume: MetaTensor = turned["image"]
    truth = turned["label"].as_tensor()[0]
    content = [_extent((volume.as_tensor() != 0).any(dim=0).numpy(), axis) for axis in range(3)]
    window = []
    for axis in (0, 1):
        first, last = _extent(truth.numpy() > 0, axis)
        middle = truth.shape[axis] // 2  # MONAI's, see check_fit
        window.append(2 * max(middle - first, last + 1 - middle) if last >= first else 0)
    return _Volume(
        spacing=np.linalg.norm(np.asarray(volume.affine)[:3, :2], axis=0),
        content=np.array([last + 1 - first for first, last in content]),
        window=np.array(window),
        classes={int(value) for value in truth.unique().tolist()},
        deviations=volume.as_tensor().flatten(1).std(dim=1, correction=0).numpy(),
    )


def _extent(mask: np.ndarray, axis: int) -> tuple[int, int]:
    """First and last index along an axis at which a mask is true anywhere; ``(0, -1)`` for none."""
    found = np.flatnonzero(mask.any(axis=tuple(i for i in range(mask.ndim) if i != axis)))
    return (int(found[0]), int(found[-1])) if len(found) else (0, -1)


def _target(spacings: Sequence[np.ndarray]) -> tuple[tuple[float, float], bool]:
    """The common in-plane spacing, and whether anything must be resampled to it."""
    median = np.median(spacings, axis=0)
    even = all(np.allclose(spacing, median, rtol=_SAME_SPACING, atol=0) for spacing in spacings)
    square = bool(median.max() < _SQUARE * median.min())
    rows, columns = median if square else np.full(2, median.min())
    return (round(float(rows), 4), round(float(columns), 4)), not (even and square)
