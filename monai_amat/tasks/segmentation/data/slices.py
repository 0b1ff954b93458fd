"""The 2-D slices of a Decathlon folder as a list of dictionaries for a MONAI data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from monai.data import MetaTensor, get_track_meta, set_track_meta
from monai.networks.utils import one_hot
from monai.transforms import NormalizeIntensity
from monai.utils import convert_to_tensor

from monai_amat.checks import check_within
from monai_amat.progress import track
from monai_amat.tasks.segmentation.data.case import Case, check_case
from monai_amat.tasks.segmentation.data.decathlon import Decathlon
from monai_amat.tasks.segmentation.data.slice_store import SliceStore, needed_memory
from monai_amat.tasks.segmentation.data.split import split_cases
from monai_amat.tasks.segmentation.transforms.plane_spacing import PlaneSpacing
from monai_amat.tasks.segmentation.transforms.slice_plane import SlicePlaned

__all__ = ["Section", "load_slices"]

Section = Literal["train", "validation", "test", "all"]


def load_slices(
    root: str | Path,
    section: Section = "train",
    *,
    fold: int = 0,
    n_splits: int = 5,
    limit: int | None = None,
    slice_step: int = 1,
    spacing: Sequence[float] | None = None,
    num_classes: int | None = None,
    channels: int | None = None,
    memory_limit: float | None = None,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Load one section of a Decathlon folder: check, z-score and cut its volumes into slices.

    Each volume is z-scored per channel over all its voxels (the rule of nnU-Net for MRI) and cut along the axis of
    largest spacing (`SlicePlane`). Cases are sorted by name and slices by index, so the index of a slice in the list is
    a stable sample ID. At inference `SlicePlaned`, `PlaneSpacingd` and `NormalizeIntensityd(channel_wise=True)` do the
    same to a whole volume.

    Args:
        root: folder with `dataset.json`.
        section: section of `split`, or `"all"` for all cases.
        fold: number of the held-out fold.
        n_splits: number of folds; fewer for small data sets.
        limit: keep only the first `limit` cases of the section.
        slice_step: keep only every `slice_step`-th slice, beginning with the first.
        spacing: resample every slice to this spacing along H and W in mm, labels class by class; None does not
            resample.
        num_classes: number of classes, background included, that `dataset.json` must list; None accepts any number.
        channels: number of image channels that it must list; None accepts any number.
        memory_limit: GB of memory above which the slices are read from temporary files when they are used, with the
            same values; None for half of the available memory.
        progress: show how many volumes are read.

    Returns:
        One dictionary per slice, of plain tensors that share no memory:

        - `image`: `(channels, H, W)` float32, mean 0 and standard deviation 1 over the volume;
        - `label`: `(1, H, W)` uint8;
        - `case`: name of the case;
        - `slice`: index along the slicing axis of the stored volume;
        - `classes`: the foreground classes in this slice, joined by commas (`""`, `"2"`, `"1,2"`); a string, so that
          slices with different numbers of classes collate into one batch;
        - `spacing`: for example `"2x2"`, only if slices are resampled; it is part of the fingerprint of the data set,
          so that thresholds and margins of one resolution are refused at another.

    Raises:
        FileNotFoundError: if the folder, `dataset.json` or a listed file is missing.
        ValueError: if a setting is out of range, the section would be empty, a class occurs in none of the training
            slices, or a case fails `check_case`.

    Example:
        >>> import tempfile
        >>> from monai_amat.tasks.segmentation.phantom import write_phantom
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_phantom(f"{folder}/phantom", volumes=1, shape=(12, 16, 12)) and None
        ...     slices = load_slices(f"{folder}/phantom", "all", progress=False)
        >>> sorted(slices[0]), slices[0]["case"], slices[0]["image"].dtype
        (['case', 'classes', 'image', 'label', 'slice'], 'phantom_000', torch.float32)
    """
    if limit is not None:
        check_within("limit", limit, 1)
    check_within("slice_step", slice_step, 1)
    data = Decathlon(root)
    for what, wanted, found in (
        ("classes (background included)", num_classes, data.num_classes),
        ("image channels", channels, data.num_channels),
    ):
        if wanted not in (None, found):
            raise ValueError(
                f"{data.root / 'dataset.json'}: expected {wanted} {what}, got {found}; use the data "
                "set that the bundle was made for, or change the number"
            )
    cases = _section(data, section, fold, n_splits)[:limit]
    resample = PlaneSpacing(spacing)
    needed = needed_memory(cases, channels=data.num_channels, slice_step=slice_step, spacing=resample.spacing)
    allowed = None if memory_limit is None else int(memory_limit * 1e9)
    store = SliceStore(needed, limit=allowed, what=f"{data.root} {section}")
    slices: list[dict[str, Any]] = []
    tracked = get_track_meta()
    set_track_meta(True)  # the slicing axis follows from the affine
    try:
        for case in track(cases, title=f"{data.root.name} {section}", units="volumes", show=progress):
            image, label = check_case(case, num_classes=data.num_classes, channels=data.num_channels)
            slices += _cut(case, image, label, slice_step, resample, data.num_classes, store)
    finally:
        set_track_meta(tracked)
    if section == "train":
        _check_classes(slices, data, len(cases))
    return slices


