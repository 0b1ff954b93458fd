"""The attack suite of detection."""

from __future__ import annotations

from typing import Any

from monai_amat.attacks import Attack
from monai_amat.handlers.metric import Metric
from monai_amat.robustness.suite import SuiteName, attack_suite
from monai_amat.tasks.detection.loss.attack_loss import MatchedConfidence

__all__ = ["detection_suite"]


def detection_suite(
    name: SuiteName = "worst",
    *,
    metric: Metric,
    network: Any,
    **settings: Any,
) -> Attack:
    """The attack of an evaluation: `worst`, for each sample the worst of two attacks, or the `paper`'s.

    The two are Auto-PGD on the training loss and on the smooth matched confidence. An image whose average
    IoU is 0 is attacked no further.

    Args:
        name: which suite, see `attack_suite`.
        metric: the metric that is reported.
        network: see `DetectionAttackLoss`.
        settings: `steps`, `norm`, `clip_range` and `amp` of `attack_suite`.

    Raises:
        ValueError: for another name.
    """
    losses = {"matched-confidence": MatchedConfidence(network)}
    return attack_suite(name, metric=metric, losses=losses, done_at=0.0, **settings)
