"""Settings of adversarial training where another package's loop builds the objects."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_amat.attacks import FullStart, InnerStart, ProjectedGradientDescent
from monai_amat.checks import check_not_negative, check_within
from monai_amat.margins import Absolute, PaperRule, RunningThresholds, Thresholds

__all__ = ["AMATSettings"]


_LONGEST_WARMUP = 500


@dataclass(frozen=True, kw_only=True)
class AMATSettings:
    """Adaptive margins by Algorithm 1, or a constant ε (SAT).

    The defaults are the paper's and its authors' for blood cells, at 320 x 320 pixels and values in 0..1. Noise is
    measured over the whole image, so that it means less on a larger one: for others multiply `step` and
    `max_margin` by the square root of the ratio of pixels.

    Args:
        step: Δ, what every margin starts at and grows by (line 10).
        max_margin: cap on a margin; None for none.
        thresholds: ξ for each of the loss's terms: a file of `Thresholds`, such an object,
            a plain mapping, or `RunningThresholds`, which are estimated during training. By default running,
            mean + 2·std, after a warm-up of a tenth of the training and at most 500 steps; until then every image has
            noise of size Δ.
        steps: gradient steps of the attack.
        alpha: length of the attack's path over the radius, α: each step is α/steps of the radius.
        radius: a constant ε for every image instead of margins; 0 trains on clean images.

    Raises:
        ValueError: for settings out of range.

    Example:
        >>> AMATSettings(step=1.25, max_margin=7.5).rule()
        PaperRule(step=1.25, max_margin=7.5, min_margin=0.0, decay=1.0)
        >>> AMATSettings(radius=5.0).adaptive
        False
    """

    step: float = 2.5
    max_margin: float | None = 15.0
    thresholds: str | Path | Thresholds | RunningThresholds | Mapping[str, float] | None = None
    steps: int = 20
    alpha: float = 5.0
    radius: float | None = None

    def __post_init__(self) -> None:
        if self.radius is not None:
            check_not_negative("radius (ε)", self.radius)
        check_within("steps", self.steps, 1)
        self.attack()
        self.rule()

    @property
    def adaptive(self) -> bool:
        """Whether every image has a margin of its own."""
        return self.radius is None

    def attack(self) -> ProjectedGradientDescent:
        """What makes the noise; images lie in 0..1."""
        return ProjectedGradientDescent(
            steps=self.steps,
            rel_step=self.alpha / self.steps,
            random_start=InnerStart(self.step) if self.adaptive else FullStart(),
            clip_range=(0.0, 1.0),
        )

    def rule(self) -> PaperRule:
        """How margins move."""
        return PaperRule(step=self.step, max_margin=self.max_margin)

    def acceptance(self, total_steps: int | None = None) -> Absolute:
        """When noise is acceptable (line 9); running thresholds are a fresh copy.

        Args:
            total_steps: steps of the whole training, which the default warm-up depends on; None where unknown.

        Raises:
            FileNotFoundError: when there is no such file of thresholds.
            ValueError: when it is none.
        """
        given = self.thresholds
        if given is None:
            tenth = _LONGEST_WARMUP if total_steps is None else total_steps // 10
            return Absolute(RunningThresholds(k=2.0, warmup=min(max(tenth, 1), _LONGEST_WARMUP)))
        return Absolute(Thresholds.load(given) if isinstance(given, str | Path) else copy.deepcopy(given))

    def plain(self, total_steps: int | None = None) -> dict[str, Any]:
        """The settings as a file of margins keeps them.

        Args:
            total_steps: as `acceptance` takes it.

        Raises:
            FileNotFoundError: when there is no such file of thresholds.
            ValueError: when it is none.
        """
        found = self.acceptance(total_steps).thresholds
        if isinstance(found, RunningThresholds):
            thresholds = {"k": found.k, "momentum": found.momentum, "warmup": found.warmup}
        else:
            thresholds = dict(found if isinstance(found, Mapping) else found.values)
        return {name: getattr(self, name) for name in ("step", "max_margin", "steps", "alpha")} | {
            "thresholds": thresholds
        }
