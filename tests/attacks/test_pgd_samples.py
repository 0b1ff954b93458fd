"""PGD per sample: independence of the others, unusable gradients, half precision."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_amat.attacks import AttackResult, ProjectedGradientDescent

NORMS: list[Any] = [2, math.inf]


def noise_of(result: AttackResult, inputs: Tensor) -> Tensor:
    return result.noisy.double() - inputs.double()


def classify(network: nn.Module, labels: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda noisy, rows: F.cross_entropy(network(noisy), labels[rows], reduction="none")


# One sample knows nothing of another


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("settings", [{}, {"best_iterate": True}, {"amp": torch.bfloat16}], ids=str)
def test_a_sample_gets_the_same_noise_alone_and_in_a_batch(
    network: nn.Sequential, norm: Any, settings: dict[str, Any]
) -> None:
    labels, seeds = torch.tensor([0, 1, 2, 0]), [4, 3, 2, 1]
    images, radius = torch.randn(4, 1, 8, 8), torch.tensor([0.1, 1.0, 0.0, 3.0])
    attack = ProjectedGradientDescent(norm=norm, steps=5, **settings)
    together = attack(classify(network, labels), images, radius, seeds=seeds).noisy
    order = torch.tensor([2, 0, 3, 1])
    shuffled = attack(classify(network, labels[order]), images[order], radius[order], seeds=[seeds[i] for i in order])
    for place, row in enumerate(order.tolist()):
        objective = classify(network, labels[row : row + 1])
        alone = attack(objective, images[row : row + 1], radius[row : row + 1], seeds=[seeds[row]]).noisy[0]
        tolerance = 1e-5 if "amp" not in settings else 1e-2
        if norm == math.inf:  # a gradient of nearly nothing may take either sign
            assert ((alone - together[row]).abs() > 1e-5).float().mean() < 0.05
        else:
            torch.testing.assert_close(alone, together[row], rtol=0, atol=tolerance)
            torch.testing.assert_close(shuffled.noisy[place], together[row], rtol=0, atol=tolerance)


BLOWS: dict[str, Callable[[Tensor], Tensor]] = {
    "nan loss": lambda x: (x * math.nan).sum(),
    "infinite loss": lambda x: (x.exp() / 0.0).sum(),
    "nan gradient": lambda x: (x - x.detach()).sqrt().sum(),
    "infinite gradient": lambda x: (x - x.detach()).abs().sqrt().sum(),
    "zero gradient": lambda x: (x * 0).sum(),
}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("blow", BLOWS, ids=str)
@pytest.mark.parametrize("half", [False, True], ids=["single", "half"])
def test_a_sample_without_a_gradient_stalls_and_does_not_change_the_others(norm: Any, blow: str, half: bool) -> None:
    torch.manual_seed(1)
    inputs, weight = torch.randn(3, 2, 4), torch.randn(8, 1) * 1e-3
    if half:
        weight = weight.half()

    def objective(noisy: Tensor, rows: Tensor, spoilt: bool = True) -> Tensor:
        # In half precision the gradients of sample 0 are so small that they need the loss scaled up.
        flat = noisy.flatten(1).to(weight.dtype)
        losses = list((torch.tanh(flat @ weight).float() * torch.tensor([[1e-4], [1.0], [1.0]])).sum(1))
        if spoilt:
            losses[1] = BLOWS[blow](noisy[1]).to(losses[1].dtype)
        stacked = torch.stack(losses)
        return stacked.half() if half else stacked

    attack = ProjectedGradientDescent(norm=norm, steps=6, best_iterate=False)
    seeds = [3, 4, 5]
    start = ProjectedGradientDescent(norm=norm, steps=0)(objective, inputs, 1.0, seeds=seeds)
    result = attack(objective, inputs, 1.0, seeds=seeds)
    healthy = attack(lambda noisy, rows: objective(noisy, rows, spoilt=False), inputs, 1.0, seeds=seeds)
    assert torch.equal(result.noisy[[0, 2]], healthy.noisy[[0, 2]])
    assert result.stalled.tolist() == [0, 6, 0]
    assert healthy.stalled.tolist() == [0, 0, 0]
    torch.testing.assert_close(result.noisy[1], start.noisy[1], rtol=0, atol=1e-6)
    assert not torch.allclose(healthy.noisy[1], start.noisy[1], atol=1e-2)
    assert result.steps.tolist() == [6, 6, 6]


def test_stalled_counts_only_the_steps_that_stalled() -> None:
    """The gradient of relu(x − 1) is zero until noise takes x past 1; sample 1 starts there."""
    inputs = torch.tensor([[0.0, 0.0], [2.0, 2.0]])
    attack = ProjectedGradientDescent(steps=5, random_start=None)
    result = attack(lambda noisy, rows: F.relu(noisy - 1).sum(1), inputs, 1.0)
    assert result.stalled.tolist() == [5, 0]
    assert torch.equal(result.noisy[0], inputs[0])


# Precision


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("where", ["amp", "ambient", "inputs", "loss"])
def test_half_precision_gradients_neither_vanish_nor_overflow(norm: Any, where: str) -> None:
    """Each sample's gradient in half precision is 1e-9, 1 or 2e4: the first vanishes unscaled, the last overflows."""
    torch.manual_seed(2)
    weight, inputs, factor = torch.randn(8, 1), torch.randn(3, 8), torch.tensor([1e-9, 1.0, 2e4])

    def objective(noisy: Tensor, rows: Tensor) -> Tensor:
        if where in ("inputs", "loss"):
            noisy = noisy.half()
        projected = noisy @ weight.to(noisy.dtype)
        assert projected.dtype == torch.float16
        loss = (projected - projected.detach())[:, 0].float() * factor[rows]  # zero, so that it never overflows itself
        return loss.half() * 1.0 if where == "loss" else loss

    given_inputs = inputs.half() if where == "inputs" else inputs
    attack = ProjectedGradientDescent(
        norm=norm, steps=8, random_start=None, amp=torch.float16 if where == "amp" else None
    )
    with torch.autocast("cpu", dtype=torch.float16, enabled=where == "ambient"):
        result = attack(objective, given_inputs, 2.0)
    assert result.stalled.tolist() == [0, 0, 0]
    direction = weight.T / weight.norm() if norm == 2 else weight.T.sign()
    expected = (2.0 * direction).double().expand(3, -1)
    torch.testing.assert_close(noise_of(result, given_inputs), expected, rtol=0, atol=1e-2)


