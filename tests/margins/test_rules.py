"""Rules: Algorithm 1 by hand, bounds for any input, what each variant needs from the training."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monai_amat.margins import BoundaryRule, MarginRule, PaperRule, PathRule

numbers = st.floats(0, 1e3, width=32)


@st.composite
def rules(draw: st.DrawFn) -> MarginRule:
    step = draw(st.floats(0.125, 50, width=32))
    cap = draw(st.none() | st.floats(step, 10 * step))
    decay = draw(st.sampled_from([1.0, 0.9, 0.25]))
    floor = draw(st.sampled_from([0.0, 0.5, 1.0])) * step
    kind = draw(st.sampled_from([PaperRule, PathRule, BoundaryRule]))
    if kind is BoundaryRule:
        return BoundaryRule(step=step, max_margin=cap, decay=decay, floor=draw(st.sampled_from([None, floor])))
    return kind(step=step, max_margin=cap, decay=decay, min_margin=floor)


@given(rule=rules(), visits=st.lists(st.tuples(numbers, st.booleans(), st.floats(0, 1)), min_size=1, max_size=6))
def test_what_holds_for_any_rule(rule: MarginRule, visits: list[tuple[float, bool, float]]) -> None:
    margin = torch.tensor([visit[0] for visit in visits])
    accepted = torch.tensor([visit[1] for visit in visits])
    noise_norm = margin * torch.tensor([visit[2] for visit in visits])  # the noise lies within the margin
    kept = margin.clone()
    changed = rule(margin, accepted, noise_norm)
    assert torch.equal(margin, kept)
    cap = math.inf if rule.max_margin is None else rule.max_margin
    assert (changed <= cap * (1 + 1e-6)).all()
    assert (changed[~accepted] >= rule.min_margin * (1 - 1e-6)).all()
    # A rejected margin grows only where it lies under its floor, and an accepted one shrinks only where over its cap.
    assert (changed[~accepted] <= torch.maximum(margin, torch.tensor(rule.min_margin))[~accepted] * (1 + 1e-6)).all()
    assert (changed[accepted] >= margin.clamp_max(cap)[accepted]).all()
    for i, (old, good, share) in enumerate(visits):  # written out in Python's own numbers
        wanted = old + rule.step if good else max(rule.decay * (old * share + old) / 2, rule.min_margin)
        assert changed[i].item() == pytest.approx(min(wanted, cap), rel=1e-5, abs=1e-6)


@given(rule=rules(), start=numbers, steps=st.lists(st.tuples(st.booleans(), st.floats(0, 1)), max_size=40))
def test_a_margin_that_started_in_bounds_never_leaves_them(
    rule: MarginRule, start: float, steps: list[tuple[bool, float]]
) -> None:
    cap = math.inf if rule.max_margin is None else rule.max_margin
    margin = torch.tensor([min(max(start, rule.min_margin), cap)])
    for good, share in steps:
        margin = rule(margin, torch.tensor([good]), margin * share)
        assert rule.min_margin * (1 - 1e-6) <= margin.item() <= cap * (1 + 1e-6)


def test_lines_10_and_12_by_hand() -> None:
    """Δ = 2. Accepted: 3 + 2 = 5. Rejected on its sphere: (3 + 3)/2 = 3, no change. Rejected inside: (1 + 3)/2 = 2."""
    margin, accepted = torch.tensor([3.0, 3.0, 3.0]), torch.tensor([True, False, False])
    noise_norm = torch.tensor([3.0, 3.0, 1.0])
    assert PaperRule(step=2.0)(margin, accepted, noise_norm).tolist() == [5.0, 3.0, 2.0]
    assert PathRule(step=2.0)(margin, accepted, noise_norm).tolist() == [5.0, 3.0, 2.0]
    assert PaperRule(step=2.0, decay=0.5)(margin, accepted, noise_norm).tolist() == [5.0, 1.5, 1.0]
    assert PaperRule(step=2.0, max_margin=4.0)(margin, accepted, noise_norm).tolist() == [4.0, 3.0, 2.0]
    assert PaperRule(step=2.0, max_margin=2.5)(margin, accepted, noise_norm).tolist() == [2.5, 2.5, 2.0]
    assert PaperRule(step=2.5, min_margin=2.25)(margin, accepted, noise_norm).tolist() == [5.5, 3.0, 2.25]


def test_the_floor_of_the_boundary_rule_is_the_step_by_default() -> None:
    margin, accepted, noise_norm = torch.tensor([3.0]), torch.tensor([False]), torch.tensor([0.0])
    assert BoundaryRule(step=2.0)(margin, accepted, noise_norm).tolist() == [2.0]
    assert BoundaryRule(step=2.0, floor=0.5)(margin, accepted, noise_norm).tolist() == [1.5]
    assert BoundaryRule(step=2.0, floor=0.0)(torch.tensor([0.5]), accepted, noise_norm).tolist() == [0.25]


def test_what_a_rule_needs_from_the_training() -> None:
    assert [(rule.judges_path, rule.by_epoch) for rule in (PaperRule, PathRule, BoundaryRule)] == [
        (False, False),
        (True, True),
        (True, False),
    ]


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (PaperRule, {"step": 0.0}, "step"),
        (PaperRule, {"step": -1.0}, "step"),
        (PaperRule, {"step": math.inf}, "step"),
        (PaperRule, {"step": math.nan}, "step"),
        (PaperRule, {"step": 2.0, "max_margin": 1.0}, "max_margin"),
        (PaperRule, {"step": 2.0, "max_margin": math.nan}, "max_margin"),
        (PaperRule, {"step": 2.0, "min_margin": -1.0}, "min_margin"),
        (PaperRule, {"step": 2.0, "min_margin": 3.0}, "min_margin"),
        (PaperRule, {"step": 2.0, "decay": 0.0}, "decay"),
        (PaperRule, {"step": 2.0, "decay": 1.5}, "decay"),
        (BoundaryRule, {"step": 2.0, "floor": 3.0}, "min_margin"),
        (BoundaryRule, {"step": 2.0, "floor": -1.0}, "min_margin"),
    ],
    ids=str,
)
def test_settings_out_of_range(kind: type[MarginRule], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**settings)


def test_settings_are_keyword_only() -> None:
    with pytest.raises(TypeError):
        PaperRule(2.0)  # type: ignore[call-arg]