def _section(data: Decathlon, section: str, fold: int, n_splits: int) -> tuple[Case, ...]:
    if section == "all":
        return data.cases
    if section not in ("train", "validation", "test"):
        raise ValueError(f"section must be 'train', 'validation', 'test' or 'all', got {section!r}")
    try:
        names = getattr(split_cases([case.name for case in data.cases], fold, n_splits), section)
    except ValueError as error:
        raise ValueError(f"{data.root}: {error}") from error
    return tuple(case for case in data.cases if case.name in names)


def _check_classes(slices: list[dict[str, Any]], data: Decathlon, cases: int) -> None:
    """Refuse a class without training slices: it cannot be learnt, and every score would average over it."""
    seen = {value for item in slices for value in item["classes"].split(",")}
    missing = [f"{value} ({name})" for value, name in data.labels.items() if value and str(value) not in seen]
    if missing:
        raise ValueError(
            f"{data.root}: expected each class of dataset.json in the training slices, got none with class "
            f"{', '.join(missing)} among {len(slices)} slices ({cases} cases); train on more of them (limit, "
            "slice_step), choose another fold, or remove the class from 'labels'"
        )


def _cut(
    case: Case,
    image: MetaTensor,
    label: MetaTensor,
    slice_step: int,
    resample: PlaneSpacing,
    num_classes: int,
    store: SliceStore,
) -> list[dict[str, Any]]:
    """Slices of one volume `(C, x, y, z)`."""
    turned = SlicePlaned(("image", "label"))({"image": image, "label": label})
    if resample.spacing is not None:
        stored = turned["image"]
        turned["image"] = resample(stored)
        # One channel per class, because label values must not be interpolated. The affine of the image counts, as for
        # the slicing axis.
        onehot = one_hot(turned["label"].as_tensor()[None], num_classes)[0]
        turned["label"] = resample(MetaTensor(onehot, affine=stored.affine)).argmax(0, keepdim=True)
    volume = convert_to_tensor(NormalizeIntensity(channel_wise=True)(turned["image"]), track_meta=False)
    truth = convert_to_tensor(turned["label"], track_meta=False).to(torch.uint8)
    indices = range(0, volume.shape[-1], slice_step)
    return [
        {
            "image": pixels,
            "label": classes,
            "case": case.name,
            "slice": i,
            "classes": _foreground(classes),
            **({} if resample.spacing is None else {"spacing": "x".join(f"{mm:g}" for mm in resample.spacing)}),
        }
        for i, (pixels, classes) in zip(indices, store.keep(volume, truth, indices), strict=True)
    ]


def _foreground(label: torch.Tensor) -> str:
    """Foreground classes in a label, joined by commas."""
    return ",".join(str(value) for value in label.flatten().bincount().nonzero().flatten().tolist() if value > 0)
