"""PGD: the ball and the range for any input, known optima, a reference in numpy and foolbox."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_amat.attacks import AttackResult, FullStart, InnerStart, ProjectedGradientDescent, get_norm

NORMS: list[Any] = [2, math.inf]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def ripple(noisy: Tensor, rows: Tensor) -> Tensor:
    """A loss with hills and valleys in every pixel, of any shape; loss i depends on sample i alone."""
    shape = noisy.shape[1:]
    place = torch.arange(shape.numel(), dtype=torch.float32).reshape(shape)
    return (torch.sin(noisy.float() + place) + 0.1 * noisy.float().tanh()).flatten(1).sum(1)


def noise_of(result: AttackResult, inputs: Tensor) -> Tensor:
    return result.noisy.double() - inputs.double()


def classify(network: nn.Module, labels: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda noisy, rows: F.cross_entropy(network(noisy), labels[rows], reduction="none")


# Ball and range


def test_the_noise_is_not_needlessly_small() -> None:
    """Without clipping, 20 steps of a quarter radius end on the sphere."""
    inputs, radius = torch.randn(3, 1, 8, 8), torch.tensor([0.1, 1.0, 30.0])
    for norm in NORMS:
        result = ProjectedGradientDescent(norm=norm)(ripple, inputs, radius)
        torch.testing.assert_close(get_norm(norm).size(result.noisy - inputs), radius, rtol=1e-3, atol=0)


def test_the_ball_holds_over_a_large_image() -> None:
    """Float32 sums over a million pixels have rounding errors; the noise must still stay inside its radius."""
    inputs = torch.zeros(1, 1, 1024, 1024)
    for start, steps in ((None, 4), (FullStart(), 0)):
        attack = ProjectedGradientDescent(steps=steps, rel_step=0.5, random_start=start)
        result = attack(lambda noisy, rows: noisy.flatten(1).sum(1), inputs, 5.0)
        assert abs(noise_of(result, inputs).norm().item() / 5.0 - 1) < 1e-5


def test_zero_steps_leave_random_noise_of_full_size() -> None:
    inputs = torch.randn(2, 1, 16, 16)
    result = ProjectedGradientDescent(steps=0)(ripple, inputs, 3.0)
    torch.testing.assert_close((result.noisy - inputs).flatten(1).norm(dim=1), torch.full((2,), 3.0))
    assert result.steps.tolist() == [0, 0]


def test_the_range_is_that_of_the_inputs_own_precision() -> None:
    """float32 and float16 cannot represent 0.1 and 0.3; an image clipped to them must still pass as in range."""
    for dtype in DTYPES:
        inputs = torch.linspace(0, 1, 8, dtype=torch.float64).clamp(0.1, 0.3).to(dtype)[None]
        attack = ProjectedGradientDescent(norm="inf", clip_range=(0.1, 0.3), steps=5)
        noisy = attack(ripple, inputs, 10.0).noisy
        low, high = torch.tensor((0.1, 0.3), dtype=torch.float64).to(dtype)
        assert ((noisy == low) | (noisy == high)).all()


def test_an_empty_batch_comes_back_empty() -> None:
    for best in (False, True):
        result = ProjectedGradientDescent(best_iterate=best)(ripple, torch.zeros(0, 1, 3, 3), 1.0)
        assert result.noisy.shape == (0, 1, 3, 3)
        assert result.steps.shape == (0,)


# Known optima


@pytest.mark.parametrize("start", [None, FullStart()], ids=["clean", "random"])
def test_linear_loss_has_its_known_optimum(start: Any) -> None:
    torch.manual_seed(3)
    weight, inputs, radius = torch.randn(4, 2, 3, 3), torch.randn(4, 2, 3, 3), torch.tensor([0.01, 1.0, 20.0, 0.0])
    wide = radius.reshape(4, 1, 1, 1)

    def linear(noisy: Tensor, rows: Tensor) -> Tensor:
        return (noisy * weight[rows]).flatten(1).sum(1)

    length = weight.flatten(1).norm(dim=1).reshape(4, 1, 1, 1)
    spherical = ProjectedGradientDescent(norm=2, steps=60, random_start=start)(linear, inputs, radius)
    torch.testing.assert_close((spherical.noisy - inputs), wide * weight / length, rtol=1e-3, atol=1e-4)
    cubic = ProjectedGradientDescent(norm="inf", steps=20, random_start=start)(linear, inputs, radius)
    torch.testing.assert_close(cubic.noisy, inputs + wide * weight.sign(), rtol=1e-5, atol=1e-6)
    low, high = inputs.min().item(), inputs.max().item()
    clipped = ProjectedGradientDescent(norm="inf", steps=20, random_start=start, clip_range=(low, high))
    expected = (inputs + wide * weight.sign()).clamp(low, high)
    torch.testing.assert_close(clipped(linear, inputs, radius).noisy, expected, rtol=1e-5, atol=1e-6)


def test_one_step_is_rel_step_times_the_radius() -> None:
    attack = ProjectedGradientDescent(steps=1, rel_step=0.2, random_start=None)
    result = attack(lambda noisy, rows: noisy @ torch.tensor([3.0, 4.0]), torch.zeros(2, 2), torch.tensor([10.0, 5.0]))
    torch.testing.assert_close(result.noisy, torch.tensor([[1.2, 1.6], [0.6, 0.8]]))


# Independent implementations


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("start", [FullStart(), InnerStart(0.4)], ids=["full", "inner"])
def test_agrees_with_a_reference_in_numpy(norm: Any, start: Any) -> None:
    """Twelve steps on log(1 + exp(w·x)) + sin(v·x), gradient by hand, every sample from its own seed, clipped."""
    numbers = np.random.default_rng(0)
    w, v, x = (numbers.normal(size=(3, 6)) for _ in range(3))
    x = x.clip(-1.5, 1.5)
    radius, seeds = np.array([0.3, 1.0, 4.0]), [11, 5, 2**62]

    def project(noise: np.ndarray, r: float) -> np.ndarray:
        return noise.clip(-r, r) if norm == math.inf else noise * min(1.0, r / np.linalg.norm(noise))

    expected = np.empty_like(x)
    for i in range(3):
        r = radius[i]
        begin = r if isinstance(start, FullStart) else max(r - 0.4, 0.4)
        uniform = torch.rand(6, generator=torch.Generator().manual_seed(seeds[i])).double().numpy()
        noise = project(project((uniform * 2 - 1) * begin, begin), r)
        noise = (x[i] + noise).clip(-2, 2) - x[i]
        for _ in range(12):
            z = x[i] + noise
            g = w[i] / (1 + np.exp(-w[i] @ z)) + v[i] * np.cos(v[i] @ z)
            noise = project(noise + 0.2 * r * (np.sign(g) if norm == math.inf else g / np.linalg.norm(g)), r)
            noise = (x[i] + noise).clip(-2, 2) - x[i]
        expected[i] = x[i] + noise

    def objective(noisy: Tensor, rows: Tensor) -> Tensor:
        one = (noisy * torch.from_numpy(w)[rows]).sum(1)
        return F.softplus(one) + torch.sin((noisy * torch.from_numpy(v)[rows]).sum(1))

    attack = ProjectedGradientDescent(norm=norm, steps=12, rel_step=0.2, random_start=start, clip_range=(-2, 2))
    result = attack(objective, torch.from_numpy(x), torch.from_numpy(radius), seeds=seeds)
    np.testing.assert_allclose(result.noisy.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_agrees_with_foolbox_step_by_step(network: nn.Sequential, norm: Any, steps: int) -> None:
    foolbox = pytest.importorskip("foolbox")
    torch.manual_seed(0)
    images, labels, epsilon = torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 0]), {2: 1.5, math.inf: 0.1}[norm]
    kind = {2: "L2ProjectedGradientDescentAttack", math.inf: "LinfProjectedGradientDescentAttack"}[norm]
    theirs = getattr(foolbox.attacks, kind)(rel_stepsize=0.3, steps=steps, random_start=False)
    model = foolbox.PyTorchModel(network.eval(), bounds=(0, 1), device="cpu")
    expected, _, _ = theirs(model, images, foolbox.criteria.Misclassification(labels), epsilons=epsilon)
    ours = ProjectedGradientDescent(norm=norm, steps=steps, rel_step=0.3, random_start=None, clip_range=(0, 1))
    noisy = ours(classify(network, labels), images, epsilon).noisy
    assert (noisy - images).abs().max() > 0.01
    torch.testing.assert_close(noisy, expected, rtol=0, atol=1e-4)


def test_the_attack_does_raise_the_loss_of_a_network(network: nn.Sequential) -> None:
    labels = torch.tensor([0, 1, 2, 0])
    images, rows = torch.rand(4, 1, 8, 8), torch.arange(4)
    objective = classify(network, labels)
    losses = [
        objective(ProjectedGradientDescent(steps=steps, rel_step=0.25)(objective, images, 1.0).noisy, rows)
        for steps in (0, 20)
    ]
    assert (losses[1] > losses[0]).all()
