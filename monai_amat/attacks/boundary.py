"""PGD that stops each sample at the acceptance boundary, as in the authors' earlier IMA training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from monai_amat.attacks.ball import Ball
from monai_amat.attacks.base import AttackResult, Evaluation, Objective
from monai_amat.attacks.norms import NormSetting, per_sample
from monai_amat.attacks.pgd import AttackState, ProjectedGradientDescent
from monai_amat.attacks.random_start import RandomStart
from monai_amat.checks import check_not_negative, check_within

__all__ = ["BoundaryPGD"]


@dataclass(kw_only=True)
class _BoundaryState(AttackState):
    """Adds, for each sample, the last accepted and the first rejected point, and whether there is one."""

    has_accepted: Tensor
    rejected: Tensor
    inside: Tensor
    outside: Tensor


@dataclass(frozen=True, kw_only=True)
class BoundaryPGD(ProjectedGradientDescent):
    """Take PGD steps until a sample is rejected, then bisect between its last accepted and first rejected point.

    A rejected sample leaves the batch at once, so that later steps cost less. The result of a sample that is

    - never rejected: the last iterate; `all_accepted` is true;
    - rejected after a step: the accepted end of `halvings` bisections, the largest noise known to be accepted;
    - rejected without noise: plain PGD noise of size `floor`, because there is no boundary to find.

    Args:
        floor: radius for samples that are rejected without noise, in the units of the inputs; usually Δ. With 0 they
            stay clean.
        halvings: number of bisections, at least 0; each costs one forward of the rejected samples.
        random_start: None (default) starts at the input itself, so that its verdict needs no extra forward.

    The other settings are those of `ProjectedGradientDescent`.

    Raises:
        ValueError: if a setting is out of range, or `best_iterate` is set.

    Example:
        >>> from monai_amat.attacks import Evaluation
        >>> def objective(noisy, rows):
        ...     loss = noisy.norm(dim=1)
        ...     return Evaluation(loss, loss < 3.0)
        >>> result = BoundaryPGD(floor=0.5, steps=10, halvings=20)(objective, torch.full((1, 4), 0.1), 10.0)
        >>> round(result.noisy.norm().item(), 3), result.accepted.item(), result.all_accepted.item()
        (3.0, True, False)
    """

    norm: NormSetting = NormSetting()  # noqa: RUF009 (repeated, because type checkers do not see it inherited)
    floor: float = 0.0
    halvings: int = 10
    random_start: RandomStart | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative("floor", self.floor)
        check_within("halvings", self.halvings, 0)
        if self.best_iterate:
            raise ValueError("best_iterate must be False for BoundaryPGD, which returns the boundary point, got True")

    @property
    def needs_verdicts(self) -> bool:
        """Whether the objective must return verdicts: yes, they define the boundary."""
        return True

    def begin(self, ball: Ball) -> AttackState:
        """The state of the attack, with both ends of each sample's boundary."""
        none = torch.zeros(len(ball.clean), dtype=torch.bool, device=ball.clean.device)
        return _BoundaryState(
            **vars(super().begin(ball)),
            has_accepted=none,
            rejected=none.clone(),
            inside=torch.zeros_like(ball.clean),
            outside=torch.zeros_like(ball.clean),
        )

    def start(self, objective: Objective, state: AttackState) -> None:
        """Judge the clean input first if the attack has a random start."""
        if self.random_start is not None and len(state.noise):
            self.observe(state, state.noise, self.look(objective, state.active, state.noise))
        super().start(objective, state)

    def observe(self, state: AttackState, noise: Tensor, evaluation: Evaluation) -> Tensor | None:
        """Record the verdicts of the active samples and drop rejected samples."""
        assert isinstance(state, _BoundaryState)
        if evaluation.accepted is None:
            raise ValueError(
                "BoundaryPGD needs a verdict, got None; let the objective return Evaluation(loss, accepted)"
            )
        kept = evaluation.accepted
        state.inside[state.rows[kept]] = noise[kept]
        state.has_accepted[state.rows[kept]] = True
        state.outside[state.rows[~kept]] = noise[~kept]
        state.rejected[state.rows[~kept]] = True
        state.rows = state.rows[kept]
        return kept

    def finish(self, objective: Objective, state: AttackState) -> AttackResult:
        """Judge the last iterates, bisect, and attack the samples that are rejected without noise."""
        assert isinstance(state, _BoundaryState)
        if len(state.rows):
            last = state.select(state.noise)
            self.observe(state, last, self.look(objective, state.active, last))
        state.all_accepted = ~state.rejected
        state.accepted = state.has_accepted.clone()
        self._bisect(objective, state)
        state.noise = state.inside
        self._attack_rejected_clean(objective, state)
        return self.pack(state)

    def _bisect(self, objective: Objective, state: _BoundaryState) -> None:
        """Move the accepted end of each rejected sample towards its first rejected point."""
        state.rows = torch.nonzero(state.rejected & state.has_accepted).flatten()
        if not len(state.rows):
            return
        inside, outside = state.inside[state.rows], state.outside[state.rows]
        for _ in range(self.halvings):
            middle = (inside + outside) / 2  # ball and range are convex, so that the middle is inside both
            verdict = self.look(objective, state.active, middle).accepted
            assert verdict is not None
            good = per_sample(verdict, middle)
            inside, outside = torch.where(good, middle, inside), torch.where(good, outside, middle)
        state.inside[state.rows] = inside

    def _attack_rejected_clean(self, objective: Objective, state: _BoundaryState) -> None:
        """Plain PGD noise of size `floor` for the samples that are rejected without noise."""
        rows = torch.nonzero(~state.has_accepted).flatten()
        if not len(rows) or self.floor == 0:
            return
        plain = ProjectedGradientDescent(
            norm=self.norm,
            steps=self.steps,
            rel_step=self.rel_step,
            random_start=self.random_start,
            clip_range=self.clip_range,
            amp=self.amp,
        )

        def without_verdict(noisy: Tensor, some: Tensor) -> Tensor:
            value = objective(noisy, rows[some])
            return value.loss if isinstance(value, Evaluation) else value

        part = state.ball.part(rows)
        result = plain(without_verdict, part.clean.to(part.dtype), part.radius.clamp_max(self.floor), seeds=part.seeds)
        state.noise[rows] = result.noisy.to(part.clean.dtype) - part.clean
        state.steps[rows] += result.steps
        state.stalled[rows] += result.stalled
        # Noise may turn a rejected sample into an accepted one; the verdict must be that of the returned point.
        verdict = self.look(objective, part, state.noise[rows]).accepted
        assert verdict is not None and state.accepted is not None
        state.accepted[rows] = verdict
