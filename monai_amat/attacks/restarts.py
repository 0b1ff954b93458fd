"""Several runs of one attack from different random starts, of which the strongest is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from monai_amat.attacks.base import Attack, AttackResult, Objective, as_evaluation, check_attack
from monai_amat.attacks.norms import Norm, per_sample
from monai_amat.checks import check_within
from monai_amat.seeding import fold

__all__ = ["Restarts"]


@dataclass(frozen=True)
class Restarts:
    """Run an attack `times` times from different random starts and keep, per sample, the run of highest loss.

    Args:
        attack: any attack with a random start.
        times: number of runs, at least 1; the first run is the attack without restarts.

    Raises:
        TypeError: if `attack` is not an attack.
        ValueError: if `times` is below 1.

    Example:
        >>> from monai_amat.attacks import ProjectedGradientDescent
        >>> attack = Restarts(ProjectedGradientDescent(steps=3), times=2)
        >>> attack(lambda noisy, rows: noisy.square().sum(dim=1), torch.ones(2, 3), 1.0).steps.tolist()
        [6, 6]
    """

    attack: Attack
    times: int

    def __post_init__(self) -> None:
        check_attack(self.attack)
        check_within("times", self.times, 1)

    @property
    def norm(self) -> Norm:
        """The norm of the inner attack."""
        return self.attack.norm

    @property
    def needs_verdicts(self) -> bool:
        """Whether the inner attack needs verdicts."""
        return self.attack.needs_verdicts

    def __call__(
        self, objective: Objective, inputs: Tensor, radius: Tensor | float, *, seeds: Sequence[int] | None = None
    ) -> AttackResult:
        """Attack a batch; see `ProjectedGradientDescent`."""
        with torch.inference_mode(False):
            return self._run(objective, inputs, radius, list(range(len(inputs)) if seeds is None else seeds))

    def _run(
        self, objective: Objective, inputs: Tensor, radius: Tensor | float, first_seeds: list[int]
    ) -> AttackResult:
        best = self.attack(objective, inputs, radius, seeds=first_seeds)
        loss = self._loss(objective, best.noisy)
        for run in range(1, self.times):
            again = self.attack(objective, inputs, radius, seeds=[fold(int(seed), run) for seed in first_seeds])
            new_loss = self._loss(objective, again.noisy)
            better = (new_loss > loss) | (loss.isnan() & ~new_loss.isnan())
            best = replace(
                best,
                noisy=torch.where(per_sample(better, best.noisy), again.noisy, best.noisy),
                accepted=_choose(better, again.accepted, best.accepted),
                all_accepted=_choose(better, again.all_accepted, best.all_accepted),
                steps=best.steps + again.steps,
                stalled=best.stalled + again.stalled,
            )
            loss = torch.where(better, new_loss, loss)
        return best

    @staticmethod
    def _loss(objective: Objective, noisy: Tensor) -> Tensor:
        with torch.no_grad():
            rows = torch.arange(len(noisy), device=noisy.device)
            return as_evaluation(objective(noisy, rows), len(noisy)).loss


def _choose(better: Tensor, new: Tensor | None, old: Tensor | None) -> Tensor | None:
    return None if new is None or old is None else torch.where(better, new, old)
