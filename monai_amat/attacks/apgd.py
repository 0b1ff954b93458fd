"""Auto-PGD (Croce and Hein 2020): gradient ascent with momentum and an adaptive step size per sample."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from monai_amat.attacks.ball import Ball, BallAttack, Found
from monai_amat.attacks.base import AttackResult, Evaluation, Objective
from monai_amat.attacks.gradient import input_gradient
from monai_amat.attacks.norms import NormSetting, per_sample
from monai_amat.attacks.progress import late_step
from monai_amat.attacks.random_start import FullStart, RandomStart
from monai_amat.checks import check_within

__all__ = ["AutoProjectedGradientDescent", "window_ends"]

_MOMENTUM = 0.75
_RISING = 0.75  # share of a window's steps that must raise the loss, or the step size is halved


def window_ends(steps: int) -> list[int]:
    """The numbers of steps after which the step size is judged (Croce and Hein 2020, section 3).

    The first window has `⌊.22·steps⌋` steps, each further one `⌊.03·steps⌋` fewer, down to `⌊.06·steps⌋`; each of the
    three numbers is at least 1.

    Example:
        >>> window_ends(20), window_ends(3)
        ([4, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20], [1, 2, 3])
    """

    def ends() -> Iterator[int]:
        length, shorter, least = (max(steps * share // 100, 1) for share in (22, 3, 6))
        end = length
        while end <= steps:
            yield end
            length = max(length - shorter, least)
            end += length

    return list(ends())


@dataclass(frozen=True, kw_only=True)
class AutoProjectedGradientDescent(BallAttack):
    r"""Raise the loss of each sample by gradient steps with momentum, whose size depends on the progress.

    $$
    z_k = \Pi\!\left(\delta_k + \eta\,\frac{g_k}{\|g_k\|}\right), \qquad
    \delta_{k+1} = \Pi\!\left(\delta_k + \tfrac34 (z_k - \delta_k) + \tfrac14 (\delta_k - \delta_{k-1})\right)
    $$

    $g_k$ is the gradient of the sample's own loss, $\eta$ is the sample's step size, initially $2r$, and $\Pi$
    projects onto the ball and then into `clip_range`; the first step has no momentum. At the end of each window of
    steps (`window_ends`) a sample halves its step size and returns to its best point in two cases: the loss rose in at
    most 75 % of the window's steps, or the step size was not halved at the last window and the best loss has not risen
    since. The result is the point of highest loss. There is no step size to set.

    Each step takes one gradient, and the last point one more forward. An objective whose loss changes along the attack
    (`Objective`) is used in its final form in all steps, because the losses of different steps are compared.

    Source: Croce and Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks", algorithm 1.

    Args:
        steps: gradient evaluations, at least 0; with 0 the result is the random start.
        random_start: start radius from radius; None starts at the input itself.

    `norm`, `clip_range` and `amp` are those of `BallAttack`.

    Raises:
        ValueError: if a setting is out of range.

    Example:
        >>> attack = AutoProjectedGradientDescent(steps=10)
        >>> result = attack(lambda noisy, rows: noisy.sum(dim=1), torch.zeros(2, 4), torch.tensor([2.0, 0.0]))
        >>> round(result.noisy[0].sum().item(), 1), result.noisy[1].tolist(), result.steps.tolist()
        (4.0, [0.0, 0.0, 0.0, 0.0], [10, 10])
    """

    norm: NormSetting = NormSetting()  # noqa: RUF009 (repeated, because type checkers do not see it inherited)
    steps: int = 20
    random_start: RandomStart | None = field(default_factory=FullStart)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_within("steps", self.steps, 0)

    def search(self, objective: Objective, ball: Ball) -> AttackResult:
        """Climb from the random start."""
        return self.climb(objective, ball, self.begin(ball), self.steps).result(ball)

    def begin(self, ball: Ball) -> Tensor:
        """The noise at which the first gradient is taken."""
        if self.random_start is None:
            return torch.zeros_like(ball.clean)
        return ball.confine(ball.norm.draw(ball.clean, self.random_start(ball.radius), ball.seeds))

    def climb(self, objective: Objective, ball: Ball, start: Tensor, steps: int) -> Found:
        """Take `steps` steps from the noise `start`.

        Args:
            objective: gives the loss to raise.
            ball: the noise that is allowed.
            start: `(B, *shape)`, noise inside the ball.
            steps: gradient evaluations.

        Returns:
            the best point of each sample.
        """
        if steps == 0:
            return Found.at(start, self.look(objective, ball, start))
        ends = set(window_ends(steps))
        evaluation, gradient = self._differentiate(objective, ball, start)
        found = Found.at(start, evaluation)
        noise = before = start
        loss, size = found.loss, 2 * ball.radius
        best_gradient, best_then = gradient, found.loss
        rises = torch.zeros_like(found.steps)
        halved = torch.zeros_like(rises, dtype=torch.bool)
        window = 0
        for step in range(1, steps + 1):
            if step - 1 == late_step(steps):
                found.late_loss = found.loss
            direction = ball.norm.direction(gradient)
            found.stalled = found.stalled + ~direction.reshape(len(direction), -1).any(dim=1)
            ahead = ball.confine(noise + per_sample(size, noise) * direction)
            if step > 1:
                ahead = ball.confine(noise + _MOMENTUM * (ahead - noise) + (1 - _MOMENTUM) * (noise - before))
            before, noise = noise, ahead
            if step < steps:
                evaluation, gradient = self._differentiate(objective, ball, noise)
            else:
                evaluation = self.look(objective, ball, noise)
            better = found.look(noise, evaluation)
            best_gradient = torch.where(per_sample(better, gradient), gradient, best_gradient)
            rises = rises + (evaluation.loss.detach() > loss)
            loss = evaluation.loss.detach()
            window += 1
            if step in ends:
                stopped = (rises <= _RISING * window) | (~halved & ~(found.loss > best_then))
                size = torch.where(stopped, size / 2, size)
                loss = torch.where(stopped, found.loss, loss)
                back = per_sample(stopped, noise)
                noise, gradient = torch.where(back, found.noise, noise), torch.where(back, best_gradient, gradient)
                halved, best_then, rises, window = stopped, found.loss, torch.zeros_like(rises), 0
        found.steps = found.steps + steps
        return found

    def _differentiate(self, objective: Objective, ball: Ball, noise: Tensor) -> tuple[Evaluation, Tensor]:
        """The objective with `noise` added, and the gradient of each sample's loss."""
        noisy = ball.noisy(noise).detach().requires_grad_(True)
        with torch.enable_grad():
            # A copy, because a network whose first layer works in place changes its input.
            evaluation = self.evaluate(objective, noisy.clone(), ball.rows)
            gradient = input_gradient(evaluation.loss, noisy, amp=self.amp).to(noise.dtype)
        return Evaluation(evaluation.loss.detach(), evaluation.accepted), gradient
