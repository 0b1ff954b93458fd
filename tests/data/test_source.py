"""What names the items of a source list: every change of a truth or a file, and no move of the whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data import MetaTensor

from monai_amat.data.source import source_fingerprint

NAMES = st.lists(st.text("ab12", min_size=1, max_size=2), min_size=1, max_size=3).map("/".join)


def cases(root: str = "/data") -> list[dict[str, Any]]:
    return [
        {
            "image": [Path(f"{root}/case_{i}/t2.nii"), Path(f"{root}/case_{i}/adc.nii")],
            "label": f"{root}/labels/{i}.nii",
            "landmarks": torch.tensor([[1.0, 2.0], [torch.nan, i]]),
            "spacing": np.array([0.1, 0.1]),
            "meta": {"reader": "mean", "dose": 0.5, "slice": i},
        }
        for i in range(3)
    ]


def test_a_data_set_that_moved_as_a_whole_is_the_same() -> None:
    assert source_fingerprint(cases()) == source_fingerprint(cases("/mnt/a b/data")) == source_fingerprint(cases("."))
    assert source_fingerprint(cases()) == source_fingerprint(cases("C:\\data"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image", [Path("/data/case_9/t2.nii"), Path("/data/case_1/adc.nii")]),
        ("image", [Path("/data/case_1/adc.nii"), Path("/data/case_1/t2.nii")]),
        ("image", [Path("/data/case_1/t2.nii")]),
        ("label", "/data/labels/9.nii"),
        ("label", "/data/1.nii"),
        ("landmarks", torch.tensor([[1.0, 2.0], [torch.nan, 1.5]])),
        ("landmarks", torch.tensor([[1.0, 2.0], [3.0, 1.0]])),
        ("landmarks", torch.tensor([[1.0, 2.0], [torch.nan, 1.0]], dtype=torch.float64)),
        ("landmarks", torch.tensor([[1.0, 2.0, torch.nan, 1.0]])),
        ("spacing", np.array([0.1, 0.2])),
        ("spacing", [0.1, 0.1]),
        ("meta", {"reader": "senior", "dose": 0.5, "slice": 1}),
        ("meta", {"reader": "mean", "dose": 0.25, "slice": 1}),
        ("meta", {"reader": "mean", "dose": 0.5}),
        ("meta", None),
    ],
)
def test_whatever_names_an_item_counts(key: str, value: Any) -> None:
    changed = cases()
    changed[1][key] = value
    assert source_fingerprint(changed) != source_fingerprint(cases())


def test_order_and_number_count() -> None:
    reference = source_fingerprint(cases())
    assert source_fingerprint(cases()[::-1]) != reference
    assert source_fingerprint(cases()[:2]) != reference
    assert source_fingerprint([dict(reversed(item.items())) for item in cases()]) == reference


def test_files_of_one_name_in_several_folders_are_told_apart() -> None:
    """Margins kept for a/0 and a/1 must not pass to c/0 and c/1, which come last where those came first."""
    before = [f"/images/{folder}/{i}.png" for folder in "ab" for i in range(2)]
    after = [f"/images/{folder}/{i}.png" for folder in "bc" for i in range(2)]
    assert source_fingerprint(before) != source_fingerprint(after)
    assert source_fingerprint(before) == source_fingerprint([path.replace("/images", "/old/images") for path in before])


@given(first=st.lists(NAMES, min_size=1, max_size=4), second=st.lists(NAMES, min_size=1, max_size=4))
def test_equal_means_equal_below_the_common_folder(first: list[str], second: list[str]) -> None:
    def below(names: list[str]) -> list[str]:
        parts = [name.split("/") for name in names]
        depth = 0
        while all(len(part) - 1 > depth and part[depth] == parts[0][depth] for part in parts):
            depth += 1
        return ["/".join(part[depth:]) for part in parts]

    same = source_fingerprint(first) == source_fingerprint(second)
    assert same == (below(first) == below(second))


def test_images_in_memory_count_by_their_shape_alone() -> None:
    def of(image: Any) -> str:
        return source_fingerprint([{"image": image}])

    assert of(torch.zeros(1, 80, 80)) == of(torch.ones(1, 80, 80)) != of(torch.zeros(1, 80, 81))
    assert of(torch.zeros(64, 4)) != of(torch.ones(64, 4))
    assert of(MetaTensor(torch.ones(2))) == of(torch.ones(2))


@pytest.mark.parametrize(
    "value", [torch.zeros(()), torch.zeros(0, 4), torch.ones(2, dtype=torch.bfloat16), np.array(["a"]), b"a", None]
)
def test_any_entry_can_be_named(value: Any) -> None:
    assert len(source_fingerprint([{"entry": value}])) == 16
