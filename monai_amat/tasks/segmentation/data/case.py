"""One training case: its files, and its voxels after all checks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor

from monai_amat.tasks.segmentation.data.volume import check_voxels, compare_grids, load_volume

__all__ = ["Case", "check_case"]


@dataclass(frozen=True)
class Case:
    """Files of one training case.

    Attributes:
        name: name of the case.
        images: path of the image volume, or of one volume per channel, in order.
        label: path of the label volume.
    """

    name: str
    images: tuple[Path, ...]
    label: Path

    @property
    def image(self) -> Path:
        """The image volume, or that of the first channel."""
        return self.images[0]


def check_case(case: Case, *, num_classes: int, channels: int) -> tuple[MetaTensor, MetaTensor]:
    """Load one case and refuse whatever would fail or mislead in training.

    Args:
        case: the case to load.
        num_classes: number of classes, background included; label values must be integers below it.
        channels: number of channels the image must have.

    Returns:
        Image `(channels, x, y, z)` and label `(1, x, y, z)`, both float32, in the axis order of the files.

    Raises:
        ValueError: naming the file, if it cannot be read; if the image has another number of channels, a NaN or
            infinite voxel, or a constant channel (which cannot be z-scored); if the label has another shape, other axes
            or spacings, or a value outside the classes.

    Example:
        >>> import tempfile
        >>> from monai_amat.tasks.segmentation import Decathlon, write_phantom
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     data = Decathlon(write_phantom(f"{folder}/phantom", volumes=1, shape=(12, 16, 12)))
        ...     image, label = check_case(data.cases[0], num_classes=3, channels=1)
        >>> image.shape[0], image.shape[1:] == label.shape[1:]
        (1, True)
    """
    image, label = _image(case), load_volume(case.label)
    if image.shape[0] != channels:
        raise ValueError(f"{case.image}: expected {channels} channel(s), got {image.shape[0]}")
    if label.shape != (1, *image.shape[1:]):
        raise ValueError(
            f"{case.label}: label and image must have one shape, got {tuple(label.shape[1:])} for the label, "
            f"{tuple(image.shape[1:])} for {case.image.name}"
        )
    check_voxels(image, case.image)
    valid = (label >= 0) & (label < num_classes) & (label == label.round())  # false for NaN as well
    if not bool(valid.all()):
        raise ValueError(
            f"{case.label}: label values must be integers from 0 to {num_classes - 1} (the classes of dataset.json), "
            f"got {torch.unique(label[~valid])[:5].tolist()}"
        )
    compare_grids(case.image, case.label)
    return image, label


def _image(case: Case) -> MetaTensor:
    """The image `(channels, x, y, z)`, from one file or from one file per channel."""
    if len(case.images) == 1:
        return load_volume(case.image)
    parts: list[torch.Tensor] = [load_volume(path) for path in case.images]
    for path, part in zip(case.images, parts, strict=True):
        if part.shape != (1, *parts[0].shape[1:]):
            raise ValueError(
                f"{path}: expected one channel of the shape {tuple(parts[0].shape[1:])}, that of {case.image.name}, "
                "got "
                f"{tuple(part.shape)}"
            )
    for path in case.images[1:]:
        compare_grids(case.image, path)
    image: Any = torch.cat(parts)
    return image
