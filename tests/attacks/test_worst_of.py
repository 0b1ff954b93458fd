"""The worst of several attacks: selection by the metric, skipped samples, requirements on the objective."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from monai_amat.attacks import (
    L2,
    Attack,
    AttackResult,
    AutoProjectedGradientDescent,
    Evaluation,
    Linf,
    Member,
    Norm,
    Objective,
    ProjectedGradientDescent,
    Restarts,
    Square,
    SwitchableObjective,
    WorstOf,
)
from monai_amat.attacks.progress import at_progress
from monai_amat.engines import BatchObjective
from monai_amat.losses.base import PerSampleLoss


@dataclass(frozen=True)
class Shift:
    """An attack that adds to sample i the number `by[seed of i]`, and records its arguments."""

    by: tuple[float, ...]
    calls: list[list[int]]
    norm: Norm = L2()  # noqa: RUF009
    needs_verdicts: bool = False

    def __call__(
        self, objective: Objective, inputs: Tensor, radius: Tensor | float, *, seeds: Sequence[int] | None = None
    ) -> AttackResult:
        assert seeds is not None
        self.calls.append(list(seeds))
        evaluation = objective(inputs, torch.arange(len(inputs)))
        assert isinstance(evaluation, Evaluation)
        noisy = inputs + torch.tensor([self.by[seed] for seed in seeds])[:, None]
        count = torch.full((len(inputs),), 3)
        return AttackResult(noisy, None, None, count, count - 2)


class Distance(PerSampleLoss):
    """|value| × factor."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor

    def terms(self, pred: Any, target: Any) -> dict[str, Tensor]:
        return {"distance": self.factor * pred[:, 0].abs()}


def remaining(pred: Tensor, target: Tensor) -> Tensor:
    """A score that each unit of value lowers by one, at least 0; NaN where the target is NaN."""
    return (10 - pred[:, 0]).clamp_min(0.0) + target


def objective(target: Tensor) -> BatchObjective:
    return BatchObjective(network=nn.Identity(), loss=Distance(), target=target)


def test_the_worst_metric_wins_per_sample_for_any_loss() -> None:
    first, second = Shift((1.0, 4.0, -7.0, 0.0), []), Shift((2.0, 3.0, 1.0, 0.0), [])
    suite = WorstOf(attacks={"first": first, "second": Member(second, Distance(100.0))}, metric=remaining)
    result = suite(objective(torch.zeros(4)), torch.zeros(4, 1), 9.0, seeds=[0, 1, 2, 3])
    # Sample 2: the first has the higher loss, but leaves a better score. Sample 3: a tie stays with the first.
    assert result.noisy[:, 0].tolist() == [2.0, 4.0, 1.0, 0.0]
    assert result.winner is not None
    assert [suite.names[i] for i in result.winner.tolist()] == ["second", "first", "second", "first"]
    assert result.steps.tolist() == [6] * 4
    assert result.stalled.tolist() == [2] * 4


def test_lower_may_be_worse() -> None:
    attacks = {"first": Shift((1.0,), []), "second": Shift((2.0,), [])}
    result = WorstOf(attacks=attacks, metric=remaining, higher_is_better=False)(
        objective(torch.zeros(1)), torch.zeros(1, 1), 9.0
    )
    assert result.noisy.item() == 1.0


def test_the_loss_decides_if_the_metrics_are_equal_or_unknown() -> None:
    attacks = {"first": Shift((1.0, -20.0, 15.0), []), "second": Shift((-2.0, 12.0, 18.0), [])}
    target = torch.tensor([math.nan, 0.0, 0.0])
    result = WorstOf(attacks=attacks, metric=remaining)(objective(target), torch.zeros(3, 1), 99.0)
    # Sample 2: both reach the score 0, and the second has the higher loss.
    assert result.noisy[:, 0].tolist() == [-2.0, 12.0, 18.0]


def test_samples_that_are_done_are_attacked_no_further() -> None:
    calls: list[list[int]] = []
    attacks = {
        "a": Shift((0.0, 50.0, 1.0), calls),
        "b": Shift((11.0, 0.0, 2.0), calls),
        "c": Shift((0, 0, 12.0), calls),
    }
    suite = WorstOf(attacks=attacks, metric=remaining, done_at=0.0)
    result = suite(objective(torch.zeros(3)), torch.zeros(3, 1), torch.tensor([60.0, 70.0, 80.0]))
    assert calls == [[0, 1, 2], [0, 2], [2]]
    assert result.steps.tolist() == [6, 3, 9]
    assert result.noisy[:, 0].tolist() == [11.0, 50.0, 12.0]
    assert result.winner is not None
    assert result.winner.tolist() == [1, 0, 2]
    # A score that is not defined is never done.
    calls.clear()
    suite(objective(torch.full((3,), math.nan)), torch.zeros(3, 1), 60.0)
    assert calls == [[0, 1, 2]] * 3


