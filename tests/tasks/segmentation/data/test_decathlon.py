"""Decathlon folders: listing, split and every kind of broken case."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monai_amat.tasks.segmentation.data.case import Case, check_case
from monai_amat.tasks.segmentation.data.decathlon import Decathlon
from monai_amat.tasks.segmentation.data.split import split_cases

SHAPE = (6, 5, 4)


def load(path: Path) -> Any:
    """nibabel's own reading; Any, because its declared type knows neither voxels nor affine."""
    return nib.load(path)


def save(path: Path, voxels: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nib.save(nib.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)
    return path


def write_case(folder: Path, name: str = "case_1", **changed: np.ndarray) -> Case:
    """A good case, or one whose `image` or `label` is replaced."""
    voxels: dict[str, Any] = {
        "image": np.random.default_rng(0).normal(100, 20, SHAPE).astype(np.float32),
        "label": (np.arange(np.prod(SHAPE)).reshape(SHAPE) % 3).astype(np.uint8),
    } | changed
    return Case(
        name,
        (save(folder / f"{name}_image.nii.gz", voxels["image"]),),
        save(folder / f"{name}_label.nii.gz", voxels["label"]),
    )


def write_folder(root: Path, names: tuple[str, ...] = ("b", "a", "c"), **changed: Any) -> Path:
    """A good folder whose `dataset.json` has some keys changed, or taken away where the value is None."""
    (root / "imagesTr").mkdir(parents=True)
    (root / "labelsTr").mkdir()
    for name in names:
        save(root / "imagesTr" / f"{name}.nii.gz", np.arange(120, dtype=np.int16).reshape(SHAPE))
        save(root / "labelsTr" / f"{name}.nii.gz", np.zeros(SHAPE, dtype=np.uint8))
    content: dict[str, Any] = {
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "front", "2": "back"},
        "numTraining": len(names),
        "training": [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in names],
    }
    content |= changed
    (root / "dataset.json").write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    return root


def test_lists_cases_sorted_by_name_with_channels_and_classes(tmp_path: Path) -> None:
    data = Decathlon(write_folder(tmp_path / "data"))
    assert [case.name for case in data.cases] == ["a", "b", "c"]
    assert data.cases[0].label == tmp_path / "data" / "labelsTr" / "a.nii.gz"
    assert data.channels == ("MRI",)
    assert data.labels == {0: "background", 1: "front", 2: "back"}
    assert (data.num_channels, data.num_classes) == (1, 3)


def test_nnunet_spelling_means_the_same(tmp_path: Path) -> None:
    data = Decathlon(
        write_folder(
            tmp_path / "data",
            modality=None,
            channel_names={"1": "ADC", "0": "T2"},
            labels={"background": 0, "zone": 1},
        )
    )
    assert data.channels == ("T2", "ADC")
    assert data.labels == {0: "background", 1: "zone"}


