"""Which slices and volumes a run works on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monai_amat.data import balanced_subset, list_volumes


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


@pytest.mark.parametrize("count", [0, -1, 6])
def test_a_subset_that_cannot_be_had_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=rf"a subset of {count} slices was asked for, but 5 have foreground"):
        balanced_subset(items(2, 3), count)


def test_volumes_are_listed_by_name(tmp_path: Path) -> None:
    for name in ("b.nii.gz", "a.nii", "c.nii.gz", "notes.txt", "d.nii.json"):
        (tmp_path / name).touch()
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "e.nii.gz").touch()
    assert list_volumes(tmp_path) == [str(tmp_path / name) for name in ("a.nii", "b.nii.gz", "c.nii.gz")]
    assert list_volumes(str(tmp_path)) == list_volumes(tmp_path)


def test_what_the_file_system_of_a_mac_leaves_in_archives_is_no_volume(tmp_path: Path) -> None:
    """The Decathlon's archives are full of ``._name.nii.gz``."""
    for name in ("._hippocampus_001.nii.gz", "hippocampus_001.nii.gz"):
        (tmp_path / name).touch()
    assert list_volumes(tmp_path) == [str(tmp_path / "hippocampus_001.nii.gz")]


def test_no_volumes_are_an_error_that_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder .*absent; give the folder of NIfTI volumes"):
        list_volumes(tmp_path / "absent")
    (tmp_path / "._a.nii.gz").touch()
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path} holds no \.nii or \.nii\.gz file"):
        list_volumes(tmp_path)