def test_amp_runs_the_objective_in_that_type_and_nothing_else() -> None:
    seen = []

    def objective(noisy: Tensor, rows: Tensor) -> Tensor:
        value = noisy @ torch.ones(4, 1)
        seen.append((noisy.dtype, value.dtype))
        return value[:, 0].float().square()

    inputs = torch.randn(2, 4)
    result = ProjectedGradientDescent(steps=2, amp=torch.bfloat16)(objective, inputs, 1.0)
    assert set(seen) == {(torch.float32, torch.bfloat16)}
    assert result.noisy.dtype == torch.float32
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("amp", [torch.float16, torch.bfloat16], ids=str)
def test_a_network_under_autocast_gives_nearly_the_noise_of_full_precision(
    network: nn.Sequential, amp: torch.dtype
) -> None:
    labels, images = torch.tensor([0, 1, 2, 0]), torch.rand(4, 1, 8, 8)
    full = ProjectedGradientDescent(steps=5)(classify(network, labels), images, 1.0).noisy - images
    half = ProjectedGradientDescent(steps=5, amp=amp)(classify(network, labels), images, 1.0).noisy - images
    cosine = F.cosine_similarity(full.flatten(1), half.flatten(1))
    assert (cosine > 0.98).all()
    assert not torch.equal(full, half)
