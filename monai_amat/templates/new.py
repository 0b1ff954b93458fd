"""A bundle for a data set of your own: written from its folder, with the commands that come next."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from shlex import quote

from monai_amat.tasks.segmentation import per_value
from monai_amat.templates.planned import planned_settings
from monai_amat.templates.settings import PAPER, SegmentationSettings, paper_settings
from monai_amat.templates.write import write_bundle

__all__ = ["new_bundle"]

_FEW = 5  # test cases, of which a bootstrap has few different resamples


def new_bundle(
    bundle_dir: str | Path,
    *,
    dataset_dir: str | Path | None = None,
    plans: str | Path | None = None,
    settings: str | Path | None = None,
    progress: bool = True,
) -> str:
    """Write a segmentation bundle and say what was settled.

    Args:
        bundle_dir: the bundle's folder, new or empty.
        dataset_dir: Decathlon folder. Without `settings` it is read and planned for, see
            `planned_settings`; with them it becomes the bundle's default data set.
        plans: nnU-Net's plans for the data set.
        settings: one of the paper's tasks, or a file of `SegmentationSettings`.
        progress: show a progress bar.

    Returns:
        a few lines for the user: network, noise levels per image and per value, the next command.

    Raises:
        FileNotFoundError: for files that are missing.
        FileExistsError: when `bundle_dir` holds another bundle.
        ValueError: for neither data set nor settings, plans beside settings, or data that no bundle can be made for.
    """
    _check_target(Path(bundle_dir).expanduser().resolve(), dataset_dir)
    if settings is not None and plans is not None:
        raise ValueError("give --plans or --settings: settings say what the network is")
    if settings is not None:
        chosen = paper_settings(str(settings)) if str(settings) in PAPER else SegmentationSettings.read(settings)
        if dataset_dir is not None:
            chosen = dataclasses.replace(chosen, dataset_dir=str(Path(dataset_dir).expanduser().resolve()))
    elif dataset_dir is not None:
        chosen = planned_settings(dataset_dir, plans=plans, progress=progress)
    else:
        raise ValueError(f"give --dataset_dir, the Decathlon folder to write a bundle for, or --settings {PAPER[0]}")
    root = write_bundle(chosen, bundle_dir)
    return _report(root, chosen)


def _check_target(root: Path, dataset_dir: str | Path | None) -> None:
    """What can be said of the folders before the volumes are read."""
    data = None if dataset_dir is None else Path(dataset_dir).expanduser().resolve()
    for option, folder in (("--bundle_dir", root), ("--dataset_dir", data)):
        if folder is not None and "#" in str(folder):
            raise ValueError(
                f"{option} is {folder}: MONAI replaces # by :: in every value, so a path with # cannot be used; rename "
                "the folder, or use a link without #"
            )
    if root.exists() and not root.is_dir():
        raise FileExistsError(f"{root} is a file; give --bundle_dir a new or empty folder")
    train = root / "configs" / "train.json"
    if train.is_file():
        try:
            there = json.loads(train.read_text(encoding="utf-8")).get("dataset_dir")
        except (ValueError, AttributeError):
            there = None
        if data is not None and there != str(data):
            raise FileExistsError(f"{root} holds a bundle for {there}; give --bundle_dir a new or empty folder")
    elif root.is_dir() and any(root.iterdir()):
        raise FileExistsError(f"{root} is not empty and holds no bundle; give --bundle_dir a new or empty folder")


def _report(root: Path, chosen: SegmentationSettings) -> str:
    channels = len(chosen.channels)
    height, width = chosen.largest
    each = ", ".join(
        f"{level:g} ({per_value(level, chosen.largest, channels):.3f})" for level in chosen.noise_levels if level
    )
    parts = chosen.sections
    few = "; intervals over so few say little" if len(parts.test) < _FEW else ""
    resampled = "" if chosen.spacing is None else f", at {chosen.spacing[0]:g}×{chosen.spacing[1]:g} mm"
    return "\n".join(
        [
            f"{root}: {channels} channel(s), {len(chosen.classes) + 1} classes with the background, {chosen.cases} "
            "cases",
            f"network: patch {chosen.patch_size[0]}×{chosen.patch_size[1]}{resampled}, batch {chosen.batch_size}",
            f"split: fold 0 of {chosen.n_splits}, {len(parts.train)} cases to train on, {len(parts.validation)} to "
            f"validate, {len(parts.test)} to test{few}",
            f"noise: ε {each} as an L2 norm over a {height}×{width} slice (in brackets: root mean square over its "
            f"{math.prod(chosen.largest) * channels} values, in standard deviations of the grey values)",
            f"next: python -m monai_amat compare --bundle {quote(str(root))} "
            f"--dataset_dir {quote(chosen.dataset_dir)} --arms std sat:{chosen.epsilon:g} amat --overlays small "
            f"--output_dir {quote(f'runs/{Path(chosen.dataset_dir).name}')}",
        ]
    )
