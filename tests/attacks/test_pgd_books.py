"""PGD: state that it must not change, counts and verdicts of its result, refused settings and inputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_amat.attacks import Evaluation, Norm, ProjectedGradientDescent


def ripple(noisy: Tensor, rows: Tensor) -> Tensor:
    """A loss with hills and valleys in every pixel, of any shape; loss i depends on sample i alone."""
    shape = noisy.shape[1:]
    place = torch.arange(shape.numel(), dtype=torch.float32).reshape(shape)
    return (torch.sin(noisy.float() + place) + 0.1 * noisy.float().tanh()).flatten(1).sum(1)


def classify(network: nn.Module, labels: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda noisy, rows: F.cross_entropy(network(noisy), labels[rows], reduction="none")


# State that it must not change


def test_an_objective_may_change_what_it_is_given_in_place() -> None:
    """A network whose first layer works in place does so."""
    inputs = torch.randn(3, 6)
    kept = inputs.clone()
    plain = ProjectedGradientDescent(steps=4)(lambda noisy, rows: (noisy - 1).square().sum(1), inputs, 1.0)
    changing = ProjectedGradientDescent(steps=4)(lambda noisy, rows: noisy.sub_(1).square().sum(1), inputs, 1.0)
    assert torch.equal(plain.noisy, changing.noisy)
    assert torch.equal(inputs, kept)


def test_metadata_stays_outside() -> None:
    from monai.data import MetaTensor

    result = ProjectedGradientDescent(steps=1)(ripple, MetaTensor(torch.zeros(2, 3)), 1.0)
    assert type(result.noisy) is torch.Tensor


# Counts and verdicts


class Counted(torch.autograd.Function):
    """The identity, counting backward passes."""

    backwards = 0

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradient: Any) -> Any:
        Counted.backwards += 1
        return gradient[0]


class Recorder:
    """An objective that records its inputs and counts forwards and backwards."""

    def __init__(self, objective: Callable[[Tensor, Tensor], Tensor], limit: float | None = None) -> None:
        self.objective, self.limit = objective, limit
        self.points: list[Tensor] = []
        self.losses: list[Tensor] = []
        Counted.backwards = 0

    def __call__(self, noisy: Tensor, rows: Tensor) -> Evaluation:
        loss = Counted.apply(self.objective(noisy, rows))
        self.points.append(noisy.detach().clone())
        self.losses.append(loss.detach().clone())
        return Evaluation(loss, None if self.limit is None else loss.detach() < self.limit)


@pytest.mark.parametrize("half", [False, True], ids=["single", "half"])
def test_evaluations_counted_are_those_made(half: bool) -> None:
    recorder = Recorder(ripple)
    attack = ProjectedGradientDescent(steps=7, amp=torch.float16 if half else None)
    result = attack(recorder, torch.randn(3, 4), torch.tensor([1.0, 0.0, 2.0]))
    assert result.steps.tolist() == [7, 7, 7]
    assert len(recorder.points) == Counted.backwards == 7
    assert all(len(point) == 3 for point in recorder.points)


def test_no_room_for_noise_costs_nothing() -> None:
    recorder = Recorder(ripple)
    result = ProjectedGradientDescent()(recorder, torch.randn(3, 4), 0.0)
    assert result.steps.tolist() == [0, 0, 0]
    assert not recorder.points


def test_verdicts_are_those_of_the_returned_point_and_of_the_whole_path() -> None:
    torch.manual_seed(4)
    inputs = torch.randn(6, 5)
    for best in (False, True):
        recorder = Recorder(ripple, limit=1.0)
        attack = ProjectedGradientDescent(steps=5, rel_step=0.4, best_iterate=best)
        result = attack(recorder, inputs, torch.tensor([0.1, 0.5, 1.0, 2.0, 4.0, 8.0]))
        path = torch.stack(recorder.losses)
        assert len(path) == (7 if best else 6)  # the last iterate is judged too, and the best again
        assert result.accepted is not None
        assert result.all_accepted is not None
        assert torch.equal(result.accepted, ripple(result.noisy, torch.arange(6)) < 1.0)
        assert torch.equal(result.all_accepted, (path < 1.0).all(0))
        assert 0 < int(result.all_accepted.sum()) < 6
    first, last = path[0] < 1.0, path[5] < 1.0
    assert (first != last).any(), "the case must have different verdicts on the path and at its end"


def test_without_verdicts_there_are_none() -> None:
    result = ProjectedGradientDescent(steps=2)(ripple, torch.randn(2, 3), 1.0)
    assert result.accepted is None
    assert result.all_accepted is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_best_iterate_is_the_best_of_all_that_were_seen(dtype: torch.dtype) -> None:
    """Steps as long as the radius overshoot the hills of this loss, so that the last iterate is seldom the best."""
    inputs = torch.randn(8, 5, dtype=dtype)

    def steep(noisy: Tensor, rows: Tensor) -> Tensor:
        return 1e6 + torch.sin(noisy * 9).sum(1)

    recorder = Recorder(steep)
    result = ProjectedGradientDescent(steps=9, rel_step=1.0, best_iterate=True)(recorder, inputs, 2.0)
    losses, points = torch.stack(recorder.losses), torch.stack(recorder.points)
    assert len(losses) == 10
    best = losses.max(0)
    assert torch.equal(steep(result.noisy, torch.arange(8)), best.values)
    assert torch.equal(result.noisy, points[best.indices, torch.arange(8)])
    assert (best.indices < 9).any(), "the best iterate of the case must not be the last"


def test_a_loss_that_is_not_a_number_is_never_the_best() -> None:
    """The random start of both samples is NaN, all later iterates are not."""
    calls = 0

    def objective(noisy: Tensor, rows: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        # A straight-through gradient, so that the sample leaves its NaN.
        return noisy.sum(1) + (math.nan if calls == 1 else 0.0)

    attack = ProjectedGradientDescent(steps=40, best_iterate=True)
    inputs = torch.zeros(2, 3)
    result = attack(objective, inputs, 1.0)
    torch.testing.assert_close(result.noisy.sum(1), torch.full((2,), 3**0.5), rtol=0.05, atol=0)


# Refused settings and inputs


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": -1}, "steps must be at least 0, got -1"),
        ({"rel_step": 0.0}, "rel_step"),
        ({"rel_step": -1.0}, "rel_step"),
        ({"rel_step": math.nan}, "rel_step"),
        ({"rel_step": math.inf}, "rel_step"),
        ({"norm": 1}, "norm must be"),
        ({"clip_range": (1.0, 0.0)}, "clip_range"),
        ({"clip_range": (0.0, 0.0)}, "clip_range"),
        ({"clip_range": (math.nan, 1.0)}, "clip_range"),
    ],
    ids=str,
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProjectedGradientDescent(**settings)


def test_settings_are_keyword_only_and_cannot_change() -> None:
    with pytest.raises(TypeError):
        ProjectedGradientDescent(2)  # type: ignore[call-arg]
    with pytest.raises(AttributeError):
        ProjectedGradientDescent().steps = 3  # type: ignore[misc]
    assert isinstance(ProjectedGradientDescent(norm="inf").norm, Norm)
    assert ProjectedGradientDescent(clip_range=[0, 1]).clip_range == (0.0, 1.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("inputs", "radius", "error", "message"),
    [
        (torch.zeros(2, 3, dtype=torch.int64), 1.0, TypeError, "int64"),
        (torch.tensor([[0.0], [math.nan], [math.inf]]), 1.0, ValueError, r"samples \[1, 2\]"),
        (torch.tensor([[0.0], [1.1]]), 1.0, ValueError, r"must lie in clip_range .* got values in \[0, 1.1\]"),
        (torch.tensor([[-0.1], [1.0]]), 1.0, ValueError, "must lie in clip_range"),
        (torch.zeros(2, 1), -1.0, ValueError, "not negative, got"),
        (torch.zeros(2, 1), torch.tensor([1.0, math.nan]), ValueError, r"\[nan\]"),
        (torch.zeros(2, 1), math.inf, ValueError, "finite"),
        (torch.zeros(2, 1), torch.ones(3), ValueError, r"\(2,\), got shape \(3,\)"),
        (torch.zeros(2, 1), torch.ones(2, 1), ValueError, r"got shape \(2, 1\)"),
    ],
    ids=str,
)
def test_bad_inputs_and_radii(inputs: Tensor, radius: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ProjectedGradientDescent(clip_range=(0.0, 1.0))(ripple, inputs, radius)


@pytest.mark.parametrize(
    "objective",
    [lambda noisy, rows: noisy.detach().sum(1), lambda noisy, rows: torch.ones(2, requires_grad=True) * 2],
    ids=["detached", "of another input"],
)
def test_a_loss_must_depend_on_the_noisy_input(objective: Any) -> None:
    with pytest.raises(ValueError, match="must be differentiable in the noisy input"):
        ProjectedGradientDescent(steps=1)(objective, torch.zeros(2, 3), 1.0)
