"""What a Decathlon folder's volumes are like, as far as a 2-D plan and noise levels depend on it."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from monai.data import MetaTensor

from monai_amat.progress import track
from monai_amat.tasks.segmentation.data.decathlon import Case, Decathlon, check_case
from monai_amat.tasks.segmentation.transforms.plane_spacing import not_in_mm
from monai_amat.tasks.segmentation.transforms.slice_plane import SlicePlaned

__all__ = ["DatasetProperties", "dataset_properties"]

# In-plane spacings within this share of their median are one spacing: what a scanner's rounding makes.
_SAME_SPACING = 0.01
# nnU-Net pools axes apart whose spacings differ by this factor.
_SQUARE = 2.0
# Rounding of an interpolated label at a class's edge, in pixels.
_TIE = 1e-3
# Planes that are cut across the body's axes, to which NIfTI's x, y and z run along.
_PLANES = ("sagittal", "coronal", "axial")
# Share of a slice that may be empty margins: more, and patches of the size of what is not empty often miss it.
_MANY_MARGINS = 0.6


@dataclass(frozen=True)
class DatasetProperties:
    """What a data set's volumes are like, in their slicing frame.

    Attributes:
        channels: names of the image channels.
        labels: names of the classes by value, background included.
        cases: number of cases.
        pixel: in-plane spacing `(H, W)` in mm that the sizes below are given at.
        resampled: whether slices have to be resampled to it; otherwise all have it as they are.
        median_size: median `(H, W)` in pixels of what is not empty, there.
        median_slices: median number of slices that are not empty.
        foreground: of each case what `foreground_size` needs.
        margins: median share of a slice's area that is empty margins, which the sizes are taken without.
        not_in_mm: why the spacing of one of the volumes cannot be taken for mm, naming its file; None where all can.
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
    foreground: tuple[Foreground, ...]
    margins: float
    not_in_mm: str | None
    occurrences: dict[int, int]
    deviations: tuple[float, ...]

    def foreground_size(self, spacing: Sequence[float] | None = None) -> tuple[int, int]:
        """Smallest centred `(H, W)` window, in pixels, that holds every slice's foreground.

        Args:
            spacing: `(H, W)` in mm that slices are resampled to as
                `PlaneSpacing` does it; None for slices as they are.
        """
        return max(one.window(0, spacing) for one in self.foreground), max(
            one.window(1, spacing) for one in self.foreground
        )


@dataclass(frozen=True)
class Foreground:
    """Where in its slices one case has foreground, each along H and W.

    Attributes:
        size: of a slice, in pixels.
        spacing: of its pixels, in mm.
        first: pixel with foreground in any slice.
        last: the same; before `first` where there is none.
    """

    size: tuple[int, int]
    spacing: tuple[float, float]
    first: tuple[int, int]
    last: tuple[int, int]

    def window(self, axis: int, spacing: Sequence[float] | None = None) -> int:
        """Smallest centred window along one axis that holds the foreground, 0 where there is none.

        Example:
            >>> Foreground(size=(10, 10), spacing=(1.0, 1.0), first=(3, 4), last=(5, 9)).window(1)
            10
        """
        if self.last[axis] < self.first[axis]:
            return 0
        size, first, last = self.size[axis], self.first[axis], self.last[axis]
        if spacing is not None:
            # The rounded size decides where a pixel goes; by interpolation foreground reaches half a pixel beyond the
            # centres of its own, and a tie may go either way.
            resized = max(1, round(size * self.spacing[axis] / spacing[axis]))
            scale = resized / size
            first = max(0, math.ceil(first * scale - 0.5 - _TIE))
            last = min(resized - 1, math.floor((last + 1) * scale - 0.5 + _TIE))
            size = resized
        middle = size // 2  # MONAI's, see check_fit
        return 2 * max(middle - first, last + 1 - middle)


@dataclass(frozen=True)
class _Volume:
    """One case: the same as of the data set, before any resampling."""

    spacing: np.ndarray  # (2,), mm
    content: np.ndarray  # (3,), extent of what is not zero: H, W, slices
    foreground: Foreground
    plane: str  # of its slices
    not_in_mm: str | None
    classes: set[int]
    deviations: np.ndarray  # (channels,)


