"""PGD that stops each sample at the acceptance boundary, after the authors' earlier IMA training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from monai_amat.attacks.base import AttackResult, Evaluation, Objective
from monai_amat.attacks.norms import NormSetting, per_sample
from monai_amat.attacks.pgd import AttackState, ProjectedGradientDescent
from monai_amat.attacks.random_start import RandomStart
from monai_amat.checks import check_not_negative, check_within

__all__ = ["BoundaryPGD"]


@dataclass(kw_only=True)
class _BoundaryState(AttackState):
    """Per sample: whether an accepted point is known, the last of them, and the first rejected one."""

    has_accepted: Tensor
    rejected: Tensor
    inside: Tensor
    outside: Tensor


@dataclass(frozen=True, kw_only=True)
class BoundaryPGD(ProjectedGradientDescent):
    """Walk as PGD does until a sample is rejected, then bisect between its last accepted and first rejected point.

    A rejected sample leaves the batch at once, so that the work of a step shrinks with the samples left. What comes
    back, per sample:

    - never rejected: the last iterate; `all_accepted` is true;
    - rejected on the way: the accepted end of `halvings` bisections, the most noise known to be harmless;
    - rejected before any noise: plain PGD noise of size `floor`, since no boundary lies between.

    Args:
        floor: radius for samples whose clean input is rejected already, in the units of the inputs; Δ as a rule.
            0 leaves them clean.
        halvings: bisections; each is one forward of the rejected samples.
        random_start: None (default) walks from the input itself, so that the first verdict costs nothing.

    The other settings are those of `ProjectedGradientDescent`.

    Example:
        >>> from monai_amat.attacks import Evaluation
        >>> def objective(noisy, rows):
        ...     loss = noisy.norm(dim=1)
        ...     return Evaluation(loss, loss < 3.0)
        >>> result = BoundaryPGD(floor=0.5, steps=10, halvings=20)(objective, torch.full((1, 4), 0.1), 10.0)
        >>> round(result.noisy.norm().item(), 3), result.accepted.item(), result.all_accepted.item()
        (3.0, True, False)
    """

    norm: NormSetting = NormSetting()  # noqa: RUF009 (again, since type checkers do not see it inherited)
    floor: float = 0.0
    halvings: int = 10
    random_start: RandomStart | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative("floor", self.floor)
        check_within("halvings", self.halvings, 0)
        if self.best_iterate:
            raise ValueError("BoundaryPGD returns the boundary point; best_iterate has no meaning here")

    @property
    def needs_verdicts(self) -> bool:
        """Always: the verdict is what it follows."""
        return True

    def begin(self, inputs: Tensor, radius: Tensor | float, seeds: Sequence[int] | None) -> AttackState:
        """Lay out the state with room for both ends of each sample's boundary."""
        state = super().begin(inputs, radius, seeds)
        none = torch.zeros(len(state.clean), dtype=torch.bool, device=state.clean.device)
        return _BoundaryState(
            **vars(state),
            has_accepted=none,
            rejected=none.clone(),
            inside=torch.zeros_like(state.clean),
            outside=torch.zeros_like(state.clean),
        )

    def start(self, objective: Objective, state: AttackState) -> None:
        """Judge the clean input first where the walk does not begin there."""
        if self.random_start is not None and len(state.clean):
            self.observe(state, state.noise, self.look(objective, state, state.noise))
        super().start(objective, state)

    def observe(self, state: AttackState, noise: Tensor, evaluation: Evaluation) -> Tensor | None:
        """Record the active samples' verdicts and drop the rejected ones."""
        assert isinstance(state, _BoundaryState)
        if evaluation.accepted is None:
            raise ValueError("BoundaryPGD needs a verdict: the objective must return Evaluation(loss, accepted)")
        kept = evaluation.accepted
        state.inside[state.rows[kept]] = noise[kept]
        state.has_accepted[state.rows[kept]] = True
        state.outside[state.rows[~kept]] = noise[~kept]
        state.rejected[state.rows[~kept]] = True
        state.rows = state.rows[kept]
        return kept

    def finish(self, objective: Objective, state: AttackState) -> AttackResult:
        """Judge the last iterates, bisect the rejected samples, attack the samples that are rejected without noise."""
        assert isinstance(state, _BoundaryState)
        if len(state.rows):
            last = state.select(state.noise)
            self.observe(state, last, self.look(objective, state, last))
        state.all_accepted = ~state.rejected
        state.accepted = state.has_accepted.clone()
        self._bisect(objective, state)
        state.noise = state.inside
        self._attack_rejected_when_clean(objective, state)
        return self.pack(state)

    def _bisect(self, objective: Objective, state: _BoundaryState) -> None:
        state.rows = torch.nonzero(state.rejected & state.has_accepted).flatten()
        if not len(state.rows):
            return
        inside, outside = state.inside[state.rows], state.outside[state.rows]
        for _ in range(self.halvings):
            middle = (inside + outside) / 2  # ball and range are convex: the middle of two points in them is in them
            verdict = self.look(objective, state, middle).accepted
            assert verdict is not None
            good = per_sample(verdict, middle)
            inside, outside = torch.where(good, middle, inside), torch.where(good, outside, middle)
        state.inside[state.rows] = inside

    def _attack_rejected_when_clean(self, objective: Objective, state: _BoundaryState) -> None:
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

        result = plain(
            without_verdict,
            state.clean[rows].to(state.dtype),
            state.radius[rows].clamp_max(self.floor),
            seeds=[state.seeds[row] for row in rows.tolist()],
        )
        state.noise[rows] = result.noisy.to(state.clean.dtype) - state.clean[rows]
        state.steps[rows] += result.steps
        state.stalled[rows] += result.stalled
        # Noise may even help a sample that is rejected when clean; the verdict is that of the point returned.
        state.rows = rows
        verdict = self.look(objective, state, state.noise[rows]).accepted
        assert verdict is not None and state.accepted is not None
        state.accepted[rows] = verdict
