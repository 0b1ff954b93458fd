"""Auto-PGD: the same iterates as a second implementation in numpy, and its result."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_amat.attacks import AutoProjectedGradientDescent, Evaluation, ProjectedGradientDescent, get_norm
from monai_amat.attacks.apgd import window_ends

Array = np.ndarray
NORMS: list[Any] = [2, math.inf]


class Landscape:
    """Hills and valleys in every pixel, with its exact derivative; each sample has its own frequencies."""

    def __init__(self, samples: int, pixels: int) -> None:
        draw = np.random.default_rng(3)
        self.frequency = draw.uniform(0.5, 6.0, (samples, pixels))
        self.phase = draw.uniform(0, 6, (samples, pixels))
        self.height = draw.normal(size=(samples, pixels))

    def loss_of(self, i: int, x: Array) -> float:
        return float((self.height[i] * np.sin(self.frequency[i] * x + self.phase[i])).sum())

    def gradient_of(self, i: int, x: Array) -> Array:
        return self.height[i] * self.frequency[i] * np.cos(self.frequency[i] * x + self.phase[i])

    def __call__(self, noisy: Tensor, rows: Tensor) -> Tensor:
        frequency, phase, height = (torch.tensor(part)[rows] for part in (self.frequency, self.phase, self.height))
        return (height * torch.sin(frequency * noisy + phase)).sum(1)


def in_ball(noise: Array, radius: float, norm: float) -> Array:
    if norm == math.inf:
        return np.clip(noise, -radius, radius)
    length = math.sqrt(float((noise**2).sum()))
    return noise if length <= radius else noise * (radius / length)


def one_sample(
    loss: Callable[[Array], float],
    gradient: Callable[[Array], Array],
    x: Array,
    start: Array,
    radius: float,
    steps: int,
    norm: float,
    clip: tuple[float, float] | None,
) -> tuple[list[Array], list[float], Array]:
    """Auto-PGD of one image, from the paper: all evaluated points, the step sizes, the best point."""

    def allowed(point: Array) -> Array:
        point = x + in_ball(point - x, radius, norm)
        return point if clip is None else np.clip(point, *clip)

    def ascent(g: Array) -> Array:
        return np.sign(g) if norm == math.inf else g / math.sqrt(float((g**2).sum()))

    points, values = [start], [loss(start)]
    current, previous, current_value = start, start, values[0]
    best, best_value = start, values[0]
    eta, sizes = 2 * radius, []
    window, shrink, least = max(int(0.22 * steps), 1), max(int(0.03 * steps), 1), max(int(0.06 * steps), 1)
    inside, rises, halved_before, best_before = 0, 0, False, best_value
    for k in range(steps):
        sizes.append(eta)
        target = allowed(current + eta * ascent(gradient(current)))
        following = allowed(current + 0.75 * (target - current) + 0.25 * (current - previous)) if k else target
        previous, current = current, following
        value = loss(current)
        points.append(current)
        rises += value > current_value
        current_value = value
        if value > best_value:
            best, best_value = current, value
        inside += 1
        if inside == window:
            if rises <= 0.75 * window or (not halved_before and best_value == best_before):
                eta, current, current_value, halved_before = eta / 2, best, best_value, True
            else:
                halved_before = False
            best_before, inside, rises, window = best_value, 0, 0, max(window - shrink, least)
    return points, sizes, best


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("clip", [None, (-0.9, 1.0)])
@pytest.mark.parametrize("steps", [1, 7, 40])
def test_every_point_is_that_of_a_second_implementation(
    norm: Any, clip: tuple[float, float] | None, steps: int
) -> None:
    world = Landscape(5, 12)
    x = np.random.default_rng(0).uniform(-0.8, 0.8, (5, 12))
    radius = np.array([0.3, 1.0, 2.0, 0.05, 0.7])
    images, radii = torch.tensor(x), torch.tensor(radius)
    seen: list[Tensor] = []

    def objective(noisy: Tensor, rows: Tensor) -> Tensor:
        seen.append(noisy.detach().clone())
        return world(noisy, rows)

    attack = AutoProjectedGradientDescent(steps=steps, norm=norm, clip_range=clip)
    result = attack(objective, images, radii)
    halvings = 0
    for i in range(5):
        points, sizes, best = one_sample(
            partial(world.loss_of, i),
            partial(world.gradient_of, i),
            x[i],
            seen[0][i].numpy(),
            radius[i],
            steps,
            norm,
            clip,
        )
        assert len(points) == len(seen) == steps + 1
        for mine, theirs in zip(seen, points, strict=True):
            np.testing.assert_allclose(mine[i].numpy(), theirs, rtol=0, atol=1e-6)
        np.testing.assert_allclose(result.noisy[i].numpy(), best, rtol=0, atol=1e-6)
        halvings += len(set(sizes)) - 1
    assert halvings > 5 if steps == 40 else halvings >= 0
    assert result.steps.tolist() == [steps] * 5


def test_the_start_is_on_the_sphere() -> None:
    images = torch.randn(3, 1, 8, 8)
    seen: list[Tensor] = []

    def objective(noisy: Tensor, rows: Tensor) -> Tensor:
        seen.append(noisy.detach())
        return noisy.flatten(1).sum(1)

    AutoProjectedGradientDescent(steps=1)(objective, images, torch.tensor([1.0, 2.0, 0.5]))
    torch.testing.assert_close(get_norm(2).size(seen[0] - images), torch.tensor([1.0, 2.0, 0.5]))


@pytest.mark.parametrize("steps", [1, 2, 5, 19, 20, 100, 300])
def test_windows_follow_the_paper(steps: int) -> None:
    ends = window_ends(steps)
    lengths = np.diff([0, *ends])
    first, shorter, least = (max(math.floor(round(share * steps, 9)), 1) for share in (0.22, 0.03, 0.06))
    assert lengths[0] == first
    assert all(b == max(a - shorter, least) for a, b in pairwise(lengths))
    assert ends[-1] <= steps < ends[-1] + max(lengths[-1] - shorter, least)


def test_one_gradient_per_step_and_one_forward_more() -> None:
    calls = {"gradient": 0, "forward": 0}

    def objective(noisy: Tensor, rows: Tensor) -> Tensor:
        calls["gradient" if noisy.requires_grad else "forward"] += 1
        return noisy.square().flatten(1).sum(1)

    AutoProjectedGradientDescent(steps=9)(objective, torch.ones(2, 3), 1.0)
    assert calls == {"gradient": 9, "forward": 1}


def test_the_best_point_is_never_lost_and_its_verdict_comes_with_it() -> None:
    world = Landscape(4, 6)
    seen: list[tuple[Tensor, Tensor]] = []

    def objective(noisy: Tensor, rows: Tensor) -> Evaluation:
        loss = world(noisy, rows)
        seen.append((noisy.detach().clone(), loss.detach().clone()))
        return Evaluation(loss, loss < 1.0)

    images = torch.zeros(4, 6, dtype=torch.float64)
    result = AutoProjectedGradientDescent(steps=15)(objective, images, 2.0)
    losses = torch.stack([loss for _, loss in seen])
    for i in range(4):
        assert torch.equal(result.noisy[i], seen[int(losses[:, i].argmax())][0][i])
    assert result.accepted is not None
    assert result.all_accepted is not None
    assert result.accepted.tolist() == (losses.amax(0) < 1.0).tolist()
    assert result.all_accepted.tolist() == (losses < 1.0).all(0).tolist()


def test_a_fifth_of_the_gradients_reaches_the_loss_of_pgd(network: nn.Sequential) -> None:
    images = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = network(images).argmax(1)

    def objective(noisy: Tensor, rows: Tensor) -> Tensor:
        return F.cross_entropy(network(noisy), labels[rows], reduction="none")

    pgd = ProjectedGradientDescent(steps=100, rel_step=0.05)(objective, images, 1.0)
    apgd = AutoProjectedGradientDescent(steps=20)(objective, images, 1.0)
    rows = torch.arange(16)
    assert objective(apgd.noisy, rows).mean() > objective(pgd.noisy, rows).mean() - 0.01


def test_steps_without_a_gradient_are_counted() -> None:
    images = torch.tensor([[0.0, 0.0], [2.0, 2.0]])
    attack = AutoProjectedGradientDescent(steps=5, random_start=None)
    result = attack(lambda noisy, rows: F.relu(noisy - 1).sum(1), images, 0.5)
    assert result.stalled.tolist() == [5, 0]
    assert torch.equal(result.noisy[0], images[0])


@pytest.mark.parametrize("settings", [{"steps": -1}, {"norm": 3}, {"clip_range": (1, 0)}], ids=str)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        AutoProjectedGradientDescent(**settings)