def dataset_properties(root: str | Path, *, progress: bool = True) -> DatasetProperties:
    """Read every volume of a Decathlon folder, refuse what would spoil a training, and measure the rest.

    As nnU-Net does, sizes are taken without empty margins, since many images are padded to a square. Slices are to be
    resampled where in-plane spacings differ among cases by more than 1 %, to the median of each axis; where those
    differ by a factor of two or more, to square pixels of the finer one. It is a warning where volumes would be cut
    across different axes of the body, and where most of their slices is empty margins.

    Args:
        root: folder with `dataset.json`.
        progress: show how many volumes are read.

    Raises:
        FileNotFoundError: folder, `dataset.json` or a listed file is missing.
        ValueError: a case fails `check_case`, a class occurs in no case, or slices
            must be resampled where spacings are not in mm.

    Example:
        >>> import tempfile
        >>> from monai_amat.tasks.segmentation import write_phantom
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = dataset_properties(write_phantom(f"{folder}/p", volumes=2, shape=(16, 22, 14)), progress=False)
        >>> found.channels, found.labels[2], found.occurrences, found.pixel, found.resampled
        (('MRI',), 'Posterior', {1: 2, 2: 2}, (1.0, 1.0), False)
    """
    data = Decathlon(root)
    _warn_of_unlisted(data)
    bar = track(data.cases, title=f"{data.root.name} fingerprint", units="volumes", show=progress)
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
    trouble = next((volume.not_in_mm for volume in volumes if volume.not_in_mm), None)
    if resampled and trouble:
        raise ValueError(f"{trouble} Slices cannot be resampled, which they have to be: their spacings differ.")
    margins = float(np.median([1 - _area(volume.content) / _area(volume.foreground.size) for volume in volumes]))
    _warn_of_planes(data, volumes)
    if margins > _MANY_MARGINS:
        warnings.warn(
            f"{data.root}: {margins:.0%} of a slice is empty margins (grey value 0). The patch is planned for the rest "
            "by nnU-Net's rule, which crops volumes to what is not zero first; here slices stay whole, so that many "
            "patches would show nothing. Crop images and labels alike to where the image is not zero (MONAI's "
            "CropForegroundd) and start again.",
            stacklevel=2,
        )
    scales = [volume.spacing / pixel if resampled else np.ones(2) for volume in volumes]
    sizes = np.array([volume.content[:2] * scale for volume, scale in zip(volumes, scales, strict=True)])
    height, width = (int(value) for value in np.round(np.median(sizes, axis=0)))
    return DatasetProperties(
        channels=data.channels,
        labels=data.labels,
        cases=len(data.cases),
        pixel=pixel,
        resampled=resampled,
        median_size=(max(1, height), max(1, width)),
        median_slices=max(1, round(float(np.median([volume.content[2] for volume in volumes])))),
        foreground=tuple(volume.foreground for volume in volumes),
        margins=margins,
        not_in_mm=trouble,
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


def _warn_of_planes(data: Decathlon, volumes: Sequence[_Volume]) -> None:
    """Sagittal and axial slices are two tasks; mostly one header is wrong, or a volume's spacings are all alike."""
    planes = [volume.plane for volume in volumes]
    counts = Counter(planes).most_common()
    if len(counts) > 1:
        odd = data.cases[planes.index(counts[-1][0])].image.name
        warnings.warn(
            f"{data.root}: volumes are cut along the axis of largest spacing, which makes "
            f"{' and '.join(f'{count} of them {plane} slices' for plane, count in counts)} ({odd} is {counts[-1][0]}). "
            "Where that is not meant bring them to one spacing along one axis, or store them in one orientation.",
            stacklevel=3,
        )


def _area(size: Sequence[float] | np.ndarray) -> float:
    return float(size[0]) * float(size[1])


def _measure(case: Case, data: Decathlon) -> _Volume:
    image, label = check_case(case, num_classes=data.num_classes, channels=data.num_channels)
    turned = SlicePlaned(("image", "label"))({"image": image, "label": label})
    volume: MetaTensor = turned["image"]
    truth = turned["label"].as_tensor()[0]
    content = [_extent((volume.as_tensor() != 0).any(dim=0).numpy(), axis) for axis in range(3)]
    extents = [_extent(truth.numpy() > 0, axis) for axis in (0, 1)]
    spacing = np.linalg.norm(np.asarray(volume.affine)[:3, :2], axis=0)
    return _Volume(
        spacing=spacing,
        content=np.array([last + 1 - first for first, last in content]),
        foreground=Foreground(
            size=(truth.shape[0], truth.shape[1]),
            spacing=(float(spacing[0]), float(spacing[1])),
            first=(extents[0][0], extents[1][0]),
            last=(extents[0][1], extents[1][1]),
        ),
        plane=_PLANES[int(np.abs(np.asarray(volume.affine)[:3, 2]).argmax())],
        not_in_mm=not_in_mm(volume),
        classes={int(value) for value in truth.unique().tolist()},
        deviations=volume.as_tensor().flatten(1).std(dim=1, correction=0).numpy(),
    )


def _extent(mask: np.ndarray, axis: int) -> tuple[int, int]:
    """First and last index along an axis at which a mask is true anywhere; `(0, -1)` for none."""
    found = np.flatnonzero(mask.any(axis=tuple(i for i in range(mask.ndim) if i != axis)))
    return (int(found[0]), int(found[-1])) if len(found) else (0, -1)


def _target(spacings: Sequence[np.ndarray]) -> tuple[tuple[float, float], bool]:
    """The common in-plane spacing, and whether anything must be resampled to it."""
    median = np.median(spacings, axis=0)
    even = all(np.allclose(spacing, median, rtol=_SAME_SPACING, atol=0) for spacing in spacings)
    square = bool(median.max() < _SQUARE * median.min())
    rows, columns = median if square else np.full(2, median.min())
    return (_rounded(rows), _rounded(columns)), not (even and square)


def _rounded(mm: float) -> float:
    """To four decimals; to four digits where a header is in metres, which would come to 0."""
    return round(float(mm), max(4, 3 - math.floor(math.log10(mm))))
