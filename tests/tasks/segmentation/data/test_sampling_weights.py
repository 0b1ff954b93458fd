"""Foreground oversampling as weights: a hand-worked case, nnU-Net's draws, and what holds for any slices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monai_amat.tasks.segmentation.data.sampling_weights import oversampled_weights


def item(case: str, *values: int) -> dict[str, Any]:
    return {"case": case, "label": torch.tensor([[values]], dtype=torch.uint8)}


def test_by_hand() -> None:
    """Case a: class 1 in both slices, however few its pixels; class 3 in the second alone. Case b: no foreground."""
    items = [item("a", 1, 0, 0, 0), item("b", 0, 0), item("a", 1, 1, 1, 3), item("b", 0, 0), item("b", 0, 0)]
    a0 = 0.75 * 0.5 * 1 / 2 + 0.25 * 0.5 * (1 / 2 * 1 / 2 + 1 / 2 * 0)
    a1 = 0.75 * 0.5 * 1 / 2 + 0.25 * 0.5 * (1 / 2 * 1 / 2 + 1 / 2 * 1)
    b = 0.5 * 1 / 3
    assert oversampled_weights(items, fraction=0.25) == pytest.approx([a0, b, a1, b, b])


def test_agrees_with_drawing_step_by_step() -> None:
    rng = np.random.default_rng(0)
    items = [item(case, *rng.integers(0, 3, 6) * (rng.random(6) < 0.4)) for case in "aabbbc" for _ in range(2)]
    cases = sorted({entry["case"] for entry in items})
    drawn = np.zeros(len(items))
    for _ in range(20_000):
        case = rng.choice(cases)
        rows = [i for i, entry in enumerate(items) if entry["case"] == case]
        held = {i: set(items[i]["label"].flatten().tolist()) - {0} for i in rows}
        classes = sorted(set().union(*held.values()))
        if rng.random() < 0.33 and classes:
            wanted = rng.choice(classes)
            rows = [i for i in rows if wanted in held[i]]
        drawn[rng.choice(rows)] += 1
    np.testing.assert_allclose(drawn / drawn.sum(), oversampled_weights(items), atol=0.01)


@given(
    labels=st.lists(st.tuples(st.sampled_from("abc"), st.lists(st.integers(0, 4), min_size=4, max_size=4)), min_size=1),
    fraction=st.floats(0, 1),
)
def test_weights_are_a_distribution_with_equal_cases(labels: list[tuple[str, list[int]]], fraction: float) -> None:
    items = [item(case, *values) for case, values in labels]
    weights = oversampled_weights(items, fraction)
    assert sum(weights) == pytest.approx(1)
    assert min(weights) >= 0
    cases = {case for case, _ in labels}
    for case in cases:
        share = sum(weight for weight, (name, _) in zip(weights, labels, strict=True) if name == case)
        assert share == pytest.approx(1 / len(cases))


def test_fraction_zero_ignores_labels_and_one_leaves_empty_slices_out() -> None:
    items = [item("a", 0, 0), item("a", 1, 1), item("a", 0, 1)]
    assert oversampled_weights(items, 0) == pytest.approx([1 / 3] * 3)
    assert oversampled_weights(items, 1) == pytest.approx([0, 1 / 2, 1 / 2])


def test_weights_do_not_depend_on_the_order_of_slices() -> None:
    items = [item("a", 0, 1), item("b", 1, 2), item("a", 2, 2), item("b", 0, 0)]
    assert oversampled_weights(items[::-1])[::-1] == pytest.approx(oversampled_weights(items))


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_fraction_out_of_range(fraction: float) -> None:
    with pytest.raises(ValueError, match=r"fraction must lie in \[0, 1\]"):
        oversampled_weights([item("a", 0, 1)], fraction)


def test_no_items() -> None:
    with pytest.raises(ValueError, match="at least one slice"):
        oversampled_weights([])