def test_each_attack_raises_its_own_loss() -> None:
    seen = []

    class Noting(Distance):
        def terms(self, pred: Any, target: Any) -> dict[str, Tensor]:
            seen.append(self.factor)
            return super().terms(pred, target)

    attack = AutoProjectedGradientDescent(steps=2)
    members: dict[str, Attack | Member] = {"own": attack, "ten": Member(attack, Noting(10.0))}
    whole = BatchObjective(network=nn.Identity(), loss=Noting(1.0), target=torch.zeros(1))
    WorstOf(attacks=members, metric=remaining)(whole, torch.ones(1, 1), 1.0)
    assert seen == [1.0] * 3 + [1.0] + [10.0] * 3 + [1.0]  # two steps and the last look of each, then the judgement


def test_it_is_at_least_as_bad_as_each_of_its_attacks(network: nn.Sequential) -> None:
    images = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = network(images).argmax(1)

    def loss(noisy: Tensor, rows: Tensor) -> Tensor:
        return nn.functional.cross_entropy(network(noisy), labels[rows], reduction="none")

    attacks: dict[str, Attack | Member] = {
        "square": Square(queries=30),
        "pgd": ProjectedGradientDescent(steps=5),
        "apgd": AutoProjectedGradientDescent(steps=5),
    }
    rows = torch.arange(8)
    together = loss(WorstOf(attacks=attacks)(loss, images, 0.5).noisy, rows)
    each = torch.stack([loss(attack(loss, images, 0.5).noisy, rows) for attack in attacks.values()])  # type: ignore[operator]
    torch.testing.assert_close(together, each.amax(0))
    nested = WorstOf(attacks={"all": WorstOf(attacks=attacks)})(loss, images, 0.5)
    torch.testing.assert_close(loss(nested.noisy, rows), together)


def test_progress_reaches_the_loss_through_every_wrapper() -> None:
    seen: list[float] = []

    class Moving(Distance):
        def __init__(self, progress: float = 1.0) -> None:
            super().__init__()
            self.progress = progress

        def at(self, progress: float) -> Moving:
            return Moving(progress)

        def terms(self, pred: Any, target: Any) -> dict[str, Tensor]:
            seen.append(self.progress)
            return super().terms(pred, target)

    pgd = ProjectedGradientDescent(steps=4)
    whole = BatchObjective(network=nn.Identity(), loss=Moving(), target=torch.zeros(2))
    pgd(whole, torch.ones(2, 1), 1.0)
    assert seen == [0.0, 0.25, 0.5, 0.75]
    seen.clear()
    WorstOf(attacks={"pgd": Restarts(pgd, 1)})(whole, torch.ones(2, 1), 1.0)
    assert seen == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    seen.clear()
    AutoProjectedGradientDescent(steps=3)(whole, torch.ones(2, 1), 1.0)
    assert seen == [1.0] * 4
    assert whole.loss.progress == 1.0
    assert at_progress(torch.add, 0.5) is torch.add


def test_what_it_refuses() -> None:
    pgd = ProjectedGradientDescent()
    with pytest.raises(ValueError, match="at least one"):
        WorstOf(attacks={})
    with pytest.raises(ValueError, match=r"one norm.*'b': 'Linf'"):
        WorstOf(attacks={"a": pgd, "b": Square(norm="inf")})
    with pytest.raises(TypeError, match="callable object, got str"):
        WorstOf(attacks={"a": "pgd"})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="give metric="):
        WorstOf(attacks={"a": pgd}, done_at=0.0)
    with pytest.raises(TypeError, match=r"got function; use monai_amat\.engines\.BatchObjective"):
        WorstOf(attacks={"a": Member(pgd, Distance())})(lambda noisy, rows: noisy.sum(1), torch.zeros(1, 2), 1.0)
    with pytest.raises(ValueError, match="the metric of WorstOf must hold one value per sample"):
        WorstOf(attacks={"a": pgd}, metric=lambda pred, target: pred.sum())(
            objective(torch.zeros(2)), torch.zeros(2, 1), 1.0
        )


def test_wrappers_pass_norm_and_verdicts_on() -> None:
    suite = WorstOf(attacks={"a": Square(norm="inf"), "b": Restarts(ProjectedGradientDescent(norm="inf"), 2)})
    assert isinstance(suite.norm, Linf)
    assert not suite.needs_verdicts
    assert isinstance(objective(torch.zeros(1)), SwitchableObjective)
