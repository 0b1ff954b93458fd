"""The 2-D slices of a Decathlon folder as a list of small dictionaries, ready for a MONAI data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from monai.data import MetaTensor, get_track_meta, set_track_meta
from monai.networks.utils import one_hot
from monai.transforms import NormalizeIntensity
from monai.utils import convert_to_tensor

from monai_amat.progress import track
from monai_amat.tasks.segmentation.data.decathlon import Case, Decathlon, check_case, split
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
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Load one section of a Decathlon folder, checked, z-scored and cut into slices.

    Each volume is z-scored per channel over all its voxels (nnU-Net's rule for MRI) and cut along the axis of largest
    spacing (`SlicePlane`). The order is fixed: cases by name, slices from
    the first on, so a slice's place in the list is a stable sample ID. At inference `SlicePlaned`, `PlaneSpacingd`
    and `NormalizeIntensityd(channel_wise=True)` do the same to a whole volume.

    Args:
        root: folder with `dataset.json`.
        section: which cases of `split`, or `"all"` without a split.
        fold: which fold is held out.
        n_splits: number of folds; fewer for small data sets.
        limit: only the first so many cases of the section.
        slice_step: only every `slice_step`-th slice, beginning with the first.
        spacing: resample every slice to this spacing along H and W in mm, labels a class at a time; None keeps the
            pixels as they are.
        num_classes: classes, background included, that `dataset.json` must list; None takes any number.
        channels: image channels that it must list; None takes any number.
        progress: show how many volumes are read.

    Returns:
        One dictionary a slice, of plain tensors that share no memory with each other:

        - `image`: `(channels, H, W)` float32, mean 0 and standard deviation 1 over the volume;
        - `label`: `(1, H, W)` uint8;
        - `case`: name of the case;
        - `slice`: index along the slicing axis of the stored volume;
        - `classes`: the foreground classes in this slice, joined by commas (`""`, `"2"`, `"1,2"`): a string,
          because slices with none, one and two classes collate into one batch;
        - `spacing`: `"2x2"` for example, where slices are resampled: part of what a data set is known by, so that
          thresholds and margins of one resolution are refused at another.

    Raises:
        FileNotFoundError: folder, `dataset.json` or a listed file is missing.
        ValueError: a setting is out of range, the section would be empty, a class occurs in none of the training
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
    if (limit is not None and limit < 1) or slice_step < 1:
        raise ValueError(f"limit and slice_step must be at least 1, found limit={limit}, slice_step={slice_step}.")
    data = Decathlon(root)
    for what, wanted, found in (
        ("classes (background included)", num_classes, data.num_classes),
        ("image channels", channels, data.num_channels),
    ):
        if wanted not in (None, found):
            raise ValueError(
                f"{data.root / 'dataset.json'} lists {found} {what}, but {wanted} are expected here; "
                "use the data set that the bundle was made for, or set its number"
            )
    cases = _section(data, section, fold, n_splits)[:limit]
    resample = PlaneSpacing(spacing)
    slices: list[dict[str, Any]] = []
    tracked = get_track_meta()
    set_track_meta(True)  # the slicing axis follows from the affine, whatever the training transforms keep of it
    try:
        for case in track(cases, title=f"{data.root.name} {section}", units="volumes", show=progress):
            image, label = check_case(case, num_classes=data.num_classes, channels=data.num_channels)
            slices += _cut(case, image, label, slice_step, resample, data.num_classes)
    finally:
        set_track_meta(tracked)
    if section == "train":
        _check_classes(slices, data, len(cases))
    return slices


def _section(data: Decathlon, section: str, fold: int, n_splits: int) -> tuple[Case, ...]:
    if section == "all":
        return data.cases
    if section not in ("train", "validation", "test"):
        raise ValueError(f"section must be 'train', 'validation', 'test' or 'all', found {section!r}.")
    try:
        names = getattr(split([case.name for case in data.cases], fold, n_splits), section)
    except ValueError as error:
        raise ValueError(f"{data.root}: {error}") from error
    return tuple(case for case in data.cases if case.name in names)


def _check_classes(slices: list[dict[str, Any]], data: Decathlon, cases: int) -> None:
    """Refuse to train on a class that is never seen: it could not be learnt, and every score would average over it."""
    seen = {value for item in slices for value in item["classes"].split(",")}
    missing = [f"{value} ({name})" for value, name in data.labels.items() if value and str(value) not in seen]
    if missing:
        raise ValueError(
            f"{data.root}: class {', '.join(missing)} of dataset.json occurs in none of the {len(slices)} training "
            f"slices ({cases} cases): train on more of them (limit, slice_step), choose another fold, or take the "
            "class off 'labels'."
        )


def _cut(
    case: Case, image: MetaTensor, label: MetaTensor, slice_step: int, resample: PlaneSpacing, num_classes: int
) -> list[dict[str, Any]]:
    """Slices of one volume `(C, x, y, z)`."""
    turned = SlicePlaned(("image", "label"))({"image": image, "label": label})
    if resample.spacing is not None:
        stored = turned["image"]
        turned["image"] = resample(stored)
        # A channel a class: label values are names, between which there is nothing to interpolate. The image's affine
        # counts, as for the slicing axis.
        onehot = one_hot(turned["label"].as_tensor()[None], num_classes)[0]
        turned["label"] = resample(MetaTensor(onehot, affine=stored.affine)).argmax(0, keepdim=True)
    volume = convert_to_tensor(NormalizeIntensity(channel_wise=True)(turned["image"]), track_meta=False)
    truth = convert_to_tensor(turned["label"], track_meta=False).to(torch.uint8)
    return [
        {
            # A clone, because copying or sending a view would carry the whole volume along.
            "image": volume[..., i].clone(memory_format=torch.contiguous_format),
            "label": truth[..., i].clone(memory_format=torch.contiguous_format),
            "case": case.name,
            "slice": i,
            "classes": _foreground(truth[..., i]),
            **({} if resample.spacing is None else {"spacing": "x".join(f"{mm:g}" for mm in resample.spacing)}),
        }
        for i in range(0, volume.shape[-1], slice_step)
    ]


def _foreground(label: torch.Tensor) -> str:
    """Foreground classes in a label, joined by commas."""
    return ",".join(str(value) for value in label.flatten().bincount().nonzero().flatten().tolist() if value > 0)
