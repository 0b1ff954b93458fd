"""What names the items of a source list: every change of a truth or a file, and no move of the whole."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data import ArrayDataset, MetaTensor, NPZDictItemDataset
from monai.data import Dataset as MonaiDataset
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from monai_amat.data.source import dataset_fingerprint, source_fingerprint

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


def test_images_in_memory_count_by_their_shape_where_a_name_identifies_them() -> None:
    """Their values depend, in the last bit, on the machine that z-scored them."""

    def of(image: Any) -> str:
        return source_fingerprint([{"image": image, "case": "a"}])

    assert of(torch.zeros(1, 80, 80)) == of(torch.ones(1, 80, 80)) != of(torch.zeros(1, 80, 81))
    assert of(torch.zeros(64, 4)) != of(torch.ones(64, 4))
    assert of(MetaTensor(torch.ones(2))) == of(torch.ones(2))


@pytest.mark.parametrize(
    "value", [torch.zeros(()), torch.zeros(0, 4), torch.ones(2, dtype=torch.bfloat16), np.array(["a"]), b"a", None]
)
def test_any_entry_can_be_named(value: Any) -> None:
    assert len(source_fingerprint([{"entry": value}])) == 16


@dataclass
class Case:
    image: Path
    label: int


class Tables(Dataset[Any]):
    """What users write: a list under a name of their own."""

    def __init__(self, files: list[str]) -> None:
        self.files = files
        self.transform = None
        self._drawn = 0

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Any:
        self._drawn += 1
        return {"image": self.files[index]}


def archive(folder: Path, name: str, value: float) -> str:
    np.savez(folder / name, images=np.full((3, 40, 40), value), labels=np.zeros(3))
    return str(folder / f"{name}.npz")


def test_arrays_of_an_archive_count(tmp_path: Path) -> None:
    keys = {"images": "image", "labels": "label"}
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
    found = [
        dataset_fingerprint(NPZDictItemDataset(archive(folder, "data", value), keys))
        for folder, value in zip(folders, (0.0, 1.0, 0.0), strict=True)
    ]
    assert found[0] != found[1]
    assert found[0] == found[2]


def test_a_list_under_any_attribute_counts() -> None:
    here = Tables(["/data/a.png", "/data/b.png"])
    before = dataset_fingerprint(here)
    assert here[0] is not None
    assert dataset_fingerprint(here) == before
    assert dataset_fingerprint(Tables(["/data/a.png", "/data/c.png"])) != before
    assert dataset_fingerprint(Tables(["/old/a.png", "/old/b.png"])) == before
    inside: list[Any] = [here, Tables(["/data/a.png", "c"])]
    assert dataset_fingerprint(MonaiDataset(inside[0])) != dataset_fingerprint(MonaiDataset(inside[1]))


def part(indices: list[int]) -> Any:
    names: Any = ["a", "b", "c"]
    subset: Any = Subset(names, indices)
    return MonaiDataset(subset)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (TensorDataset(torch.zeros(3, 40, 40)), TensorDataset(torch.ones(3, 40, 40))),
        (
            ConcatDataset([MonaiDataset(["a", "b"]), MonaiDataset(["c"])]),
            ConcatDataset([MonaiDataset(["a", "b", "d"])]),
        ),
        (ArrayDataset(["a", "b"], labels=["c", "d"]), ArrayDataset(["a", "b"], labels=["c", "e"])),
        (part([0, 1]), part([0, 2])),
        ([Case(Path("a"), 0)], [Case(Path("b"), 0)]),
        ([Case(Path("a"), 0)], [Case(Path("a"), 1)]),
        ([{"day": date(2024, 1, 1)}], [{"day": date(2024, 1, 2)}]),
        ([{"bytes": b"a"}], [{"bytes": b"b"}]),
        (np.array(["a", "b"]).tolist(), np.array(["a", "c"]).tolist()),
        ([{"files": np.array(["a", "b"])}], [{"files": np.array(["a", "c"])}]),
        ([{"image": torch.zeros(80, 80)}], [{"image": torch.ones(80, 80)}]),
        ([{"image": np.zeros((80, 80)), "kind": "T1"}] * 2, [{"image": np.ones((80, 80)), "kind": "T1"}] * 2),
        ([{"image": np.zeros((80, 80), ">i2")}], [{"image": np.ones((80, 80), ">i2")}]),
    ],
)
def test_other_samples_have_another_fingerprint(first: Any, second: Any) -> None:
    assert dataset_fingerprint(first) != dataset_fingerprint(second)


def test_a_data_set_that_nothing_identifies_is_a_warning() -> None:
    class Formula(Dataset[Any]):
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> Any:
            return {"image": index}

    with pytest.warns(UserWarning, match="Formula: expected an attribute that identifies the samples"):
        assert len(dataset_fingerprint(Formula())) == 16


def test_an_object_that_holds_itself_has_an_end() -> None:
    item: dict[str, Any] = {"name": "a"}
    item["self"] = item
    assert len(source_fingerprint([item])) == 16
