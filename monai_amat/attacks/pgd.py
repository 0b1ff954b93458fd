"""Projected gradient descent (Madry et al. 2018), per sample, in any norm: line 3 of Algorithm 1."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from monai_amat.attacks.base import (
    AttackResult,
    Evaluation,
    Objective,
    as_evaluation,
    check_inputs,
    check_radius,
    round_range,
)
from monai_amat.attacks.gradient import input_gradient
from monai_amat.attacks.norms import NormSetting, per_sample
from monai_amat.attacks.progress import at_progress, late_step
from monai_amat.attacks.random_start import FullStart, RandomStart
from monai_amat.checks import check_positive, check_within

__all__ = ["AttackState", "ProjectedGradientDescent"]


@dataclass
class AttackState:
    """A batch under attack. `rows` are the samples still being attacked; all else covers the whole batch."""

    clean: Tensor
    radius: Tensor
    seeds: Sequence[int]
    dtype: torch.dtype
    clip_range: tuple[float, float] | None
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
        """Whether every sample is still under attack, so that nothing need be selected."""
        return len(self.rows) == len(self.clean)

    def select(self, values: Tensor) -> Tensor:
        """The active rows of `values`."""
        return values if self.complete else values[self.rows]

    def assign(self, name: str, values: Tensor) -> None:
        """Write the active rows of the attribute `name`, in place where some samples are done."""
        if self.complete:
            setattr(self, name, values)
        else:
            getattr(self, name)[self.rows] = values

    def noisy(self, noise: Tensor) -> Tensor:
        """The active rows with `noise` added, as the network gets them.

        Rounding to half precision may carry a pixel further than its noise says, even to infinity. Such a pixel takes
        the next number towards the clean image, which half precision holds exactly.
        """
        clean = self.select(self.clean)
        noisy = (clean + noise).to(self.dtype)
        if self.dtype != clean.dtype:
            further = (noisy.to(clean.dtype) - clean).abs() > noise.abs()
            noisy = torch.where(further, torch.nextafter(noisy, clean.to(self.dtype)), noisy)
        return noisy if self.clip_range is None else noisy.clamp(*self.clip_range)


@dataclass(frozen=True, kw_only=True)
class ProjectedGradientDescent:
    r"""Raise the loss of each sample by `steps` normalised gradient steps inside a ball around it.

    $$
    \delta \leftarrow \Pi_{\|\delta\| \le r}\left(\delta + a\,r\,\frac{g}{\|g\|}\right)
    $$

    with $g$ the gradient of the sample's own loss and $a$ = `rel_step`. Under the maximum norm the
    direction is the sign of g. With `clip_range` the noisy image is then clipped, which only shrinks the noise.

    Args:
        norm: 2 (the paper's), `inf` (`"inf"` in JSON) or a `Norm`.
        steps: gradient steps; the paper trains with 20 and evaluates with 100. 0 leaves the random start alone:
            random noise of the same size, the floor that any attack must pass.
        rel_step: step size over radius, α/steps: 0.2 (α = 4) or 0.25 (α = 5) in training, 0.05 in evaluation.
        random_start: start radius from radius; None starts at the input itself.
        clip_range: lowest and highest value a noisy image may take, in the units of the inputs; None where the
            scale is open, as after a z-score.
        amp: type to run the objective in under autocast (`torch.float16`, `torch.bfloat16`); None leaves it to
            the caller. Noise, norms and projections stay in single precision.
        best_iterate: return the iterate of highest loss instead of the last; the paper returns the last.

    The gradient is taken with respect to the noise alone. No module's mode and no global random state is touched.

    Raises:
        ValueError: for settings out of range.

    Example:
        >>> attack = ProjectedGradientDescent(steps=10, rel_step=0.5)
        >>> result = attack(lambda noisy, rows: noisy.sum(dim=1), torch.zeros(2, 4), torch.tensor([2.0, 0.0]))
        >>> round(result.noisy[0].sum().item(), 1), result.noisy[1].tolist(), result.steps.tolist()
        (4.0, [0.0, 0.0, 0.0, 0.0], [10, 10])
    """

    norm: NormSetting = NormSetting()  # noqa: RUF009
    steps: int = 20
    rel_step: float = 0.25
    random_start: RandomStart | None = field(default_factory=FullStart)
    clip_range: tuple[float, float] | None = None
    amp: torch.dtype | None = None
    best_iterate: bool = False

    def __post_init__(self) -> None:
        check_within("steps", self.steps, 0)
        check_positive("rel_step (step size over radius)", self.rel_step)
        if self.clip_range is not None:
            low, high = self.clip_range
            if not low < high:
                raise ValueError(f"clip_range must be (lowest, highest), got {self.clip_range}")
            object.__setattr__(self, "clip_range", (float(low), float(high)))

    @property
    def needs_verdicts(self) -> bool:
        """Whether the objective must say if a point is accepted."""
        return False

    def __call__(
        self, objective: Objective, inputs: Tensor, radius: Tensor | float, *, seeds: Sequence[int] | None = None
    ) -> AttackResult:
        """Attack a batch.

        Args:
            objective: see `Objective`.
            inputs: `(B, *shape)`, floating point, any number of dimensions.
            radius: `(B,)` or a number, in the units of `inputs`; 0 returns the input.
            seeds: one integer per sample for the random start; by default sample i draws from seed i.

        Returns:
            the result; the noise stays within `radius` up to rounding.

        Raises:
            TypeError: for integer inputs.
            ValueError: for inputs or radii out of range, or an objective that does not answer per sample.
        """
        with torch.inference_mode(False):
            state = self.begin(inputs, radius, seeds)
            # Where no ball has room for noise (ε = 0, an empty batch) nothing is spent.
            steps = self.steps if bool((state.radius > 0).any()) else 0
            self.start(objective, state)
            late = late_step(steps)
            for number in range(steps):
                if not len(state.rows):
                    break
                self.step(at_progress(objective, number / steps), state)
                if number == late:
                    state.late_loss = state.step_loss
            return self.finish(objective, state)

    def begin(self, inputs: Tensor, radius: Tensor | float, seeds: Sequence[int] | None) -> AttackState:
        """Check what was given and lay out the state."""
        clip_range = round_range(self.clip_range, inputs.dtype)
        clean = check_inputs(inputs, clip_range)
        if seeds is not None and len(seeds) != len(clean):
            raise ValueError(f"{len(clean)} samples need as many seeds, got {len(seeds)}")
        counts = torch.zeros(len(clean), dtype=torch.int64, device=clean.device)
        return AttackState(
            clean=clean,
            radius=check_radius(radius, clean),
            seeds=range(len(clean)) if seeds is None else [int(seed) for seed in seeds],
            dtype=inputs.dtype,
            clip_range=clip_range,
            noise=torch.zeros_like(clean),
            rows=torch.arange(len(clean), device=clean.device),
            steps=counts,
            stalled=counts.clone(),
        )

    def start(self, objective: Objective, state: AttackState) -> None:
        """Put the noise where the first gradient is taken."""
        if self.random_start is None or not len(state.clean):
            return
        drawn = self.norm.draw(state.clean, self.random_start(state.radius), state.seeds)
        state.noise = self.confine(state, drawn, state.clean, state.radius)

    def step(self, objective: Objective, state: AttackState) -> None:
        """One gradient step of the active samples."""
        start = state.select(state.noise)
        noisy = state.noisy(start).requires_grad_(True)
        with torch.enable_grad():
            # A copy, so that a network whose first layer works in place may have it.
            evaluation = self.evaluate(objective, state, noisy.clone())
            state.step_loss = evaluation.loss.detach() if state.complete else None
            kept = self.observe(state, start, evaluation)
            if not len(state.rows):
                return
            gradient = input_gradient(evaluation.loss, noisy, kept=kept, amp=self.amp).to(start.dtype)
        direction = self.norm.direction(gradient)
        moves = direction.reshape(len(direction), -1).any(dim=1)
        start = start if kept is None else start[kept]
        radius = state.select(state.radius)
        moved = start + per_sample(self.rel_step * radius, start) * direction
        state.assign("noise", self.confine(state, moved, state.select(state.clean), radius))
        state.assign("steps", state.select(state.steps) + 1)
        state.assign("stalled", state.select(state.stalled) + ~moves)

    def observe(self, state: AttackState, noise: Tensor, evaluation: Evaluation) -> Tensor | None:
        """Take note of an evaluated iterate; subclasses drop samples from `state.rows` and return the mask kept."""
        if evaluation.accepted is not None:
            state.all_accepted = (
                evaluation.accepted if state.all_accepted is None else state.all_accepted & evaluation.accepted
            )
        if self.best_iterate:
            loss = evaluation.loss.detach()
            if state.best_loss is None or state.best_noise is None:
                state.best_loss, state.best_noise = loss, noise
            else:
                better = (loss > state.best_loss) | (state.best_loss.isnan() & ~loss.isnan())
                state.best_loss = torch.where(better, loss, state.best_loss)
                state.best_noise = torch.where(per_sample(better, noise), noise, state.best_noise)
        return None

    def finish(self, objective: Objective, state: AttackState) -> AttackResult:
        """Judge the last iterate, where verdicts or the best iterate are wanted, and pack the result."""
        if state.all_accepted is not None or self.best_iterate:
            last = self.look(objective, state, state.noise)
            self.observe(state, state.noise, last)
            state.accepted = last.accepted
            if state.best_noise is not None:
                state.noise = state.best_noise
                if last.accepted is not None:
                    state.accepted = self.look(objective, state, state.noise).accepted
        return self.pack(state)

    def pack(self, state: AttackState) -> AttackResult:
        """The result of a batch whose noise is final."""
        state.rows = torch.arange(len(state.clean), device=state.clean.device)
        gain = None
        if state.step_loss is not None and state.late_loss is not None:
            gain = state.step_loss - state.late_loss
        return AttackResult(
            state.noisy(state.noise), state.accepted, state.all_accepted, state.steps, state.stalled, gain
        )

    def confine(self, state: AttackState, noise: Tensor, clean: Tensor, radius: Tensor) -> Tensor:
        """Noise inside the ball and, with `clip_range`, a noisy image inside the range."""
        inside = self.norm.project(noise, radius)
        if state.clip_range is None:
            return inside
        # The clean image is in range, so clipping moves every pixel towards it: the noise stays inside the ball.
        return (clean + inside).clamp(*state.clip_range) - clean

    def evaluate(self, objective: Objective, state: AttackState, noisy: Tensor) -> Evaluation:
        """The objective on the active samples at `noisy`."""
        with self._autocast(noisy.device):
            return as_evaluation(objective(noisy, state.rows), len(state.rows))

    def look(self, objective: Objective, state: AttackState, noise: Tensor) -> Evaluation:
        """The objective with `noise` added, without a gradient."""
        with torch.no_grad():
            return self.evaluate(objective, state, state.noisy(noise))

    def _autocast(self, device: torch.device) -> AbstractContextManager[object]:
        return nullcontext() if self.amp is None else torch.autocast(device.type, dtype=self.amp)
