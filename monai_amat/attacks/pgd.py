"""Projected gradient descent (Madry et al. 2018), per sample, in any norm: line 3 of Algorithm 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from monai_amat.attacks.ball import Ball, BallAttack, higher
from monai_amat.attacks.base import AttackResult, Evaluation, Objective
from monai_amat.attacks.gradient import input_gradient
from monai_amat.attacks.norms import NormSetting, per_sample
from monai_amat.attacks.progress import at_progress, late_step
from monai_amat.attacks.random_start import FullStart, RandomStart
from monai_amat.checks import check_positive, check_within

__all__ = ["AttackState", "ProjectedGradientDescent"]


@dataclass
class AttackState:
    """A batch under attack; all tensors but `rows` cover the whole batch.

    Args:
        ball: the noise that is allowed around each sample.
        noise: `(B, *shape)`, the present noise.
        rows: `(n,)`, the samples that are still under attack.
        steps: `(B,)` gradient evaluations.
        stalled: `(B,)` steps without a usable gradient.
        accepted: `(B,)` verdict at the final noise.
        all_accepted: `(B,)` whether every iterate so far was accepted.
        best_loss: `(B,)`, with `best_iterate` the highest loss so far.
        best_noise: `(B, *shape)`, the noise of that loss.
        step_loss: `(B,)`, the loss at the last step; None if some samples have left the batch.
        late_loss: `(B,)`, the loss at the start of the last tenth of the steps.
    """

    ball: Ball
    noise: Tensor
    rows: Tensor
    steps: Tensor
    stalled: Tensor
    accepted: Tensor | None = None
    all_accepted: Tensor | None = None
    best_loss: Tensor | None = None
    best_noise: Tensor | None = None
    step_loss: Tensor | None = None
    late_loss: Tensor | None = None

    @property
    def complete(self) -> bool:
        """Whether every sample is still under attack."""
        return len(self.rows) == len(self.noise)

    @property
    def active(self) -> Ball:
        """The ball of the samples that are still under attack."""
        return self.ball if self.complete else self.ball.part(self.rows)

    def select(self, values: Tensor) -> Tensor:
        """The active rows of `values`."""
        return values if self.complete else values[self.rows]

    def assign(self, name: str, values: Tensor) -> None:
        """Write the active rows of the attribute `name`, in place if some samples have left the batch."""
        if self.complete:
            setattr(self, name, values)
        else:
            getattr(self, name)[self.rows] = values


@dataclass(frozen=True, kw_only=True)
class ProjectedGradientDescent(BallAttack):
    r"""Raise the loss of each sample by `steps` normalised gradient steps inside a ball around it.

    $$\delta \leftarrow \Pi_{\|\delta\| \le r}\left(\delta + a\,r\,\frac{g}{\|g\|}\right)$$

    $g$ is the gradient of the sample's own loss with respect to the noise, and $a$ is `rel_step`. With the maximum
    norm the direction is the sign of $g$. With `clip_range` the noisy image is then clipped, which only shrinks the
    noise.

    Args:
        norm: 2 (as in the paper), `inf` (`"inf"` in JSON) or a `Norm`.
        steps: gradient steps, at least 0; the paper trains with 20 and evaluates with 100. With 0 the result is the
            random start: random noise of the same size, which any attack must exceed.
        rel_step: step size over radius, α/steps: 0.2 (α = 4) or 0.25 (α = 5) in training, 0.05 in evaluation.
        random_start: start radius from radius; None starts at the input itself.
        best_iterate: whether to return the iterate of highest loss instead of the last; the paper returns the last.

    `clip_range` and `amp` are those of `BallAttack`. The attack changes neither the mode of a module nor the global
    random state.

    Raises:
        ValueError: if a setting is out of range.

    Example:
        >>> attack = ProjectedGradientDescent(steps=10, rel_step=0.5)
        >>> result = attack(lambda noisy, rows: noisy.sum(dim=1), torch.zeros(2, 4), torch.tensor([2.0, 0.0]))
        >>> round(result.noisy[0].sum().item(), 1), result.noisy[1].tolist(), result.steps.tolist()
        (4.0, [0.0, 0.0, 0.0, 0.0], [10, 10])
    """

    norm: NormSetting = NormSetting()  # noqa: RUF009 (repeated, because type checkers do not see it inherited)
    steps: int = 20
    rel_step: float = 0.25
    random_start: RandomStart | None = field(default_factory=FullStart)
    best_iterate: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_within("steps", self.steps, 0)
        check_positive("rel_step (step size over radius)", self.rel_step)

    def __call__(
        self, objective: Objective, inputs: Tensor, radius: Tensor | float, *, seeds: Sequence[int] | None = None
    ) -> AttackResult:
        """Attack a batch.

        Args:
            objective: see `Objective`.
            inputs: `(B, *shape)`, floating point, any number of dimensions.
            radius: `(B,)` or a number, in the units of `inputs`; 0 returns the input.
            seeds: one integer per sample for the random start; by default i for sample i.

        Returns:
            the result; the noise stays within `radius` up to rounding.

        Raises:
            TypeError: if the inputs are not floating point.
            ValueError: if inputs or radii are out of range, or the objective does not return one loss per sample.
        """
        with torch.inference_mode(False):
            return self.search(objective, self.ball(inputs, radius, seeds))

    def search(self, objective: Objective, ball: Ball) -> AttackResult:
        """Take the steps; an empty ball takes none, but its samples are judged where verdicts are needed."""
        state = self.begin(ball)
        steps = 0 if ball.empty else self.steps
        self.start(objective, state)
        late = late_step(steps)
        for number in range(steps):
            if not len(state.rows):
                break
            self.step(at_progress(objective, number / steps), state)
            if number == late:
                state.late_loss = state.step_loss
        return self.finish(objective, state)

    def begin(self, ball: Ball) -> AttackState:
        """The state before the first step, without noise."""
        counts = torch.zeros(len(ball.clean), dtype=torch.int64, device=ball.clean.device)
        return AttackState(
            ball=ball, noise=torch.zeros_like(ball.clean), rows=ball.rows, steps=counts, stalled=counts.clone()
        )

    def start(self, objective: Objective, state: AttackState) -> None:
        """Set the noise at which the first gradient is taken."""
        ball = state.ball
        if self.random_start is None or not len(ball.clean):
            return
        state.noise = ball.confine(self.norm.draw(ball.clean, self.random_start(ball.radius), ball.seeds))

    def step(self, objective: Objective, state: AttackState) -> None:
        """One gradient step of the active samples."""
        ball, start = state.active, state.select(state.noise)
        noisy = ball.noisy(start).requires_grad_(True)
        with torch.enable_grad():
            # A copy, because a network whose first layer works in place changes its input.
            evaluation = self.evaluate(objective, noisy.clone(), ball.rows)
            state.step_loss = evaluation.loss.detach() if state.complete else None
            kept = self.observe(state, start, evaluation)
            if not len(state.rows):
                return
            gradient = input_gradient(evaluation.loss, noisy, kept=kept, amp=self.amp).to(start.dtype)
        direction = self.norm.direction(gradient)
        moves = direction.reshape(len(direction), -1).any(dim=1)
        if kept is not None:
            ball, start = state.active, start[kept]
        moved = start + per_sample(self.rel_step * ball.radius, start) * direction
        state.assign("noise", ball.confine(moved))
        state.assign("steps", state.select(state.steps) + 1)
        state.assign("stalled", state.select(state.stalled) + ~moves)

    def observe(self, state: AttackState, noise: Tensor, evaluation: Evaluation) -> Tensor | None:
        """Record an evaluated iterate; a subclass may drop samples from `state.rows` and return the mask kept."""
        if evaluation.accepted is not None:
            state.all_accepted = (
                evaluation.accepted if state.all_accepted is None else state.all_accepted & evaluation.accepted
            )
        if self.best_iterate:
            loss = evaluation.loss.detach()
            if state.best_loss is None or state.best_noise is None:
                state.best_loss, state.best_noise = loss, noise
            else:
                better = higher(loss, state.best_loss)
                state.best_loss = torch.where(better, loss, state.best_loss)
                state.best_noise = torch.where(per_sample(better, noise), noise, state.best_noise)
        return None

    def finish(self, objective: Objective, state: AttackState) -> AttackResult:
        """Judge the last iterate, if verdicts or the best iterate are needed, and build the result."""
        if state.all_accepted is not None or self.best_iterate:
            last = self.look(objective, state.ball, state.noise)
            self.observe(state, state.noise, last)
            state.accepted = last.accepted
            if state.best_noise is not None:
                state.noise = state.best_noise
                if last.accepted is not None:
                    state.accepted = self.look(objective, state.ball, state.noise).accepted
        return self.pack(state)

    def pack(self, state: AttackState) -> AttackResult:
        """The result of a batch whose noise is final."""
        gain = None
        if state.step_loss is not None and state.late_loss is not None:
            gain = state.step_loss - state.late_loss
        return AttackResult(
            state.ball.noisy(state.noise), state.accepted, state.all_accepted, state.steps, state.stalled, gain
        )
