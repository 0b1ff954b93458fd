"""Properties of the volumes of a Decathlon folder that a 2-D plan and noise levels depend on."""

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
from monai_amat.tasks.segmentation.data.case import Case, check_case
from monai_amat.tasks.segmentation.data.decathlon import Decathlon
from monai_amat.tasks.segmentation.transforms.plane_spacing import not_in_mm
from monai_amat.tasks.segmentation.transforms.slice_plane import SlicePlaned
from monai_amat.wording import some

__all__ = ["DatasetProperties", "read_dataset_properties"]

# In-plane spacings that differ from their median by a smaller share are equal up to rounding.
_SAME_SPACING = 0.01
# nnU-Net pools axes separately if their spacings differ by this factor.
_SQUARE = 2.0
# Rounding of an interpolated label at the edge of a class, in pixels.
_TIE = 1e-3
# Planes perpendicular to x, y and z of NIfTI.
_PLANES = ("sagittal", "coronal", "axial")
# Largest share of empty margins in a slice; with more, patches of the size of the content often miss it.
_MANY_MARGINS = 0.6


@dataclass(frozen=True)
class DatasetProperties:
    """Properties of the volumes of a data set, in their slicing frame.

    Attributes:
        channels: names of the image channels.
        labels: names of the classes by value, background included.
        cases: number of cases.
        pixel: in-plane spacing `(H, W)` in mm of the sizes below.
        resampled: whether slices must be resampled to `pixel`; otherwise all slices have this spacing.
        median_size: median `(H, W)` in pixels of the content that is not empty.
        median_slices: median number of slices that are not empty.
        foreground: position of the foreground in each case, for `foreground_size`.
        margins: median share of empty margins in the area of a slice; the sizes exclude them.
        not_in_mm: why the spacing of a volume is not in mm, naming its file; None if all are in mm.
        occurrences: number of cases with each foreground class.
        deviations: median over cases of the standard deviation of each channel, in grey values; one unit after the
            z-score.
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
        """Compute the smallest centred window `(H, W)`, in pixels, that holds the foreground of every slice.

        Args:
            spacing: `(H, W)` in mm that slices are resampled to (`PlaneSpacing`); None for the stored slices.
        """
        return max(one.window(0, spacing) for one in self.foreground), max(
            one.window(1, spacing) for one in self.foreground
        )


@dataclass(frozen=True)
class Foreground:
    """Position of the foreground in the slices of one case, along H and W.

    Attributes:
        size: size of a slice, in pixels.
        spacing: spacing of its pixels, in mm.
        first: first pixel with foreground in any slice.
        last: last pixel with foreground in any slice; before `first` if there is none.
    """

    size: tuple[int, int]
    spacing: tuple[float, float]
    first: tuple[int, int]
    last: tuple[int, int]

    def window(self, axis: int, spacing: Sequence[float] | None = None) -> int:
        """Compute the smallest centred window along one axis that holds the foreground; 0 if there is none.

        Example:
            >>> Foreground(size=(10, 10), spacing=(1.0, 1.0), first=(3, 4), last=(5, 9)).window(1)
            10
        """
        if self.last[axis] < self.first[axis]:
            return 0
        size, first, last = self.size[axis], self.first[axis], self.last[axis]
        if spacing is not None:
            # The rounded size determines the position of a pixel; interpolation extends foreground to half a pixel
            # beyond the centres of its pixels, with ties in either direction.
            resized = max(1, round(size * self.spacing[axis] / spacing[axis]))
            scale = resized / size
            first = max(0, math.ceil(first * scale - 0.5 - _TIE))
            last = min(resized - 1, math.floor((last + 1) * scale - 0.5 + _TIE))
            size = resized
        middle = size // 2  # the centre of MONAI's crop, see check_fit
        return 2 * max(middle - first, last + 1 - middle)


@dataclass(frozen=True)
class _Volume:
    """Properties of one case, before any resampling."""

    spacing: np.ndarray  # (2,), mm
    content: np.ndarray  # (3,), extent of the voxels that are not zero: H, W, slices
    foreground: Foreground
    plane: str  # plane of the slices
    not_in_mm: str | None
    classes: set[int]
    deviations: np.ndarray  # (channels,)


def read_dataset_properties(root: str | Path, *, progress: bool = True) -> DatasetProperties:
    """Read every volume of a Decathlon folder, check it, and measure its properties.

    Sizes exclude empty margins, as in nnU-Net, because many images are padded to a square. If in-plane spacings differ
    between cases by more than 1 %, slices must be resampled to the median of each axis; if the two medians differ by a
    factor of two or more, to square pixels of the finer one. There is a warning if volumes would be cut along different
    axes of the body, or if slices consist mostly of empty margins.

    Args:
        root: folder with `dataset.json`.
        progress: show how many volumes are read.

    Raises:
        FileNotFoundError: if the folder, `dataset.json` or a listed file is missing.
        ValueError: if a case fails `check_case`, a class occurs in no case, or slices must be resampled although
            spacings are not in mm.

    Example:
        >>> import tempfile
        >>> from monai_amat.tasks.segmentation import write_phantom
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     root = write_phantom(f"{folder}/p", volumes=2, shape=(16, 22, 14))
        ...     found = read_dataset_properties(root, progress=False)
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
            f"{data.root / 'dataset.json'}: expected each class of 'labels' in the cases, got none of "
            f"{len(data.cases)} cases "
            f"with class {', '.join(absent)}; remove it from 'labels' (values must have no gap), or add cases with it"
        )
    pixel, resampled = _target([volume.spacing for volume in volumes])
    trouble = next((volume.not_in_mm for volume in volumes if volume.not_in_mm), None)
    if resampled and trouble:
        raise ValueError(f"{trouble}; the slices must be resampled, because their spacings differ")
    margins = float(np.median([1 - _area(volume.content) / _area(volume.foreground.size) for volume in volumes]))
    _warn_of_planes(data, volumes)
    if margins > _MANY_MARGINS:
        warnings.warn(
            f"{data.root}: {margins:.0%} of a slice is empty margins (grey value 0). The patch is planned for the "
            "rest, as in nnU-Net, which first crops volumes to the voxels that are not zero; here slices are not "
            "cropped, so that many patches would be empty. Crop images and labels to the voxels that are not zero "
            "(CropForegroundd of MONAI) and start again",
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
    """Warn of volumes that are not listed, which are more often forgotten than left out on purpose."""
    listed = {case.image.resolve() for case in data.cases}
    for folder in sorted({path.parent for path in listed}):
        others = sorted(
            path.name
            for path in folder.glob("[!.]*.nii*")
            if path.resolve() not in listed and path.name.endswith((".nii", ".nii.gz"))
        )
        if others:
            warnings.warn(
                f"{folder} holds {len(others)} volume(s) that {data.root / 'dataset.json'} does not list as "
                f"training cases ({some(others)}); they are left out",
                stacklevel=3,
            )


def _warn_of_planes(data: Decathlon, volumes: Sequence[_Volume]) -> None:
    """Warn of mixed planes; the usual cause is a wrong header, or a volume with equal spacings along all axes."""
    planes = [volume.plane for volume in volumes]
    counts = Counter(planes).most_common()
    if len(counts) > 1:
        odd = data.cases[planes.index(counts[-1][0])].image.name
        warnings.warn(
            f"{data.root}: volumes are cut along the axis of largest spacing, which makes "
            f"{' and '.join(f'{count} of them {plane} slices' for plane, count in counts)} ({odd} is {counts[-1][0]}). "
            "If this is not intended, resample them to one spacing along one axis, or store them in one orientation",
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
    """First and last index along an axis where a mask is True anywhere; `(0, -1)` if there is none."""
    found = np.flatnonzero(mask.any(axis=tuple(i for i in range(mask.ndim) if i != axis)))
    return (int(found[0]), int(found[-1])) if len(found) else (0, -1)


def _target(spacings: Sequence[np.ndarray]) -> tuple[tuple[float, float], bool]:
    """Common in-plane spacing, and whether slices must be resampled to it."""
    median = np.median(spacings, axis=0)
    even = all(np.allclose(spacing, median, rtol=_SAME_SPACING, atol=0) for spacing in spacings)
    square = bool(median.max() < _SQUARE * median.min())
    rows, columns = median if square else np.full(2, median.min())
    return (_rounded(rows), _rounded(columns)), not (even and square)


def _rounded(mm: float) -> float:
    """Round to four decimals, or to four digits if that would give 0 (a header in metres)."""
    return round(float(mm), max(4, 3 - math.floor(math.log10(mm))))
