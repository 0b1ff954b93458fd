"""The ball that an attack searches: checked inputs, a radius per sample, and noise within ball and range."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

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
from monai_amat.attacks.norms import Norm, NormSetting

__all__ = ["Ball", "BallAttack", "Found", "higher"]


def higher(new: Tensor, old: Tensor) -> Tensor:
    """Whether each new loss is higher, `(B,)` bool; any number counts as higher than NaN."""
    return (new > old) | (old.isnan() & ~new.isnan())


@dataclass(frozen=True)
class Ball:
    """The noise that is allowed around each sample of a batch.

    Args:
        clean: `(B, *shape)`, at least single precision.
        radius: `(B,)`, in the units of `clean`.
        norm: the norm of the radius.
        clip_range: lowest and highest value of a noisy image; None for an open range.
        dtype: type of the inputs, in which the network receives the noisy images.
        seeds: one integer per sample.
        rows: `(B,)`, the number of each sample in the batch of the objective.
    """

    clean: Tensor
    radius: Tensor
    norm: Norm
    clip_range: tuple[float, float] | None
    dtype: torch.dtype
    seeds: Sequence[int]
    rows: Tensor

    @property
    def empty(self) -> bool:
        """Whether no sample can have noise: all radii are 0, or the batch is empty."""
        return not bool((self.radius > 0).any())

    def part(self, rows: Tensor) -> Ball:
        """The ball of the samples `rows` `(n,)` alone."""
        return replace(
            self,
            clean=self.clean[rows],
            radius=self.radius[rows],
            seeds=[self.seeds[row] for row in rows.tolist()],
            rows=self.rows[rows],
        )

    def untouched(self) -> AttackResult:
        """The inputs as the result of an attack that evaluates nothing, without verdicts."""
        none = torch.zeros(len(self.clean), dtype=torch.int64, device=self.clean.device)
        return AttackResult(self.noisy(torch.zeros_like(self.clean)), None, None, none, none.clone())

    def confine(self, noise: Tensor) -> Tensor:
        """The noise projected onto the ball and then, with `clip_range`, clipped so that the image is in range.

        The clean image is in range, so that clipping moves each pixel towards it and the noise stays inside the ball.
        """
        inside = self.norm.project(noise, self.radius)
        if self.clip_range is None:
            return inside
        return (self.clean + inside).clamp(*self.clip_range) - self.clean

    def noisy(self, noise: Tensor) -> Tensor:
        """The images with `noise` added, in the type of the inputs.

        Rounding to half precision may move a pixel further than its noise, even to infinity. Such a pixel gets the next
        number towards the clean image, which half precision represents exactly.
        """
        noisy = (self.clean + noise).to(self.dtype)
        if self.dtype != self.clean.dtype:
            further = (noisy.to(self.clean.dtype) - self.clean).abs() > noise.abs()
            noisy = torch.where(further, torch.nextafter(noisy, self.clean.to(self.dtype)), noisy)
        return noisy if self.clip_range is None else noisy.clamp(*self.clip_range)


@dataclass
class Found:
    """The best noise that a search has found so far, and the cost of the search.

    Args:
        noise: `(B, *shape)`, the noise of highest loss.
        loss: `(B,)`, the loss there.
        accepted: `(B,)`, the verdict there; None if the objective gives no verdicts.
        all_accepted: `(B,)`, whether every evaluated point was accepted.
        steps: `(B,)` gradient evaluations.
        stalled: `(B,)` steps without a usable gradient.
        late_loss: `(B,)`, the best loss at the start of the last tenth of the steps; None before that step.
    """

    noise: Tensor
    loss: Tensor
    accepted: Tensor | None
    all_accepted: Tensor | None
    steps: Tensor
    stalled: Tensor
    late_loss: Tensor | None = None

    @classmethod
    def at(cls, noise: Tensor, evaluation: Evaluation) -> Found:
        """The state after the first evaluation."""
        none = torch.zeros(len(noise), dtype=torch.int64, device=noise.device)
        verdict = evaluation.accepted
        return cls(noise, evaluation.loss.detach(), verdict, verdict, none, none.clone())

    def look(self, noise: Tensor, evaluation: Evaluation) -> Tensor:
        """Keep `noise` where its loss is higher; returns whether it is, `(B,)` bool."""
        loss = evaluation.loss.detach()
        better = higher(loss, self.loss)
        self.loss = torch.where(better, loss, self.loss)
        self.noise = torch.where(better.reshape(-1, *(1,) * (noise.ndim - 1)), noise, self.noise)
        if evaluation.accepted is not None and self.accepted is not None and self.all_accepted is not None:
            self.accepted = torch.where(better, evaluation.accepted, self.accepted)
            self.all_accepted = self.all_accepted & evaluation.accepted
        return better

    def result(self, ball: Ball) -> AttackResult:
        """The best point as the attack's result."""
        return AttackResult(
            noisy=ball.noisy(self.noise).detach(),
            accepted=self.accepted,
            all_accepted=self.all_accepted,
            steps=self.steps,
            stalled=self.stalled,
            late_gain=None if self.late_loss is None else self.loss - self.late_loss,
        )


