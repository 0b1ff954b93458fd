"""Attack losses of landmarks: values worked out by hand, what does not count, and where attacks lead."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from monai_amat.attacks import AutoProjectedGradientDescent
from monai_amat.losses.base import PerSampleLoss
from monai_amat.tasks.landmarks import CappedDistance, HeatmapLikelihood, TargetedLikelihood

EVERY = [HeatmapLikelihood(), TargetedLikelihood(), CappedDistance()]


def target(points: Any, spacing: Any = (0.5, 0.25)) -> dict[str, Tensor]:
    landmarks = torch.tensor(points)
    return {"landmarks": landmarks, "spacing": torch.tensor([spacing] * len(landmarks))}


def test_the_likelihood_of_the_true_cell() -> None:
    maps = torch.randn(2, 6, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = HeatmapLikelihood()(maps, target([[[1.4, 2.6], [9.0, -3.0]], [[0.0, 0.0], [math.nan, math.nan]]]))

    def cell(sample: int, landmark: int, y: int, x: int) -> float:
        heat = maps[sample, landmark]
        return -math.log(float(heat[y, x].exp() / heat.exp().sum()))

    # Outside the image the nearest cell is taken; a missing landmark does not count.
    assert found.tolist() == pytest.approx([(cell(0, 0, 1, 3) + cell(0, 1, 3, 0)) / 2, cell(1, 0, 0, 0)])


def test_the_distance_is_that_of_the_mean_vote_in_mm() -> None:
    maps = torch.zeros(1, 3, 20, 4)
    maps[0, 0, 4, 1] = maps[0, 0, 6, 1] = 50.0  # two peaks alike: the mean is between them
    maps[0, 1, 4, 1] = maps[0, 1, 6, 1] = 2.0  # R is 1 pixel: both vote two pixels below
    truth = target([[[7.0, 3.0]]])
    assert CappedDistance()(maps, truth).item() == pytest.approx(math.hypot(0.0, 2 * 0.25), abs=1e-5)
    truth = target([[[4.0, 1.0]]])
    assert CappedDistance()(maps, truth).item() == pytest.approx(3 * 0.5, abs=1e-5)


def test_beyond_the_cap_a_landmark_takes_no_effort() -> None:
    maps = torch.zeros(1, 6, 30, 30)
    maps[0, 0, 3, 3] = maps[0, 1, 20, 20] = 9.0
    maps.requires_grad_(True)
    loss = CappedDistance(cap=2.0)(maps, target([[[4.0, 4.0], [2.0, 2.0]]], spacing=(0.5, 0.5)))
    (slope,) = torch.autograd.grad(loss.sum(), maps)
    assert slope[0, 0].abs().sum() > 0
    assert slope[0, 1].abs().sum() == 0
    assert loss.item() <= 2.0


@pytest.mark.parametrize("loss", EVERY, ids=lambda loss: type(loss).__name__)
def test_a_sample_stands_alone_and_without_landmarks_it_is_0(loss: PerSampleLoss) -> None:
    maps = torch.randn(3, 6, 8, 8, generator=torch.Generator().manual_seed(1)).requires_grad_(True)
    truth = target([[[1.0, 2.0], [3.0, 4.0]], [[math.nan] * 2] * 2, [[math.nan, 1.0], [7.0, 0.0]]])
    together = loss(maps, truth)
    (slope,) = torch.autograd.grad(together.sum(), maps)
    assert together[1] == 0
    assert slope[1].abs().sum() == 0
    assert torch.isfinite(slope).all()
    for i in range(3):
        alone = loss(maps[i : i + 1], {name: value[i : i + 1] for name, value in truth.items()})
        torch.testing.assert_close(alone[0], together[i])


def test_a_targeted_attack_moves_the_heat_to_its_point() -> None:
    loss, truth = TargetedLikelihood(seed=3), target([[[5.0, 5.0]]])
    images = torch.zeros(1, 3, 12, 12)
    images[0, 0, 5, 5] = 2.0

    def objective(noisy: Tensor, rows: Tensor) -> Tensor:
        return loss(noisy, truth)

    noisy = AutoProjectedGradientDescent(steps=10)(objective, images, 4.0).noisy
    hottest = divmod(int(noisy[0, 0].argmax()), 12)
    assert hottest != (5, 5)
    assert objective(noisy, torch.arange(1)) > objective(images, torch.arange(1)) + 2
    same = TargetedLikelihood(seed=3)(images, target([[[1.0, 1.0]]]))
    torch.testing.assert_close(same, loss(images, truth))
    assert not torch.allclose(TargetedLikelihood(seed=4)(noisy, truth), loss(noisy, truth))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(KeyError, match="'landmarks', got \\['maps'\\]"):
        HeatmapLikelihood()(torch.zeros(1, 3, 4, 4), {"maps": torch.zeros(1)})
    with pytest.raises(KeyError, match="'spacing'"):
        CappedDistance()(torch.zeros(1, 3, 4, 4), {"landmarks": torch.zeros(1, 1, 2)})
    with pytest.raises(ValueError, match=r"got \(1, 4, 4, 4\) and \(1, 1, 2\)"):
        HeatmapLikelihood()(torch.zeros(1, 4, 4, 4), {"landmarks": torch.zeros(1, 1, 2)})
    with pytest.raises(ValueError, match="cap must be"):
        CappedDistance(cap=0.0)
