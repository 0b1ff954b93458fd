"""The contract of every attack. A new attack adds one line to `ATTACKS`."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from monai_amat.attacks import (
    L2,
    Attack,
    AttackResult,
    AutoProjectedGradientDescent,
    BoundaryPGD,
    Evaluation,
    FullStart,
    InnerStart,
    Linf,
    ProjectedGradientDescent,
    Restarts,
    ShrinkingRadius,
    Square,
    WorstOf,
    check_attack,
)

# How to make each attack from the two settings that every attack has, `norm` and `clip_range`; few steps each.
ATTACKS: dict[str, Callable[..., Attack]] = {
    "PGD": lambda **settings: ProjectedGradientDescent(steps=4, rel_step=0.6, **settings),
    "PGD from the input": lambda **settings: ProjectedGradientDescent(steps=4, random_start=None, **settings),
    "PGD from inside": lambda **settings: ProjectedGradientDescent(steps=4, random_start=InnerStart(0.3), **settings),
    "PGD, best iterate": lambda **settings: ProjectedGradientDescent(steps=4, best_iterate=True, **settings),
    "PGD, random noise alone": lambda **settings: ProjectedGradientDescent(steps=0, **settings),
    "BoundaryPGD": lambda **settings: BoundaryPGD(steps=4, floor=0.5, halvings=4, **settings),
    "BoundaryPGD from outside": lambda **settings: BoundaryPGD(steps=4, random_start=FullStart(), **settings),
    "APGD": lambda **settings: AutoProjectedGradientDescent(steps=4, **settings),
    "APGD from the input": lambda **settings: AutoProjectedGradientDescent(steps=4, random_start=None, **settings),
    "ShrinkingRadius": lambda **settings: ShrinkingRadius(attack=AutoProjectedGradientDescent(steps=6, **settings)),
    "Square": lambda **settings: Square(queries=6, **settings),
    "WorstOf": lambda **settings: WorstOf(
        attacks={
            "square": Square(queries=4, **settings),
            "apgd": AutoProjectedGradientDescent(steps=3, **settings),
            "pgd": ProjectedGradientDescent(steps=3, **settings),
        }
    ),
    "Restarts": lambda **settings: Restarts(ProjectedGradientDescent(steps=3, **settings), 2),
    "Restarts of BoundaryPGD": lambda **settings: Restarts(BoundaryPGD(steps=3, floor=0.5, **settings), 2),
}
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
NORMS: list[Any] = [2, math.inf]

every_attack = pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in ATTACKS.items()])
every_norm = pytest.mark.parametrize("norm", NORMS)


class Ripple:
    """A loss with hills and valleys in every pixel, of any shape and with a verdict; loss i depends on sample i."""

    def __init__(self, limits: Tensor | None = None) -> None:
        self.limits = limits

    def loss(self, noisy: Tensor) -> Tensor:
        shape = noisy.shape[1:]
        place = torch.arange(shape.numel(), dtype=torch.float32, device=noisy.device).reshape(shape)
        return (torch.sin(noisy.float() + place) + 0.1 * noisy.float().tanh()).flatten(1).sum(1)

    def __call__(self, noisy: Tensor, rows: Tensor) -> Evaluation:
        loss = self.loss(noisy)
        limits = torch.zeros_like(loss) if self.limits is None else self.limits[rows].to(loss)
        return Evaluation(loss, loss.detach() < limits)


class Classify:
    """Cross entropy of a network, with a verdict."""

    def __init__(self, network: nn.Module, labels: Tensor) -> None:
        self.network, self.labels = network, labels

    def __call__(self, noisy: Tensor, rows: Tensor) -> Evaluation:
        loss = F.cross_entropy(self.network(noisy), self.labels[rows], reduction="none")
        return Evaluation(loss, loss.detach() < 1.2)


def sizes(values: Tensor, norm: Any) -> Tensor:
    return torch.linalg.vector_norm(values.double().flatten(1), float(norm), dim=1)


@every_attack
@every_norm
def test_it_has_its_norm_and_whether_it_needs_verdicts(make: Callable[..., Attack], norm: Any) -> None:
    attack = make(norm=norm)
    assert check_attack(attack) is attack
    assert type(attack.norm) is {2: L2, math.inf: Linf}[norm]
    wrapped = Restarts(Restarts(attack, 1), 1)
    assert wrapped.norm is attack.norm
    assert wrapped.needs_verdicts is attack.needs_verdicts
    if attack.needs_verdicts:
        with pytest.raises(ValueError, match="needs a verdict"):
            attack(lambda noisy, rows: Ripple().loss(noisy), torch.zeros(1, 2), 1.0)


@every_attack
@given(
    norm=st.sampled_from(NORMS),
    dtype=st.sampled_from(DTYPES),
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple),
    batch=st.integers(1, 4),
    scale=st.sampled_from([0.0, 1e-3, 1.0, 255.0, 1e4]),
    relative=st.sampled_from([0.0, 1e-6, 0.05, 1.0, 1e3]),
    clip=st.sampled_from(["none", "tight", "wide"]),
    seed=st.integers(0, 999),
)
def test_noise_stays_in_its_ball_and_range_whatever_the_input(
    make: Callable[..., Attack],
    norm: Any,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    batch: int,
    scale: float,
    relative: float,
    clip: str,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    inputs = ((torch.rand((batch, *shape), generator=generator) * 2 - 0.7) * scale).to(dtype)
    kept = inputs.clone()
    radius = torch.rand(batch, generator=generator) * relative * (scale or 1.0)
    radius[0] *= seed % 2  # a sample without room for noise among others that have some
    low, high = inputs.min().item(), inputs.max().item()
    if low == high:
        low, high = low - 0.5, high + 0.5
    clip_range = {"none": None, "tight": (low, high), "wide": (low - 0.1 * scale - 0.1, high + 0.3)}[clip]
    objective = Ripple(torch.linspace(-1.0, 2.0, batch))
    result = make(norm=norm, clip_range=clip_range)(objective, inputs, radius)
    assert torch.equal(inputs, kept)
    assert result.noisy.shape == inputs.shape
    assert result.noisy.dtype == dtype
    assert torch.isfinite(result.noisy).all()
    size = sizes(result.noisy.double() - inputs.double(), norm)
    bound = radius.double() * (1 + 1e-5) + 4 * torch.finfo(dtype).eps * sizes(inputs, norm)
    assert (size <= bound).all(), (size, bound)
    if clip_range is not None:
        lowest, highest = torch.tensor(clip_range, dtype=dtype)
        assert result.noisy.min() >= lowest
        assert result.noisy.max() <= highest
    still = radius == 0
    assert torch.equal(result.noisy[still], inputs[still])
    check_books(result, objective, batch)


def check_books(result: AttackResult, objective: Ripple, batch: int) -> None:
    """The other fields of a result: one value per sample, and the verdict at the noisy input itself."""
    for values in (result.steps, result.stalled):
        assert values.shape == (batch,)
        assert values.dtype == torch.int64
        assert (values >= 0).all()
    assert (result.stalled <= result.steps).all()
    if result.accepted is None or result.all_accepted is None:
        assert result.accepted is result.all_accepted
        return
    expected = objective(result.noisy, torch.arange(batch)).accepted
    assert expected is not None
    assert torch.equal(result.accepted, expected)
    assert result.all_accepted.dtype == torch.bool
    assert not (result.all_accepted & ~result.accepted).any()


@every_attack
@every_norm
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_radius_below_the_precision_of_a_black_image_is_kept(
    make: Callable[..., Attack], norm: Any, dtype: torch.dtype
) -> None:
    """The image is zero, so that rounding excuses no excess, and squares of the noise vanish in float32."""
    inputs, radius = torch.zeros(2, 5, dtype=dtype), torch.tensor([1e-25, 2.5e-8])
    noisy = make(norm=norm)(Ripple(torch.full((2,), 50.0)), inputs, radius).noisy
    assert (sizes(noisy, norm) <= radius.double() * (1 + 1e-5)).all()


@every_attack
@every_norm
def test_a_sample_gets_the_same_noise_alone_and_in_a_batch(
    make: Callable[..., Attack], norm: Any, network: nn.Sequential
) -> None:
    labels, seeds = torch.tensor([0, 1, 2, 0]), [4, 3, 2, 1]
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    radius = torch.tensor([0.1, 1.0, 0.0, 3.0]) / (1 if norm == 2 else 8)
    attack = make(norm=norm)
    together = attack(Classify(network, labels), images, radius, seeds=seeds).noisy
    order = torch.tensor([2, 0, 3, 1])
    objective = Classify(network, labels[order])
    shuffled = attack(objective, images[order], radius[order], seeds=[seeds[i] for i in order]).noisy
    for place, row in enumerate(order.tolist()):
        one = slice(row, row + 1)
        alone = attack(Classify(network, labels[one]), images[one], radius[one], seeds=seeds[one]).noisy[0]
        for noisy in (alone, shuffled[place]):
            if norm == math.inf:  # the sign of a gradient near zero is open
                assert ((noisy - together[row]).abs() > 1e-5).float().mean() < 0.05
            else:
                torch.testing.assert_close(noisy, together[row], rtol=0, atol=1e-4)


@every_attack
@pytest.mark.parametrize("spoilt", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_does_not_change_the_other_samples(
    make: Callable[..., Attack], spoilt: float
) -> None:
    class Sick(Ripple):
        def loss(self, noisy: Tensor) -> Tensor:
            return super().loss(noisy) * self.factors

        def __call__(self, noisy: Tensor, rows: Tensor) -> Evaluation:
            self.factors = torch.where(rows == 1, spoilt, 1.0)
            return super().__call__(noisy, rows)

    inputs, limits = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(1)), torch.full((3,), 3.0)
    attack = make()
    healthy, sick = attack(Ripple(limits), inputs, 1.0), attack(Sick(limits), inputs, 1.0)
    torch.testing.assert_close(sick.noisy[[0, 2]], healthy.noisy[[0, 2]], rtol=0, atol=1e-6)
    assert torch.isfinite(sick.noisy).all()


@every_attack
def test_the_same_seeds_give_the_same_noise_and_nothing_is_left_behind(
    make: Callable[..., Attack], network: nn.Sequential
) -> None:
    labels, images = torch.tensor([0, 1, 2, 0]), torch.rand(4, 1, 8, 8).requires_grad_(True)
    network.train()
    network[2].eval()
    network[0].weight.requires_grad_(False)
    modes = [module.training for module in network.modules()]
    wanted = [parameter.requires_grad for parameter in network.parameters()]
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # type: ignore[index]
    attack, objective = make(), Classify(network, labels)
    first = attack(objective, images, 1.0, seeds=[1, 2, 3, 4]).noisy
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])  # type: ignore[index]
    assert random.getstate() == states[2]
    assert [module.training for module in network.modules()] == modes
    assert [parameter.requires_grad for parameter in network.parameters()] == wanted
    assert all(parameter.grad is None for parameter in (*network.parameters(), images))
    assert torch.is_grad_enabled()
    torch.manual_seed(99)
    assert torch.equal(attack(objective, images, 1.0, seeds=[1, 2, 3, 4]).noisy, first)
    assert torch.equal(attack(objective, images, 1.0, seeds=[1, 2, 3, 5]).noisy[:3], first[:3])
    unnamed = attack(objective, images, 1.0).noisy
    assert torch.equal(unnamed, attack(objective, images, 1.0, seeds=[0, 1, 2, 3]).noisy)


@every_attack
@pytest.mark.parametrize("caller", [torch.no_grad, torch.inference_mode], ids=["no_grad", "inference_mode"])
def test_it_works_if_the_caller_has_switched_gradients_off(
    make: Callable[..., Attack], caller: Callable[[], Any], network: nn.Sequential
) -> None:
    labels, images = torch.tensor([0, 1, 2, 0]), torch.rand(4, 1, 8, 8)
    expected = make()(Classify(network, labels), images, 1.0)
    with caller():
        inside, radius = images + 0.0, torch.ones(4)  # made in the mode, as the tensors of a loader may be
        result = make()(Classify(network, labels), inside, radius)
        assert not torch.is_grad_enabled()
    assert torch.equal(result.noisy, expected.noisy)
    assert not result.noisy.requires_grad
    assert not result.noisy.is_inference()


@every_attack
@pytest.mark.gpu
def test_it_works_on_a_gpu_as_on_the_cpu(make: Callable[..., Attack], network: nn.Sequential) -> None:
    labels, images = torch.tensor([0, 1, 2, 0]), torch.rand(4, 1, 8, 8)
    expected = make()(Classify(network, labels), images, torch.tensor([0.0, 0.5, 1.0, 2.0]), seeds=[3, 4, 5, 6])
    objective = Classify(network.double().cuda(), labels.cuda())
    result = make()(objective, images.double().cuda(), torch.tensor([0.0, 0.5, 1.0, 2.0]), seeds=[3, 4, 5, 6])
    assert all(values.is_cuda for values in (result.noisy, result.steps, result.stalled))
    torch.testing.assert_close(result.noisy.cpu().float(), expected.noisy, rtol=0, atol=1e-3)


@every_attack
@pytest.mark.parametrize("count", [0, 2])
def test_with_radius_0_the_result_is_the_input(make: Callable[..., Attack], count: int) -> None:
    inputs = torch.randn(count, 1, 3, 3)
    result = make(clip_range=(-9.0, 9.0))(Ripple(torch.ones(count)), inputs, 0.0)
    assert torch.equal(result.noisy, inputs)
    assert result.steps.tolist() == [0] * count


@every_attack
@pytest.mark.parametrize(
    ("inputs", "radius", "seeds", "error", "message"),
    [
        (torch.zeros(2, 3, dtype=torch.int64), 1.0, None, TypeError, "floating-point inputs, got torch.int64"),
        (torch.tensor([[0.0], [math.nan]]), 1.0, None, ValueError, r"samples \[1\] of the batch"),
        (torch.tensor([[0.5], [2.0]]), 1.0, None, ValueError, "clip_range"),
        (torch.zeros(2, 3), -1.0, None, ValueError, "radius"),
        (torch.zeros(2, 3), math.nan, None, ValueError, "radius"),
        (torch.zeros(2, 3), torch.tensor([1.0, math.inf]), None, ValueError, "radius"),
        (torch.zeros(2, 3), torch.ones(3), None, ValueError, "radius"),
        (torch.zeros(2, 3), torch.ones(2, 1), None, ValueError, "radius"),
        (torch.zeros(2, 3), 1.0, [1], ValueError, "seeds"),
    ],
)
def test_inputs_radii_and_seeds_that_are_refused(
    make: Callable[..., Attack], inputs: Tensor, radius: Any, seeds: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make(clip_range=(-1.0, 1.0))(Ripple(), inputs, radius, seeds=seeds)


@every_attack
@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda noisy, rows: noisy.sum(), ValueError, r"shape \(2,\)"),
        (lambda noisy, rows: noisy, ValueError, r"shape \(2,\)"),
        (lambda noisy, rows: Evaluation(noisy.sum(1), torch.tensor(True)), ValueError, "verdict"),
        (lambda noisy, rows: Evaluation(noisy.sum(1), torch.ones(2)), TypeError, "verdict.*bool.*float32"),
    ],
)
def test_an_objective_must_return_one_value_per_sample(
    make: Callable[..., Attack], wrong: Any, error: type[Exception], message: str
) -> None:
    if make is ATTACKS["PGD, random noise alone"]:
        pytest.skip("an attack without steps never calls its objective")
    with pytest.raises(error, match=message):
        make()(wrong, torch.zeros(2, 3), 1.0)
