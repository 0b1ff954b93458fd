"""The rise of the loss over the last tenth of the steps, which shows that an attack has not converged."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from monai_amat.attacks import Attack, AutoProjectedGradientDescent, BoundaryPGD, ProjectedGradientDescent, Square
from monai_amat.attacks.base import Evaluation


def climbing(noisy: Tensor, rows: Tensor) -> Tensor:
    return noisy.sum(1)


def test_the_late_gain_is_zero_at_the_optimum_and_positive_with_small_steps() -> None:
    images = torch.zeros(2, 4)
    creeping = ProjectedGradientDescent(steps=20, rel_step=0.01, random_start=None)(climbing, images, 1.0)
    assert creeping.late_gain is not None
    # Of the losses before each step the last two: one step of 0.01 along (½, ½, ½, ½) raises the sum by 0.02.
    assert creeping.late_gain.tolist() == pytest.approx([0.02, 0.02], abs=1e-5)
    for attack in (ProjectedGradientDescent(steps=40), AutoProjectedGradientDescent(steps=20)):
        result = attack(climbing, images, 1.0)
        assert result.late_gain is not None
        assert result.late_gain.tolist() == pytest.approx([0.0, 0.0], abs=1e-5)


@pytest.mark.parametrize("attack", [AutoProjectedGradientDescent(steps=30), Square(queries=30)], ids=["apgd", "square"])
def test_attacks_that_keep_the_best_point_count_the_best_loss(attack: Attack) -> None:
    losses: list[Tensor] = []

    def objective(noisy: Tensor, rows: Tensor) -> Tensor:
        loss = torch.sin(7 * noisy).sum(1)
        losses.append(loss.detach())
        return loss

    result = attack(objective, torch.zeros(3, 6), 2.0)
    assert result.late_gain is not None
    best = torch.stack(losses).cummax(0).values
    torch.testing.assert_close(result.late_gain, best[-1] - best[27 if len(losses) == 31 else 26])


def test_it_is_unknown_where_samples_leave_the_batch() -> None:
    def objective(noisy: Tensor, rows: Tensor) -> Evaluation:
        return Evaluation(noisy.sum(1), noisy.sum(1) < 0.5)

    assert BoundaryPGD(steps=10)(objective, torch.zeros(2, 4), torch.tensor([1.0, 0.1])).late_gain is None
