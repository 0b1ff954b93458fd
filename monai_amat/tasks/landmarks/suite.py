"""The attack suite of landmarks."""

from __future__ import annotations

from typing import Any

from monai_amat.attacks import Attack
from monai_amat.handlers.metric import Metric
from monai_amat.robustness.suite import SuiteName, attack_suite
from monai_amat.tasks.landmarks.attack_loss import HeatmapLikelihood

__all__ = ["landmark_suite"]


def landmark_suite(
    name: SuiteName = "worst",
    *,
    metric: Metric,
    **settings: Any,
) -> Attack:
    """The attack of an evaluation: `worst`, for each sample the worst of two attacks, or the `paper`'s.

    The two are Auto-PGD on the training loss and on the likelihood of the true cells.

    Args:
        name: which suite, see `attack_suite`.
        metric: the metric that is reported.
        settings: `steps`, `norm`, `clip_range` and `amp` of `attack_suite`.

    Raises:
        ValueError: for another name.

    Example:
        >>> from monai_amat.tasks.landmarks import RadialErrorMetric
        >>> landmark_suite(metric=RadialErrorMetric(landmarks=19)).names
        ('loss', 'likelihood')
    """
    losses = {"likelihood": HeatmapLikelihood()}
    return attack_suite(name, metric=metric, losses=losses, **settings)
