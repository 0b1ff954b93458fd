"""Suggested noise: of the paper's order, and scaled with the values that carry it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monai_amat.tasks.segmentation import per_value, suggest_noise
from monai_amat.templates import paper_settings


@pytest.mark.parametrize("task", ["hippocampus", "heart", "prostate"])
def test_suggestions_are_of_the_papers_order(task: str) -> None:
    """The paper's own levels follow no rule; a suggestion may miss them by a factor of 2.5, no more."""
    paper = paper_settings(task)
    noise = suggest_noise(paper.patch_size, len(paper.channels))
    for ours, theirs in (
        (noise.evaluation[-1], paper.noise_levels[-1]),
        (noise.delta, paper.delta),
        (noise.max_margin, paper.max_margin),
        (noise.huge, paper.huge_radius),
    ):
        assert 1 / 2.5 <= ours / theirs <= 2.5


@given(st.integers(16, 1000), st.integers(16, 1000), st.integers(1, 4))
def test_levels_rise_and_stay_a_tenth_of_a_deviation(height: int, width: int, channels: int) -> None:
    noise = suggest_noise((height, width), channels)
    assert noise.evaluation[0] == 0
    assert list(noise.evaluation) == sorted(set(noise.evaluation))
    assert 0.08 < per_value(noise.evaluation[-1], (height, width), channels) < 0.13
    assert noise.delta < noise.epsilon < noise.max_margin < noise.huge
    # What is given to a user can be read: four digits at most.
    assert all(len(f"{level:.10g}".replace(".", "").strip("0")) <= 4 for level in noise.evaluation)


def test_noise_a_value_is_a_root_mean_square() -> None:
    assert per_value(10.0, (4, 5), 5) == pytest.approx(1.0)
    assert per_value(5.0, (56, 40), 1) == pytest.approx(5 / math.sqrt(2240))


def test_no_image_no_noise() -> None:
    with pytest.raises(ValueError, match="each of patch_size must be at least 1, got 0"):
        suggest_noise((0, 10), 1)
