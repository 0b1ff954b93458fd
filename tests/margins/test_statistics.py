"""Statistics of the clean losses against numpy, and Huber's estimates against a slow solution of its two equations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.stats import norm

from monai_amat.margins import Huber, MeanStd

samples = st.lists(st.floats(-100, 100), min_size=1, max_size=30).map(np.array)


@given(values=samples, k=st.sampled_from([0.0, 1.0, 2.0, -1.0]))
def test_mean_and_std_are_numpys(values: NDArray[np.float64], k: float) -> None:
    expected = sum(values) / len(values)
    spread = math.sqrt(sum((value - expected) ** 2 for value in values) / len(values))
    assert MeanStd(k)(values) == pytest.approx(expected + k * spread, rel=1e-9, abs=1e-9)


def test_the_default_is_the_mean() -> None:
    assert MeanStd()(np.array([1.0, 2.0, 9.0])) == 4.0


def slow_huber(values: NDArray[np.float64], c: float = 1.5) -> tuple[float, float]:
    """Huber's proposal 2, its two equations solved by nested root finding.

    mean ψ(z) = 0 and mean ψ(z)² = E ψ(Z)², with z = (v − location)/scale, ψ(z) = z clipped to ±c and Z normal.
    """
    beta = quad(lambda z: min(z * z, c * c) * norm.pdf(z), -12, 12, points=[-c, c])[0]

    def location(scale: float) -> float:
        low, high = values.min(), values.max()
        return brentq(lambda m: np.clip((values - m) / scale, -c, c).sum(), low, high, xtol=1e-14)

    def excess(log_scale: float) -> float:
        scale = math.exp(log_scale)
        return (np.clip((values - location(scale)) / scale, -c, c) ** 2).mean() - beta

    spread = math.log(values.std())
    scale = math.exp(brentq(excess, spread - 12, spread + 3, xtol=1e-12))
    return location(scale), scale


CASES = {
    "normal": np.random.default_rng(0).normal(3, 0.5, 400),
    "few": np.array([1.0, 2.0, 4.0]),
    "wild": np.concatenate([np.random.default_rng(1).normal(0, 1, 90), np.full(10, 1e4)]),
    "skew": np.random.default_rng(2).exponential(2.0, 300),
    "small numbers": np.random.default_rng(3).normal(1e-6, 1e-8, 100),
    "large numbers": np.random.default_rng(4).normal(-1e7, 10.0, 100),
}


@pytest.mark.parametrize("case", CASES)
def test_huber_solves_its_two_equations(case: str) -> None:
    values = CASES[case]
    location, scale = slow_huber(values)
    tolerance = 1e-5 * scale
    assert Huber(k=0.0)(values) == pytest.approx(location, rel=0, abs=tolerance)
    assert Huber(k=2.0)(values) == pytest.approx(location + 2 * scale, rel=0, abs=3 * tolerance)
    assert Huber(k=-1.0)(values) == pytest.approx(location - scale, rel=0, abs=2 * tolerance)


def test_on_normal_losses_huber_is_mean_and_std() -> None:
    """Section 2.2 assumes normal losses, for which k scales must be k standard deviations."""
    values = np.random.default_rng(5).normal(7.0, 3.0, 200_000)
    assert Huber(k=0.0)(values) == pytest.approx(7.0, abs=0.03)
    assert Huber(k=2.0)(values) == pytest.approx(13.0, abs=0.06)


def test_huber_is_robust_to_outliers_unlike_the_mean() -> None:
    tame = np.random.default_rng(6).normal(1.0, 0.1, 100)
    wild = np.concatenate([tame, np.full(5, 1e6)])
    assert abs(Huber()(wild) - Huber()(tame)) < 0.1
    assert MeanStd(2.0)(wild) > 1e4


@given(
    values=st.lists(st.floats(-10, 10).map(lambda v: round(v, 3)), min_size=1, max_size=20).map(np.array),
    scale=st.floats(1e-3, 1e3),
    shift=st.floats(-100, 100),
)
def test_huber_follows_a_change_of_units(values: NDArray[np.float64], scale: float, shift: float) -> None:
    tolerance = 1e-5 * scale * (1 + values.std())
    assert Huber()(values * scale + shift) == pytest.approx(Huber()(values) * scale + shift, rel=1e-9, abs=tolerance)


def test_the_threshold_of_equal_losses_is_their_value() -> None:
    assert Huber()(np.full(5, 2.5)) == 2.5
    assert Huber()(np.array([2.5])) == 2.5


@given(majority=st.integers(5, 8), others=st.lists(st.floats(4, 9), min_size=3, max_size=5))
def test_the_equations_hold_if_most_losses_are_equal(majority: int, others: list[float]) -> None:
    """As for slices without foreground. A threshold equal to their loss would accept no clean sample at all."""
    values = np.array([1.0] * majority + others)
    location = Huber(k=0.0)(values)
    scale = Huber(k=1.0)(values) - location
    assert scale > 0.1
    z = np.clip((values - location) / scale, -1.5, 1.5)
    assert z.mean() == pytest.approx(0.0, abs=1e-6)
    assert np.square(z).mean() == pytest.approx(0.77846, abs=1e-4)
    assert (values < Huber()(values)).any()
