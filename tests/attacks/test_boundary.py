"""BoundaryPGD: when samples leave the batch, the result for each kind of sample, and its cost."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from monai_amat.attacks import AttackResult, BoundaryPGD, Evaluation, FullStart, ProjectedGradientDescent, get_norm

NORMS: list[Any] = [2, math.inf]


class Walls:
    """Loss w·x per sample; accepted while it is below that sample's wall. Records its calls."""

    def __init__(self, weight: Tensor, walls: Tensor) -> None:
        self.weight, self.walls = weight, walls
        self.calls: list[tuple[list[int], bool]] = []
        self.seen: list[tuple[Tensor, Tensor]] = []

    def loss(self, noisy: Tensor, rows: Tensor) -> Tensor:
        # In double precision, so that a verdict near the wall does not depend on the order of a sum.
        return (noisy.double() * self.weight[rows].double()).flatten(1).sum(1)

    def __call__(self, noisy: Tensor, rows: Tensor) -> Evaluation:
        loss = self.loss(noisy, rows)
        accepted = loss.detach() < self.walls[rows]
        self.calls.append((rows.tolist(), noisy.requires_grad))
        self.seen.append((rows.clone(), accepted))
        return Evaluation(loss, accepted)


def line(walls: list[float], size: int = 4) -> tuple[Walls, Tensor]:
    """Black images whose loss is the distance walked along the diagonal: the boundary lies at the wall exactly."""
    weight = torch.full((len(walls), size), size**-0.5)
    return Walls(weight, torch.tensor(walls)), torch.zeros(len(walls), size)


def verdicts(result: AttackResult) -> tuple[list[bool], list[bool]]:
    assert result.accepted is not None
    assert result.all_accepted is not None
    return result.accepted.tolist(), result.all_accepted.tolist()


def test_each_kind_of_sample_by_hand() -> None:
    """Radius 8, ten steps of 1. Walls at 3.3 (rejected on the way), 100 (never), −1 (clean rejected), 7.999 (last)."""
    objective, inputs = line([3.3, 100.0, -1.0, 7.999])
    attack = BoundaryPGD(steps=10, rel_step=1 / 8, floor=2.5, halvings=10)
    result = attack(objective, inputs, 8.0)
    walked = result.noisy.sum(1) / 2
    assert 3.3 - 2 / 2**10 <= walked[0] < 3.3  # between its last accepted point, 3, and the first rejected one, 4
    assert walked[1] == pytest.approx(8.0, rel=1e-6)
    assert walked[2] == pytest.approx(2.5, rel=1e-6)
    assert 7.999 - 1 / 2**10 <= walked[3] < 7.999
    assert verdicts(result) == ([True, True, False, True], [False, True, False, False])
    # 0, 1, 2 and 3 were accepted, with one step from each; 4 was rejected before its gradient was taken.
    assert result.steps.tolist() == [4, 10, 10, 8]
    assert result.stalled.tolist() == [0, 0, 0, 0]


def test_rejected_samples_leave_at_once_and_never_return_to_the_walk() -> None:
    objective, inputs = line([0.5, 2.5, 4.5, 100.0, -1.0])
    attack = BoundaryPGD(steps=6, rel_step=1 / 6, halvings=3)
    result = attack(objective, inputs, 6.0)
    walking = [rows for rows, differentiable in objective.calls if differentiable]
    assert walking == [[0, 1, 2, 3, 4], [0, 1, 2, 3], [1, 2, 3], [1, 2, 3], [2, 3], [2, 3]]
    halving = [rows for rows, differentiable in objective.calls[7:]]
    assert objective.calls[6] == ([3], False)  # the last iterate of the remaining sample is judged
    assert halving == [[0, 1, 2]] * 3
    # The steps are the evaluated samples without the rejected ones.
    rejected = [int((~accepted).sum()) for _, accepted in objective.seen[:6]]
    assert int(result.steps.sum()) == sum(len(rows) for rows in walking) - sum(rejected)
    assert result.steps.tolist() == [1, 3, 5, 6, 0]


