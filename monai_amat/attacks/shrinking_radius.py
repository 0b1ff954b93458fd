"""Auto-PGD from a large radius down to the radius itself, as in the SEA evaluation of segmentation networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from monai_amat.attacks.apgd import AutoProjectedGradientDescent
from monai_amat.attacks.ball import Ball
from monai_amat.attacks.base import AttackResult, Objective
from monai_amat.attacks.norms import Norm

__all__ = ["ShrinkingRadius"]


@dataclass(frozen=True, kw_only=True)
class ShrinkingRadius:
    """Attack at a multiple of the radius first, then at smaller multiples, and last at the radius itself.

    Each stage starts at the best point of the stage before, projected onto its own smaller ball. In a
    large ball the search finds regions of high loss that a search inside the small ball misses.

    Source: Croce, Singh and Hein 2024, "Towards reliable evaluation and fast training of robust semantic segmentation
    models", section 3.3.

    Args:
        attack: the attack of each stage; its `steps` are the steps of all stages together.
        factors: radius of each stage over the radius, in falling order, the last one 1.
        shares: share of the steps of each stage, of sum 1; the last stage gets the remainder of rounding.

    Raises:
        ValueError: if a setting is out of range.

    Example:
        >>> attack = ShrinkingRadius(attack=AutoProjectedGradientDescent(steps=10))
        >>> result = attack(lambda noisy, rows: noisy.sum(dim=1), torch.zeros(1, 4), 2.0)
        >>> round(result.noisy.sum().item(), 3), result.steps.tolist(), attack.stage_steps
        (4.0, [10], [3, 3, 4])
    """

    attack: AutoProjectedGradientDescent = field(default_factory=lambda: AutoProjectedGradientDescent(steps=60))
    factors: tuple[float, ...] = (2.0, 1.5, 1.0)
    shares: tuple[float, ...] = (0.3, 0.3, 0.4)

    def __post_init__(self) -> None:
        for name in ("factors", "shares"):
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
        falling = all(first > second for first, second in zip(self.factors, self.factors[1:], strict=False))
        if not self.factors or self.factors[-1] != 1 or not falling:
            raise ValueError(f"factors must fall to 1, as in (2, 1.5, 1), got {self.factors}")
        if len(self.shares) != len(self.factors) or min(self.shares) < 0 or abs(sum(self.shares) - 1) > 1e-6:
            raise ValueError(f"shares must be one per factor, at least 0 and of sum 1, got {self.shares}")

    @property
    def norm(self) -> Norm:
        """The norm of the attack."""
        return self.attack.norm

    @property
    def needs_verdicts(self) -> bool:
        """Whether the attack needs verdicts."""
        return self.attack.needs_verdicts

    @property
    def stage_steps(self) -> list[int]:
        """Gradient steps of each stage."""
        counts = [int(share * self.attack.steps + 1e-9) for share in self.shares[:-1]]
        return [*counts, self.attack.steps - sum(counts)]

    def __call__(
        self, objective: Objective, inputs: Tensor, radius: Tensor | float, *, seeds: Sequence[int] | None = None
    ) -> AttackResult:
        """Attack a batch; see `BallAttack`."""
        with torch.inference_mode(False):
            ball = self.attack.ball(inputs, radius, seeds)
            return ball.untouched() if ball.empty else self._run(objective, ball)

    def _run(self, objective: Objective, ball: Ball) -> AttackResult:
        noise: Tensor | None = None
        spent = stalled = None
        for factor, steps in zip(self.factors, self.stage_steps, strict=True):
            stage = replace(ball, radius=factor * ball.radius)
            start = self.attack.begin(stage) if noise is None else stage.confine(noise)
            found = self.attack.climb(objective, stage, start, steps)
            noise = found.noise
            spent = found.steps if spent is None else spent + found.steps
            stalled = found.stalled if stalled is None else stalled + found.stalled
        assert spent is not None and stalled is not None
        # The verdicts are those of the last stage, because points outside the ball cannot be the result.
        return replace(found.result(ball), steps=spent, stalled=stalled)
