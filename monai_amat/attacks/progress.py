"""The progress of an attack, for objectives whose loss changes along the attack."""

from __future__ import annotations

from monai_amat.attacks.base import Objective

__all__ = ["at_progress", "late_step"]


def at_progress(objective: Objective, progress: float) -> Objective:
    """The objective at a share of an attack's steps.

    An objective whose loss changes along the attack has a method `at(progress)`, which returns the objective for that
    share; any other objective is returned unchanged. At step t of T an attack calls `at(t / T)`; nothing is stored.

    Args:
        objective: see `Objective`.
        progress: share of the steps, from 0 to 1.

    Example:
        >>> class Fading:
        ...     def __init__(self, weight=1.0):
        ...         self.weight = weight
        ...     def __call__(self, noisy, rows):
        ...         return self.weight * noisy.sum(dim=1)
        ...     def at(self, progress):
        ...         return Fading(1 - progress)
        >>> at_progress(Fading(), 0.25).weight
        0.75
    """
    at = getattr(objective, "at", None)
    return objective if at is None else at(progress)


def late_step(steps: int) -> int:
    """The step at which the last tenth of an attack begins.

    Example:
        >>> [late_step(steps) for steps in (1, 5, 20, 100)]
        [0, 4, 18, 90]
    """
    return steps - max(steps // 10, 1)