@given(
    walls=st.lists(st.sampled_from([-1.0, 0.3, 1.7, 3.0, 50.0]), min_size=1, max_size=5),
    radius=st.sampled_from([0.0, 0.5, 4.0]),
    floor=st.sampled_from([0.0, 1.0]),
    start=st.sampled_from([None, FullStart()]),
    halvings=st.integers(0, 8),
    norm=st.sampled_from(NORMS),
    seed=st.integers(0, 50),
)
def test_what_holds_for_any_batch(
    walls: list[float], radius: float, floor: float, start: Any, halvings: int, norm: Any, seed: int
) -> None:
    torch.manual_seed(seed)
    weight, inputs = torch.randn(len(walls), 2, 3), torch.randn(len(walls), 2, 3).clamp(-4, 4)
    rows = torch.arange(len(walls))
    clean = Walls(weight, torch.zeros(1)).loss(inputs, rows)
    objective = Walls(weight, clean + torch.tensor(walls))
    attack = BoundaryPGD(
        norm=norm, steps=5, rel_step=0.4, floor=floor, random_start=start, halvings=halvings, clip_range=(-4, 4)
    )
    result = attack(objective, inputs, radius)
    size = get_norm(norm).size(result.noisy - inputs)
    rejected_clean = torch.tensor(walls) < 0
    limit = torch.where(rejected_clean, min(floor, radius), radius)
    assert (size <= limit * (1 + 1e-5) + 1e-5).all()
    assert result.noisy.abs().max() <= 4
    # The verdict is that of the returned point; a sample with an accepted point never gets a rejected one.
    accepted, path = (torch.tensor(values) for values in verdicts(result))
    assert torch.equal(accepted, objective.loss(result.noisy, rows) < objective.walls)
    assert torch.equal(accepted | rejected_clean, torch.ones_like(accepted))
    assert not (path & ~accepted).any()
    # A sample that is rejected after a step is never differentiated again; one that is rejected without noise is
    # attacked at the floor.
    gone: set[int] = set()
    for (called, differentiable), (some, verdict) in zip(objective.calls, objective.seen, strict=True):
        if differentiable:
            assert not gone & set(called)
            gone |= set(some[~verdict & ~rejected_clean[some]].tolist())


@pytest.mark.parametrize("halvings", [0, 1, 4, 10, 16])
def test_bisection_closes_in_by_half_each_time(halvings: int) -> None:
    torch.manual_seed(0)
    walls = (torch.rand(40) * 7 + 0.5).tolist()
    objective, inputs = line(walls)
    attack = BoundaryPGD(steps=8, rel_step=1 / 8, halvings=halvings)
    result = attack(objective, inputs, 8.0)
    below = torch.tensor(walls) - result.noisy.sum(1) / 2
    assert (below > -1e-6).all()
    assert (below <= 1 / 2**halvings + 1e-5).all()
    assert below.max() > 0.2 / 2**halvings
    assert sum(not differentiable for _, differentiable in objective.calls) == 1 + halvings  # one for the last iterate


@pytest.mark.parametrize("norm", NORMS)
def test_a_batch_that_is_never_rejected_gets_the_noise_of_plain_pgd(norm: Any) -> None:
    torch.manual_seed(1)
    inputs, weight = torch.randn(3, 2, 3, 3), torch.randn(3, 2, 3, 3)
    objective = Walls(weight, torch.full((3,), 1e6))
    settings: dict[str, Any] = {"norm": norm, "steps": 7, "rel_step": 0.3, "clip_range": (-5.0, 5.0)}
    for start in (None, FullStart()):
        plain = ProjectedGradientDescent(random_start=start, **settings)
        walked = BoundaryPGD(random_start=start, floor=0.1, **settings)(objective, inputs, 2.0, seeds=[5, 6, 7])
        expected = plain(objective.loss, inputs, 2.0, seeds=[5, 6, 7])
        assert torch.equal(walked.noisy, expected.noisy)
        assert torch.equal(walked.steps, expected.steps)
        assert verdicts(walked) == ([True] * 3, [True] * 3)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("start", [None, FullStart()], ids=["clean", "random"])
def test_a_sample_rejected_before_any_noise_gets_the_plain_attack_at_the_floor(norm: Any, start: Any) -> None:
    torch.manual_seed(1)
    inputs, weight = torch.randn(4, 5), torch.randn(4, 5)
    walls = torch.tensor([1e6, -1e6, 1e6, -1e6])
    objective = Walls(weight, walls)
    settings: dict[str, Any] = {"norm": norm, "steps": 4, "rel_step": 0.3, "random_start": start}
    radius = torch.tensor([3.0, 3.0, 3.0, 0.2])
    result = BoundaryPGD(floor=0.5, **settings)(objective, inputs, radius, seeds=[5, 6, 7, 8])
    rejected_clean = torch.tensor([1, 3])
    expected = ProjectedGradientDescent(**settings)(
        lambda noisy, rows: objective.loss(noisy, rejected_clean[rows]),
        inputs[rejected_clean],
        torch.tensor([0.5, 0.2]),  # the floor, but never more than the sample's own radius
        seeds=[6, 8],
    )
    torch.testing.assert_close(result.noisy[rejected_clean], expected.noisy, rtol=0, atol=1e-6)
    assert result.steps[rejected_clean].tolist() == [4, 4]
    bare = BoundaryPGD(floor=0.0, **settings)(objective, inputs, radius, seeds=[5, 6, 7, 8])
    assert torch.equal(bare.noisy[rejected_clean], inputs[rejected_clean])
    assert bare.steps[rejected_clean].tolist() == [0, 0]
    assert torch.equal(bare.noisy[[0, 2]], result.noisy[[0, 2]])
    assert verdicts(bare) == ([True, False, True, False], [True, False, True, False])


