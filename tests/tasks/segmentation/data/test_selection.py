"""Which slices a run works on."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monai_amat.tasks.segmentation import balanced_subset


def items(*foreground: int, empty: int = 2) -> list[dict[str, Any]]:
    """One case a number, with so many slices that hold foreground, and some that do not."""
    return [
        {"case": f"case_{number}", "slice": i, "classes": "1" if i < count else ""}
        for number, count in enumerate(foreground)
        for i in range(count + empty)
    ]


@given(counts=st.lists(st.integers(0, 6), min_size=1, max_size=5), data=st.data(), seed=st.integers(0, 3))
def test_a_subset_is_balanced_over_the_volumes_and_keeps_the_order(
    counts: list[int], data: st.DataObject, seed: int
) -> None:
    slices = items(*counts)
    if not sum(counts):
        return
    count = data.draw(st.integers(1, sum(counts)))
    chosen = balanced_subset(slices, count, seed=seed)
    assert len(chosen) == count
    assert all(item["classes"] for item in chosen)
    places = [slices.index(item) for item in chosen]
    assert places == sorted(set(places))
    # No volume gives two slices more than another that still has some.
    shares = Counter(item["case"] for item in chosen)
    for number, available in enumerate(counts):
        share = shares[f"case_{number}"]
        assert share == available or share >= max(shares.values()) - 1


def test_a_subset_depends_on_its_seed_alone() -> None:
    slices = items(9, 9, 9)
    assert balanced_subset(slices, 6, seed=1) == balanced_subset(slices, 6, seed=1)
    assert balanced_subset(slices, 6, seed=1) != balanced_subset(slices, 6, seed=2)
    assert balanced_subset(slices, 6) == balanced_subset(slices, 6, seed=0)


def test_a_larger_subset_holds_the_smaller_one() -> None:
    """So that a study can be extended: what was attacked before need not be attacked again."""
    slices = items(5, 9, 2)
    for count in range(1, 16):
        smaller, larger = (balanced_subset(slices, size) for size in (count, count + 1))
        assert all(item in larger for item in smaller)


def test_slices_are_drawn_from_the_whole_volume() -> None:
    slices = items(30)
    drawn = {item["slice"] for seed in range(20) for item in balanced_subset(slices, 3, seed=seed)}
    assert len(drawn) > 20


def test_none_keeps_everything() -> None:
    slices = items(3)
    assert balanced_subset(slices, None) is slices


@pytest.mark.parametrize("count", [0, -1])
def test_a_subset_that_cannot_be_had_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=rf"got count={count} and 5 such slices"):
        balanced_subset(items(2, 3), count)
    with pytest.raises(ValueError, match="got count=3 and 0 such slices"):
        balanced_subset(items(0, 0), 3)


def test_where_fewer_have_foreground_all_of_them_are_taken_and_both_numbers_named() -> None:
    """A bundle's fixed number of slices must not stop a study of a small data set after its training."""
    slices = items(2, 3)
    with pytest.warns(UserWarning, match="expected 60 slices with foreground, got 5"):
        chosen = balanced_subset(slices, 60)
    assert chosen == [item for item in slices if item["classes"]]
