"""Restarts: the strongest run per sample; the first run is the plain attack."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from monai_amat.attacks import L2, AttackResult, Evaluation, ProjectedGradientDescent, Restarts
from monai_amat.seeding import fold


def ripple(noisy: Tensor, rows: Tensor) -> Tensor:
    return torch.sin(noisy * 5).flatten(1).sum(1) + 0.1 * noisy.flatten(1).sum(1)


def judged(noisy: Tensor, rows: Tensor) -> Evaluation:
    loss = ripple(noisy, rows)
    return Evaluation(loss, loss.detach() < 4.5)


class Listed:
    """An attack that returns prepared points, one per run, and records its seeds."""

    norm = L2()
    needs_verdicts = False

    def __init__(self, *points: Tensor, verdicts: bool = True) -> None:
        self.points, self.verdicts = points, verdicts
        self.seeds: list[list[int]] = []

    def __call__(self, objective: Any, inputs: Tensor, radius: Any, *, seeds: Any = None) -> AttackResult:
        run = len(self.seeds)
        self.seeds.append(list(seeds))
        count = len(inputs)
        accepted = torch.full((count,), run % 2 == 0) if self.verdicts else None
        number = torch.arange(count) + 10 * run
        return AttackResult(self.points[run], accepted, accepted, number, number * 2)


def test_keeps_the_run_of_highest_loss_sample_by_sample() -> None:
    """Losses 1 5 2 / 4 3 2 / 0 9 1: runs 1, 2, 0 win (a tie stays with the earlier); evaluations add up."""
    points = [torch.tensor(values)[:, None] for values in ([1.0, 5.0, 2.0], [4.0, 3.0, 2.0], [0.0, 9.0, 1.0])]
    attack = Listed(*points)
    result = Restarts(attack, 3)(lambda noisy, rows: noisy[:, 0], torch.zeros(3, 1), 1.0, seeds=[7, 8, 9])
    assert result.noisy[:, 0].tolist() == [4.0, 9.0, 2.0]
    assert result.accepted is not None
    assert result.accepted.tolist() == [False, True, True]
    assert result.all_accepted is not None
    assert result.all_accepted.tolist() == [False, True, True]
    assert result.steps.tolist() == [30, 33, 36]
    assert result.stalled.tolist() == [60, 66, 72]
    assert attack.seeds == [[7, 8, 9], *[[fold(seed, run) for seed in (7, 8, 9)] for run in (1, 2)]]


def test_a_loss_of_nan_is_never_kept_if_another_run_has_a_number() -> None:
    points = [torch.tensor(values)[:, None] for values in ([math.nan, 1.0, math.nan], [2.0, math.nan, math.nan])]
    attack = Listed(*points, verdicts=False)
    result = Restarts(attack, 2)(lambda noisy, rows: noisy[:, 0], torch.zeros(3, 1), 1.0)
    assert result.noisy[:2, 0].tolist() == [2.0, 1.0]
    assert result.accepted is None


def test_more_restarts_never_weaken_and_the_first_is_the_plain_attack() -> None:
    torch.manual_seed(0)
    inputs, rows = torch.randn(12, 2, 3), torch.arange(12)
    attack = ProjectedGradientDescent(steps=3, rel_step=0.5)
    plain = attack(judged, inputs, 1.5, seeds=range(12))
    one = Restarts(attack, 1)(judged, inputs, 1.5, seeds=range(12))
    assert torch.equal(one.noisy, plain.noisy)
    losses = [ripple(one.noisy, rows)]
    for times in (2, 5):
        result = Restarts(attack, times)(judged, inputs, 1.5, seeds=range(12))
        losses.append(ripple(result.noisy, rows))
        assert result.steps.tolist() == [3 * times] * 12
        assert result.accepted is not None
        assert torch.equal(result.accepted, losses[-1] < 4.5)
        assert (losses[-1] >= losses[-2]).all()
        assert ((result.noisy - inputs).flatten(1).norm(dim=1) <= 1.5 * (1 + 1e-5)).all()
    assert (losses[2] > losses[0]).any()


def test_without_seeds_it_repeats_itself_and_its_runs_differ() -> None:
    inputs = torch.zeros(2, 4)
    attack = Restarts(ProjectedGradientDescent(steps=1), 2)
    assert torch.equal(attack(ripple, inputs, 1.0).noisy, attack(ripple, inputs, 1.0, seeds=[0, 1]).noisy)
    listed = Listed(inputs, inputs)
    Restarts(listed, 2)(ripple, inputs, 1.0)
    assert not set(listed.seeds[0]) & set(listed.seeds[1])


@pytest.mark.parametrize("times", [0, -1])
def test_at_least_one_run(times: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Restarts(ProjectedGradientDescent(), times)
