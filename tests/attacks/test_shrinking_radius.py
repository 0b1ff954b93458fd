"""From a large radius to the radius itself: the stages and their effect."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from monai_amat.attacks import AutoProjectedGradientDescent, Evaluation, ShrinkingRadius, get_norm

NORMS: list[Any] = [2, math.inf]


@pytest.mark.parametrize("norm", NORMS)
def test_stages_have_their_radii_and_start_at_the_best_point_of_the_stage_before(norm: Any) -> None:
    images, radius = torch.randn(3, 1, 6, 6, dtype=torch.float64), torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    seen: list[tuple[bool, Tensor, Tensor]] = []

    def objective(noisy: Tensor, rows: Tensor) -> Tensor:
        loss = torch.sin(5 * noisy).flatten(1).sum(1)
        seen.append((noisy.requires_grad, noisy.detach() - images, loss.detach()))
        return loss

    attack = ShrinkingRadius(attack=AutoProjectedGradientDescent(steps=20, norm=norm))
    result = attack(objective, images, radius)
    assert attack.stage_steps == [6, 6, 8]
    assert result.steps.tolist() == [20, 20, 20]
    assert sum(with_gradient for with_gradient, _, _ in seen) == 20
    measure, best = get_norm(norm), None
    for factor, steps in zip((2.0, 1.5, 1.0), attack.stage_steps, strict=True):
        stage, seen = seen[: steps + 1], seen[steps + 1 :]
        sizes = torch.stack([measure.size(noise) / radius for _, noise, _ in stage])
        assert (sizes < factor * (1 + 1e-9)).all()
        assert sizes.amax() > 0.99 * factor
        if best is not None:
            torch.testing.assert_close(stage[0][1], measure.project(best, factor * radius))
        highest = torch.stack([loss for _, _, loss in stage]).argmax(0)
        best = torch.stack([stage[int(highest[i])][1][i] for i in range(3)])
    assert not seen
    torch.testing.assert_close(result.noisy - images, best)


def test_verdicts_are_those_of_the_last_stage() -> None:
    def objective(noisy: Tensor, rows: Tensor) -> Evaluation:
        loss = noisy.norm(dim=1)
        return Evaluation(loss, loss < 1.2)

    attack = ShrinkingRadius(attack=AutoProjectedGradientDescent(steps=9))
    result = attack(objective, torch.zeros(1, 4), 1.0)
    assert result.accepted is not None
    assert result.all_accepted is not None
    assert result.accepted.tolist() == result.all_accepted.tolist() == [True]


@pytest.mark.parametrize(
    "settings", [{"factors": (2.0, 1.5)}, {"factors": (1.5, 2.0, 1.0)}, {"shares": (0.5, 0.5)}], ids=str
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        ShrinkingRadius(**settings)
