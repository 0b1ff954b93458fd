"""The attack suite of segmentation."""

from __future__ import annotations

from typing import Any

from monai_amat.attacks import Attack
from monai_amat.handlers.metric import Metric
from monai_amat.losses.attack import Activation
from monai_amat.robustness.suite import SuiteName, attack_suite
from monai_amat.tasks.segmentation.attack_loss import SmoothDiceIndex

__all__ = ["segmentation_suite"]


def segmentation_suite(
    name: SuiteName = "worst",
    *,
    metric: Metric,
    activation: Activation = "softmax",
    **settings: Any,
) -> Attack:
    """The attack of an evaluation: `worst`, for each sample the worst of two attacks, or the `paper`'s.

    The two are Auto-PGD on the training loss and on the smooth ADI. A slice whose ADI is 0 is attacked no further.

    Args:
        name: which suite, see `attack_suite`.
        metric: the metric that is reported.
        activation: of the network's outputs.
        settings: `steps`, `norm`, `clip_range` and `amp` of `attack_suite`.

    Raises:
        ValueError: for another name.

    Example:
        >>> from monai_amat.tasks.segmentation import DiceIndexMetric
        >>> suite = segmentation_suite(metric=DiceIndexMetric(num_classes=3))
        >>> suite.names, suite.done_at
        (('loss', 'smooth-adi'), 0.0)
    """
    losses = {"smooth-adi": SmoothDiceIndex(activation=activation)}
    return attack_suite(name, metric=metric, losses=losses, done_at=0.0, **settings)