def test_missing_folder_and_missing_description(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such folder"):
        Decathlon(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"dataset\.json: not found"):
        Decathlon(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{'a': 1}", "not valid JSON"), ("", "not valid JSON"), ("[1, 2]", "expected a JSON object, got list")],
)
def test_malformed_description(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(ValueError, match=rf"dataset\.json: {message}"):
        Decathlon(tmp_path)


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    """Editors of Windows put one before the text."""
    root = write_folder(tmp_path / "data")
    text = (root / "dataset.json").read_text()
    (root / "dataset.json").write_text(text, encoding="utf-8-sig")
    assert Decathlon(root).num_classes == 3


@pytest.mark.parametrize(("part", "key"), [("imagesTr", "image"), ("labelsTr", "label")])
def test_what_the_file_system_of_a_mac_leaves_is_said_to_be_no_volume(tmp_path: Path, part: str, key: str) -> None:
    entry = {"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"} | {key: f"./{part}/._a.nii.gz"}
    root = write_folder(tmp_path / "data", training=[entry])
    (root / part / "._a.nii.gz").touch()
    with pytest.raises(
        ValueError, match=rf"dataset\.json: expected volumes .* got \./{part}/\._a\.nii\.gz, which macOS"
    ):
        Decathlon(root)


@pytest.mark.parametrize("key", ["modality", "labels", "training"])
def test_missing_key_is_named(tmp_path: Path, key: str) -> None:
    changed: dict[str, Any] = {key: None}
    with pytest.raises(ValueError, match=rf"dataset\.json: missing key '{key}'"):
        Decathlon(write_folder(tmp_path / "data", **changed))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"modality": {"1": "MRI"}}, "keys '0', '1'"),
        ({"modality": "MRI"}, "keys '0', '1'"),
        ({"modality": {}}, "keys '0', '1'"),
        ({"labels": {"0": "background"}}, "without a gap"),
        ({"labels": {"0": "background", "2": "back"}}, "without a gap"),
        ({"labels": {"background": 0, "one": 1, "two": 1}}, "without a gap"),
        ({"labels": {"background": 0, "both": [1, 2]}}, "without a gap"),
        ({"labels": ["background"]}, "without a gap"),
        ({"labels": {"background": 0, "front": 1, "ignore": 2}}, r"label 2 is 'ignore'"),
        ({"labels": {"0": "background", "1": "ignore", "2": "back"}}, r"label 1 is 'ignore'"),
        ({"training": []}, "at least one case"),
        ({"training": ["./imagesTr/a.nii.gz"]}, "needs an 'image' and a 'label'"),
        ({"training": [{"image": "./imagesTr/a.nii.gz"}]}, "without label"),
    ],
)
def test_unusable_description(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Decathlon(write_folder(tmp_path / "data", **changed))


def test_repeated_case(tmp_path: Path) -> None:
    entry = {"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}
    with pytest.raises(ValueError, match="'a' more than once"):
        Decathlon(write_folder(tmp_path / "data", training=[entry, entry]))


@pytest.mark.parametrize(("part", "what"), [("imagesTr", "image"), ("labelsTr", "label")])
def test_listed_file_is_missing(tmp_path: Path, part: str, what: str) -> None:
    root = write_folder(tmp_path / "data")
    (root / part / "b.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match=rf"{part}/b\.nii\.gz: no such file, but .* the {what} of case 'b'"):
        Decathlon(root)


def test_wrong_number_of_cases_is_a_warning(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="'numTraining' is 260, but there are 3 training cases"):
        data = Decathlon(write_folder(tmp_path / "data", numTraining=260))
    assert len(data.cases) == 3


@pytest.mark.parametrize(("count", "sizes"), [(260, (208, 17, 35)), (20, (16, 1, 3)), (32, (25, 2, 5))])
def test_split_sizes_are_the_papers(count: int, sizes: tuple[int, int, int]) -> None:
    parts = split_cases([f"case_{i:03d}" for i in range(count)])
    assert (len(parts.train), len(parts.validation), len(parts.test)) == sizes


def test_split_by_hand() -> None:
    """The permutation that numpy's RandomState(12345) gives, cut as the authors cut it."""
    names = [f"{i:02d}" for i in range(20)]
    held_out = sorted(np.random.RandomState(12345).permutation(20)[4:8])  # fold 1 of 5
    parts = split_cases(names[::-1], fold=1)
    assert parts.validation == tuple(names[i] for i in held_out[:1])
    assert parts.test == tuple(names[i] for i in held_out[1:])
    assert parts.train == tuple(name for i, name in enumerate(names) if i not in held_out)


@given(count=st.integers(15, 60), fold=st.integers(0, 4), seed=st.integers(0, 2**32 - 1))
def test_split_is_a_partition(count: int, fold: int, seed: int) -> None:
    names = [f"case_{i}" for i in range(count)]
    parts = split_cases(names, fold, seed=seed)
    assert sorted(parts.train + parts.validation + parts.test) == sorted(names)
    assert len(parts.validation) >= 1
    assert split_cases(names[::-1], fold, seed=seed) == parts


@pytest.mark.parametrize(
    ("count", "settings", "message"),
    [
        (4, {}, "4 cases in 5 folds; use at least 15 cases, or at least 6 and n_splits=2"),
        (8, {}, "8 cases in 5 folds; use .* at most n_splits=2"),
        (12, {"fold": 4}, "12 cases in 5 folds"),
        (20, {"fold": 5}, "got fold 5 of 5"),
        (20, {"n_splits": 1}, "got fold 0 of 1"),
    ],
)
def test_split_that_cannot_be(count: int, settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_cases([str(i) for i in range(count)], **settings)


def test_advice_of_the_split_error_works() -> None:
    parts = split_cases([str(i) for i in range(8)], n_splits=2)
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (4, 1, 3)


def test_split_refuses_repeated_names() -> None:
    with pytest.raises(ValueError, match="16 names of which 15 differ"):
        split_cases([*(str(i) for i in range(15)), "0"])


def test_good_case_is_returned_as_stored(tmp_path: Path) -> None:
    case = write_case(tmp_path)
    image, label = check_case(case, num_classes=3, channels=1)
    np.testing.assert_array_equal(image[0], load(case.image).get_fdata(dtype=np.float32))
    np.testing.assert_array_equal(label[0], np.asarray(load(case.label).dataobj))


def test_channels_come_first(tmp_path: Path) -> None:
    voxels = np.random.default_rng(1).normal(size=(*SHAPE, 2)).astype(np.float32)
    image, _ = check_case(write_case(tmp_path, image=voxels), num_classes=3, channels=2)
    np.testing.assert_array_equal(image, np.moveaxis(voxels, -1, 0))


def with_voxel(value: float, dtype: type = np.float32) -> np.ndarray:
    voxels: np.ndarray = np.arange(120).reshape(SHAPE).astype(dtype)
    voxels[0, 0, 0] = value
    return voxels


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"image": with_voxel(np.nan)},
            r"case_1_image\.nii\.gz: every voxel .* got 1 that are NaN or infinite",
        ),
        (
            {"image": with_voxel(-np.inf)},
            r"case_1_image\.nii\.gz: every voxel .* got 1 that are NaN or infinite",
        ),
        ({"image": np.full(SHAPE, 7, np.int16)}, r"case_1_image\.nii\.gz: channel 0 must not be constant, got 7"),
        ({"image": np.ones((*SHAPE, 2), np.int16)}, r"case_1_image\.nii\.gz: expected 1 channel\(s\), got 2"),
        ({"image": np.ones((6, 5), np.int16)}, r"case_1_image\.nii\.gz: expected a volume of three dimensions"),
        ({"label": np.zeros((6, 5, 3), np.uint8)}, r"case_1_label\.nii\.gz: label and image .* \(6, 5, 3\)"),
        ({"label": np.zeros((*SHAPE, 2), np.uint8)}, r"case_1_label\.nii\.gz: label and image must have one shape"),
        ({"label": np.full(SHAPE, 3, np.uint8)}, r"case_1_label\.nii\.gz: .* from 0 to 2 .* got \[3\.0\]"),
        ({"label": np.full(SHAPE, -1, np.int16)}, r"case_1_label\.nii\.gz: .* got \[-1\.0\]"),
        ({"label": np.full(SHAPE, 0.5, np.float32)}, r"case_1_label\.nii\.gz: .* must be integers .* got \[0\.5\]"),
        ({"label": np.full(SHAPE, np.nan, np.float32)}, r"case_1_label\.nii\.gz: .* got \[nan"),
    ],
)
def test_bad_voxels_name_their_file(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_case(write_case(tmp_path, **changed), num_classes=3, channels=1)


@pytest.mark.parametrize("keep", [0, 10, 100, 0.5, 0.9])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_truncated_file(tmp_path: Path, keep: float, ending: str) -> None:
    case = write_case(tmp_path)
    path = save(tmp_path / f"cut{ending}", np.random.default_rng(2).normal(size=(20, 20, 20)))
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    with pytest.raises(ValueError, match=r"cut\.nii.*: cannot be read as NIfTI, corrupt or truncated"):
        check_case(Case("cut", (path,), case.label), num_classes=3, channels=1)


def test_corrupt_file(tmp_path: Path) -> None:
    case = write_case(tmp_path)
    content = bytearray(case.label.read_bytes())
    content[20:60] = b"\xff" * 40
    case.label.write_bytes(content)
    with pytest.raises(ValueError, match=r"case_1_label\.nii\.gz: cannot be read as NIfTI"):
        check_case(case, num_classes=3, channels=1)


@pytest.mark.real_data("Task04_Hippocampus", "Task02_Heart", "PROMISE12")
@pytest.mark.parametrize(
    ("folder", "cases", "classes"), [("Task04_Hippocampus", 260, 3), ("Task02_Heart", 8, 2), ("PROMISE12", 14, 2)]
)
def test_real_folders(data_root: Path, folder: str, cases: int, classes: int) -> None:
    data = Decathlon(data_root / folder)
    assert (len(data.cases), data.num_channels, data.num_classes) == (cases, 1, classes)


@pytest.mark.real_data("Task04_Hippocampus")
def test_real_split(data_root: Path) -> None:
    parts = split_cases([case.name for case in Decathlon(data_root / "Task04_Hippocampus").cases])
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (208, 17, 35)