def test_the_verdict_on_floor_noise_is_that_of_its_last_point() -> None:
    """A sample that is rejected without noise and accepted beyond 0.9: the verdict is that of the noisy input."""

    def objective(noisy: Tensor, rows: Tensor) -> Evaluation:
        loss = noisy.sum(1)
        return Evaluation(loss, loss.detach() > 0.9)

    result = BoundaryPGD(floor=1.0, steps=4)(objective, torch.zeros(2, 1), torch.tensor([5.0, 0.5]))
    torch.testing.assert_close(result.noisy, torch.tensor([[1.0], [0.5]]))
    assert verdicts(result) == ([True, False], [False, False])


def test_a_random_start_judges_the_clean_input_first_and_its_start_next() -> None:
    """Walls right above the clean loss: the start is rejected, so the clean input is the last accepted point."""
    inputs, weight = torch.zeros(2, 6), torch.ones(2, 6)
    start = ProjectedGradientDescent(steps=0)
    outward = [
        seed
        for seed in range(20)
        if start(lambda noisy, rows: noisy.sum(1), inputs[:1], 3.0, seeds=[seed]).noisy.sum() > 1
    ][:2]
    objective = Walls(weight, torch.tensor([0.1, -0.1]))
    result = BoundaryPGD(steps=3, random_start=FullStart(), halvings=20)(objective, inputs, 3.0, seeds=outward)
    assert objective.calls[0] == ([0, 1], False)
    assert objective.calls[1] == ([0], True)
    assert result.steps.tolist() == [0, 0]
    assert 0.0999 < result.noisy[0].sum() < 0.1
    assert torch.equal(result.noisy[1], inputs[1])


@pytest.mark.parametrize("start", [None, FullStart()], ids=["clean", "random"])
def test_a_sample_gets_the_same_noise_alone_and_in_a_batch(start: Any) -> None:
    torch.manual_seed(3)
    inputs, weight = torch.randn(5, 2, 4), torch.randn(5, 2, 4)
    clean = Walls(weight, torch.zeros(5)).loss(inputs, torch.arange(5))
    walls = clean + torch.tensor([0.5, 2.0, 1e6, -1.0, 4.0])
    radius, seeds = torch.tensor([2.0, 3.0, 1.0, 2.0, 0.0]), [4, 5, 6, 7, 8]
    attack = BoundaryPGD(steps=6, floor=0.4, random_start=start)
    together = attack(Walls(weight, walls), inputs, radius, seeds=seeds)
    for row in range(5):
        one = slice(row, row + 1)
        alone = attack(Walls(weight[one], walls[one]), inputs[one], radius[one], seeds=seeds[one])
        torch.testing.assert_close(alone.noisy[0], together.noisy[row], rtol=0, atol=1e-5)
        assert verdicts(alone) == tuple([values[row]] for values in verdicts(together))
        if radius[row] > 0:
            assert alone.steps.tolist() == together.steps[one].tolist()


def test_a_sample_with_a_loss_of_nan_is_rejected_and_does_not_change_the_others() -> None:
    objective, inputs = line([3.3, 100.0, 5.0])

    def spoilt(noisy: Tensor, rows: Tensor) -> Evaluation:
        loss = torch.where(rows == 1, math.nan, 1.0) * objective.loss(noisy, rows)
        return Evaluation(loss, loss.detach() < objective.walls[rows])

    attack = BoundaryPGD(steps=10, floor=1.0)
    healthy, sick = attack(objective, inputs, 8.0), attack(spoilt, inputs, 8.0)
    assert torch.equal(sick.noisy[[0, 2]], healthy.noisy[[0, 2]])
    assert torch.equal(sick.noisy[1], inputs[1])
    assert sick.stalled.tolist() == [0, 10, 0]
    assert verdicts(sick)[0] == [True, False, True]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_the_returned_point_is_accepted_in_the_inputs_own_precision(dtype: torch.dtype) -> None:
    """The verdict is that of the rounded boundary point."""
    torch.manual_seed(4)
    inputs, weight = torch.randn(8, 6).to(dtype), torch.randn(8, 6)
    rows = torch.arange(8)
    objective = Walls(weight, torch.zeros(8))
    objective.walls = objective.loss(inputs, rows).float() + torch.linspace(0.01, 3.0, 8)
    result = BoundaryPGD(steps=6)(objective, inputs, 4.0)
    assert result.noisy.dtype == dtype
    assert verdicts(result)[0] == [True] * 8
    assert (objective.loss(result.noisy, rows) < objective.walls).all()


@pytest.mark.parametrize("batch", [0, 3])
def test_no_room_for_noise_returns_the_input_with_its_verdict(batch: int) -> None:
    objective, inputs = line([1.0, -1.0, 1.0][:batch] or [1.0])
    inputs = inputs[:batch]
    result = BoundaryPGD(floor=1.0)(objective, inputs, 0.0)
    assert torch.equal(result.noisy, inputs)
    assert result.steps.tolist() == [0] * batch
    assert verdicts(result)[0] == [True, False, True][:batch]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"floor": -1.0}, "floor"),
        ({"floor": math.nan}, "floor"),
        ({"halvings": -1}, "halvings"),
        ({"best_iterate": True}, "best_iterate"),
        ({"steps": -1}, "steps"),
    ],
    ids=str,
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BoundaryPGD(**settings)
