"""Start radii by the formulas, and the position of the start."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monai_amat.attacks import FullStart, InnerStart, ProjectedGradientDescent

radii = st.lists(st.floats(0, 1e4, width=32), min_size=1, max_size=5)


@given(radius=radii)
def test_full_start_is_the_radius(radius: list[float]) -> None:
    assert torch.equal(FullStart()(torch.tensor(radius)), torch.tensor(radius))


@given(radius=radii, step=st.floats(0.125, 100, width=32))
def test_inner_start_is_the_authors_clamp(radius: list[float], step: float) -> None:
    expected = [max(value - step, step) for value in radius]
    given_radius = torch.tensor(radius)
    torch.testing.assert_close(InnerStart(step)(given_radius), torch.tensor(expected), rtol=1e-6, atol=1e-6)
    assert given_radius.tolist() == torch.tensor(radius).tolist()


def test_inner_start_by_hand_and_where_the_attack_begins() -> None:
    """Δ = 2: a margin of 1 starts on its own sphere, of 3 at Δ (3 − 2 < Δ), of 10 at 8."""
    inputs, radius = torch.zeros(3, 1, 16, 16), torch.tensor([1.0, 3.0, 10.0])
    attack = ProjectedGradientDescent(steps=0, random_start=InnerStart(2.0))
    noise = attack(lambda noisy, rows: noisy.flatten(1).sum(1), inputs, radius).noisy
    torch.testing.assert_close(noise.flatten(1).norm(dim=1), torch.tensor([1.0, 2.0, 8.0]))


def test_a_custom_start_is_any_function_of_the_radius() -> None:
    attack = ProjectedGradientDescent(steps=0, random_start=lambda radius: radius / 4)
    noise = attack(lambda noisy, rows: noisy.flatten(1).sum(1), torch.zeros(2, 1, 16, 16), 8.0).noisy
    torch.testing.assert_close(noise.flatten(1).norm(dim=1), torch.tensor([2.0, 2.0]))


@pytest.mark.parametrize("step", [0.0, -1.0, math.nan])
def test_the_step_must_be_positive(step: float) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        InnerStart(step)