@dataclass(frozen=True, kw_only=True)
class BallAttack(ABC):
    """An attack that searches a ball around each sample and returns the point of highest loss.

    A subclass implements `search`. This class checks the inputs, runs autocast and converts types.

    Args:
        norm: 2, `inf` (`"inf"` in JSON) or a `Norm`.
        clip_range: lowest and highest value of a noisy image, in the units of the inputs; None if the range is open, as
            after a z-score.
        amp: type in which autocast runs the objective (`torch.float16`, `torch.bfloat16`); None leaves autocast as the
            caller set it. Noise, norms and projections stay in single precision.

    Raises:
        ValueError: if a setting is out of range.
    """

    norm: NormSetting = NormSetting()  # noqa: RUF009
    clip_range: tuple[float, float] | None = None
    amp: torch.dtype | None = None

    def __post_init__(self) -> None:
        if self.clip_range is not None:
            low, high = self.clip_range
            if not low < high:
                raise ValueError(f"clip_range must be (lowest, highest), got {self.clip_range}")
            object.__setattr__(self, "clip_range", (float(low), float(high)))

    @property
    def needs_verdicts(self) -> bool:
        """Whether the objective must return verdicts: no."""
        return False

    def __call__(
        self, objective: Objective, inputs: Tensor, radius: Tensor | float, *, seeds: Sequence[int] | None = None
    ) -> AttackResult:
        """Attack a batch.

        Args:
            objective: see `Objective`.
            inputs: `(B, *shape)`, floating point, any number of dimensions.
            radius: `(B,)` or a number, in the units of `inputs`; 0 returns the input.
            seeds: one integer per sample, the source of all random draws; by default i for sample i.

        Returns:
            the point of highest loss for each sample; the noise stays within `radius` up to rounding.

        Raises:
            TypeError: if the inputs are not floating point.
            ValueError: if inputs or radii are out of range, or the objective does not return one loss per sample.
        """
        with torch.inference_mode(False):
            ball = self.ball(inputs, radius, seeds)
            return ball.untouched() if ball.empty else self.search(objective, ball)

    @abstractmethod
    def search(self, objective: Objective, ball: Ball) -> AttackResult:
        """Search the ball of each sample for the point of highest loss."""

    def ball(self, inputs: Tensor, radius: Tensor | float, seeds: Sequence[int] | None) -> Ball:
        """The checked inputs as a `Ball`."""
        clip_range = round_range(self.clip_range, inputs.dtype)
        clean = check_inputs(inputs, clip_range)
        if seeds is not None and len(seeds) != len(clean):
            raise ValueError(f"seeds must be one per sample, {len(clean)} in all, got {len(seeds)}")
        return Ball(
            clean=clean,
            radius=check_radius(radius, clean),
            norm=self.norm,
            clip_range=clip_range,
            dtype=inputs.dtype,
            seeds=range(len(clean)) if seeds is None else [int(seed) for seed in seeds],
            rows=torch.arange(len(clean), device=clean.device),
        )

    def evaluate(self, objective: Objective, noisy: Tensor, rows: Tensor) -> Evaluation:
        """The objective at `noisy`, under autocast if `amp` is set."""
        cast: AbstractContextManager[object] = (
            nullcontext() if self.amp is None else torch.autocast(noisy.device.type, dtype=self.amp)
        )
        with cast:
            return as_evaluation(objective(noisy, rows), len(rows))

    def look(self, objective: Objective, ball: Ball, noise: Tensor) -> Evaluation:
        """The objective with `noise` added to the images, without a gradient."""
        with torch.no_grad():
            return self.evaluate(objective, ball.noisy(noise), ball.rows)
