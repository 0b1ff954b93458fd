"""Settings for a data set without a bundle."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from monai_amat.tasks.segmentation import (
    DatasetProperties,
    Plan2D,
    make_plan,
    read_dataset_properties,
    read_plans,
    suggest_noise,
)
from monai_amat.tasks.segmentation.network import nnunet_features, nnunet_poolings
from monai_amat.templates.settings import SegmentationSettings

__all__ = ["planned_settings"]

# What the paper trained Heart and Prostate with.
_EPOCHS = _ITERATIONS = 50
# Pixels that a step of `small.json` may hold: sixteen slices of the hippocampus.
_SMALL_PIXELS = 16 * 56 * 40


def planned_settings(
    dataset_dir: str | Path, *, plans: str | Path | None = None, progress: bool = True
) -> SegmentationSettings:
    """Look at a Decathlon folder and settle everything that its bundle needs.

    Every volume is read, checked and measured; the network follows from the measures, or from nnU-Net's own plans; the
    noise levels from the size of a slice. The folds are the paper's five, or as many as leave three cases held out.

    Args:
        dataset_dir: folder with `dataset.json`.
        plans: `nnUNetPlans.json` of nnU-Net version 2, for this data set.
        progress: show a progress bar.

    Raises:
        FileNotFoundError: folder, `dataset.json`, a listed file or the plans are missing.
        ValueError: what `read_dataset_properties` and `read_plans`
            refuse, fewer than six cases, or plans that the network cannot be built from.
    """
    root = Path(dataset_dir).expanduser().resolve()
    given = None if plans is None else read_plans(plans)
    found = read_dataset_properties(root, progress=progress)
    if found.cases < 6:
        raise ValueError(
            f"{root / 'dataset.json'} lists {found.cases} cases; at least 6 are needed, so that one can be kept for "
            "validation and two for the test"
        )
    outputs = len(found.labels)
    plan = given or make_plan(
        found.median_size,
        median_slices=found.median_slices,
        cases=found.cases,
        channels=len(found.channels),
        num_classes=outputs,
        spacing=found.pixel if found.resampled else None,
    )
    base, most = plan.features[0], max(plan.features)
    if list(plan.features) != nnunet_features(len(plan.features), base, most):
        raise ValueError(f"{plans}: channels must double up to a maximum, got {list(plan.features)}")
    implied = nnunet_poolings(plan.patch_size)
    spacing = plan.spacing
    if spacing is not None and not found.resampled and np.allclose(spacing, found.pixel, rtol=0.01):
        spacing = None  # as it is already
    if spacing is not None and found.not_in_mm:
        raise ValueError(f"{found.not_in_mm}, since {plans} resamples slices to {spacing[0]:g} x {spacing[1]:g} mm")
    evaluated = _covering(found, plan, spacing)
    noise = suggest_noise(evaluated or plan.patch_size, len(found.channels))
    area = math.prod(plan.patch_size) * len(found.channels)
    return SegmentationSettings(
        name=root.name,
        task=f"2-D segmentation of {_listed(found.labels)} in {_modality(found)} slices, robust to adversarial noise",
        data_source=root.name,
        dataset_dir=str(root),
        cases=found.cases,
        n_splits=min(5, found.cases // 3),
        modality=_modality(found),
        channels=found.channels,
        classes=tuple(name for value, name in found.labels.items() if value),
        patch_size=plan.patch_size,
        eval_size=evaluated,
        # Left to the patch size where they follow from it, so that another patch size needs no other poolings.
        poolings=None if tuple(implied) == plan.poolings else plan.poolings,
        base_features=base,
        # A cap that no resolution has come to yet is nnU-Net's, for a larger patch may.
        max_features=max(most, 480) if most == base * 2 ** (len(plan.features) - 1) else most,
        spacing=spacing,
        batch_size=plan.batch_size,
        small_batch_size=max(2, min(16, _SMALL_PIXELS // area)),
        max_epochs=_EPOCHS,
        iterations_per_epoch=_ITERATIONS,
        delta=noise.delta,
        max_margin=noise.max_margin,
        start_margin=noise.epsilon,
        epsilon=noise.epsilon,
        noise_levels=noise.evaluation,
        strength_levels=(noise.evaluation[len(noise.evaluation) // 2],),
        huge_radius=noise.huge,
        dice_threshold=0.85,  # about the mean of the paper's three; amat_path wants the clean network's own
    )


def _covering(found: DatasetProperties, plan: Plan2D, spacing: tuple[float, float] | None) -> tuple[int, int] | None:
    """Size at which a centre crop loses no foreground; None where that is the patch."""
    size = []
    for axis, window in enumerate(found.foreground_size(spacing)):
        divisor = 2 ** plan.poolings[axis]
        size.append(max(plan.patch_size[axis], math.ceil(window / divisor) * divisor))
    return None if tuple(size) == plan.patch_size else (size[0], size[1])


def _listed(labels: dict[int, str]) -> str:
    names = [name for value, name in labels.items() if value]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _modality(found: DatasetProperties) -> str:
    return " and ".join(found.channels)
