"""The phantom: layout, statistics that make it look like the task, determinism, and what it refuses to overwrite."""

from __future__ import annotations

import json
import stat
from collections import Counter
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import label as components

from monai_amat.tasks.segmentation.data.case import check_case
from monai_amat.tasks.segmentation.data.decathlon import Decathlon
from monai_amat.tasks.segmentation.data.slices import load_slices
from monai_amat.tasks.segmentation.phantom import write_phantom

SMALL: dict[str, Any] = {"volumes": 2, "shape": (14, 18, 12)}


def load(path: Path) -> Any:
    """nibabel's own reading; Any, because its declared type knows neither voxels nor affine."""
    return nib.load(path)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantom(tmp_path_factory.mktemp("phantom") / "full", volumes=8, seed=1)


def voxels_of(root: Path) -> dict[str, np.ndarray]:
    return {str(path.relative_to(root)): load(path).get_fdata() for path in sorted(root.rglob("*.nii.gz"))}


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("classes", [1, 2])
def test_is_a_decathlon_folder(tmp_path: Path, channels: int, classes: int) -> None:
    root = write_phantom(tmp_path / "phantom", channels=channels, classes=classes, **SMALL)
    data = Decathlon(root)
    assert (len(data.cases), data.num_channels, data.num_classes) == (2, channels, classes + 1)
    for case in data.cases:
        image, label = check_case(case, num_classes=classes + 1, channels=channels)
        assert sorted(set(label.flatten().tolist())) == list(range(classes + 1))
        assert image.shape == (channels, *label.shape[1:])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["phantom"]


def test_one_class_is_both_structures_together(tmp_path: Path) -> None:
    two = voxels_of(write_phantom(tmp_path / "two", **SMALL))
    one = voxels_of(write_phantom(tmp_path / "one", classes=1, **SMALL))
    for name in one:
        expected = two[name] if "images" in name else (two[name] > 0)
        np.testing.assert_array_equal(one[name], expected)


def test_files_are_like_a_scanners(root: Path) -> None:
    headers = [load(case.image) for case in Decathlon(root).cases]
    for case, image in zip(Decathlon(root).cases, headers, strict=True):
        label = load(case.label)
        assert (image.get_data_dtype(), label.get_data_dtype()) == (np.int16, np.uint8)
        np.testing.assert_array_equal(image.affine[:3, :3], np.eye(3))
        np.testing.assert_array_equal(image.affine, label.affine)
        assert image.get_fdata().min() >= 0
        assert image.get_fdata().max() < 32767
    assert len({image.shape for image in headers}) > 1
    assert len({tuple(image.affine[:3, 3]) for image in headers}) == len(headers)
    # Gain differs from volume to volume, as between scanners.
    means = [image.get_fdata().mean() for image in headers]
    assert max(means) > 1.3 * min(means)


def test_slices_are_mixed_as_in_the_task(root: Path) -> None:
    slices = load_slices(root, "all", progress=False)
    counts = Counter(item["classes"] for item in slices)
    shares = {classes: count / len(slices) for classes, count in counts.items()}
    assert set(shares) == {"", "1", "2", "1,2"}
    assert 0.2 < shares[""] < 0.36
    assert 0.16 < shares["1,2"] < 0.36
    assert min(shares["1"], shares["2"]) > 0.12
    foreground = np.mean([(item["label"] > 0).float().mean().item() for item in slices])
    assert 0.03 < foreground < 0.07
    assert max(max(item["image"].shape[1:]) for item in slices) <= 56


def test_every_volume_has_empty_slices_at_both_ends_and_touching_structures(root: Path) -> None:
    for case in Decathlon(root).cases:
        label = np.asarray(load(case.label).dataobj)
        occupied = np.flatnonzero(label.any(axis=(0, 1)))
        assert occupied[0] > 0
        assert occupied[-1] < label.shape[2] - 1
        assert occupied[-1] - occupied[0] + 1 == len(occupied)
        assert components(label > 0)[1] == components(label == 1)[1] == components(label == 2)[1] == 1
        # Inside the grid, not cut by its sides.
        assert not label[[0, -1]].any()
        assert not label[:, [0, -1]].any()


def test_no_threshold_separates_the_foreground(root: Path) -> None:
    slices = load_slices(root, "all", progress=False)
    image = np.concatenate([item["image"].numpy().ravel() for item in slices])
    truth = np.concatenate([item["label"].numpy().ravel() for item in slices])
    edges = np.quantile(image, np.linspace(0, 1, 61))
    place = np.digitize(image, edges)
    for wanted, most in ((truth > 0, 0.6), (truth == 1, 0.45), (truth == 2, 0.45)):
        hits = np.concatenate([[0], np.cumsum(np.bincount(place[wanted], minlength=63))])
        total = np.concatenate([[0], np.cumsum(np.bincount(place, minlength=63))])
        low, high = np.triu_indices(len(hits), 1)
        dice = 2 * (hits[high] - hits[low]) / (total[high] - total[low] + wanted.sum())
        assert 0.1 < dice.max() < most  # the best band of grey values, with hindsight


def test_classes_differ_in_grey_but_not_in_every_volume(root: Path) -> None:
    """The body is darker than the head on the whole, and both than the rest; the bias field blurs the former."""
    means = []
    for case in Decathlon(root).cases:
        image, label = (
            load(case.image).get_fdata(),
            np.asarray(load(case.label).dataobj),
        )
        scaled = (image - image.mean()) / image.std()
        means.append([scaled[label == value].mean() for value in (0, 1, 2)])
    rest, head, body = np.array(means).T
    assert (rest - np.maximum(head, body) > 0.65).all()
    assert (head - body).mean() > 0.15


def test_seed_decides_every_voxel(tmp_path: Path) -> None:
    first = voxels_of(write_phantom(tmp_path / "a", seed=5, **SMALL))
    again = voxels_of(write_phantom(tmp_path / "b", seed=5, **SMALL))
    other = voxels_of(write_phantom(tmp_path / "c", seed=6, **SMALL))
    assert list(first) == list(again)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not any(np.array_equal(first[name], other[name]) for name in first)


def test_more_volumes_begin_with_the_same_ones(tmp_path: Path) -> None:
    few = voxels_of(write_phantom(tmp_path / "few", **SMALL))
    many = voxels_of(write_phantom(tmp_path / "many", **SMALL | {"volumes": 3}))
    assert len(many) == len(few) + 2
    assert all(np.array_equal(few[name], many[name]) for name in few)


def test_writing_again_does_nothing(tmp_path: Path) -> None:
    root = write_phantom(tmp_path / "phantom", **SMALL)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert write_phantom(str(root), **SMALL) == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    assert len(Decathlon(write_phantom(tmp_path / "there", **SMALL)).cases) == 2


@pytest.mark.parametrize("content", ["{}", "not json", None])
def test_something_else_is_left_alone(tmp_path: Path, content: str | None) -> None:
    other = tmp_path / "dataset.json" if content else tmp_path / "thesis.txt"
    other.write_text(content or "years of work")
    with pytest.raises(FileExistsError, match="got other files; choose another folder"):
        write_phantom(tmp_path, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == [other.name]


def test_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "phantom").write_text("a file")
    with pytest.raises(FileExistsError, match="got other files"):
        write_phantom(tmp_path / "phantom", **SMALL)


@pytest.mark.parametrize("changed", [{"seed": 1}, {"volumes": 3}, {"channels": 2}, {"shape": (12, 18, 12)}])
def test_phantom_of_other_settings_is_left_alone(tmp_path: Path, changed: dict[str, Any]) -> None:
    root = write_phantom(tmp_path / "phantom", **SMALL)
    before = voxels_of(root)
    with pytest.raises(FileExistsError, match="expected a phantom with the settings"):
        write_phantom(root, **SMALL | changed)
    assert all(np.array_equal(voxels, before[name]) for name, voxels in voxels_of(root).items())


def test_incomplete_phantom_is_named(tmp_path: Path) -> None:
    root = write_phantom(tmp_path / "phantom", **SMALL)
    (root / "labelsTr" / "phantom_001.nii.gz").unlink()
    with pytest.raises(FileExistsError, match=r"labelsTr/phantom_001\.nii\.gz is missing"):
        write_phantom(root, **SMALL)


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("monai_amat.tasks.segmentation.phantom.nib.save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_phantom(tmp_path / "phantom", **SMALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("same", [True, False])
def test_another_process_is_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same: bool) -> None:
    root, save = tmp_path / "phantom", nib.save

    def save_after_the_other(image: Any, path: Path) -> None:
        monkeypatch.setattr("monai_amat.tasks.segmentation.phantom.nib.save", save)
        write_phantom(root, **SMALL | ({} if same else {"seed": 9}))
        save(image, path)

    monkeypatch.setattr("monai_amat.tasks.segmentation.phantom.nib.save", save_after_the_other)
    if same:
        write_phantom(root, **SMALL)
    else:
        with pytest.raises(FileExistsError, match="expected a phantom with the settings"):
            write_phantom(root, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["phantom"]
    assert json.loads((root / "dataset.json").read_text())["phantom"]["seed"] == (0 if same else 9)


def test_rename_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:
        raise PermissionError("Permission denied")

    monkeypatch.setattr(Path, "rename", denied)
    with pytest.raises(PermissionError, match="Permission denied"):
        write_phantom(tmp_path / "phantom", **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_folder_has_the_usual_permissions(tmp_path: Path) -> None:
    """A temporary folder is private; the data set is not."""
    (tmp_path / "usual").mkdir()
    root = write_phantom(tmp_path / "phantom", **SMALL)
    assert stat.S_IMODE(root.stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)


def test_marker_tells_the_settings(root: Path) -> None:
    marker = json.loads((root / "dataset.json").read_text())["phantom"]
    assert marker == {"version": 1, "volumes": 8, "shape": [36, 50, 36], "channels": 1, "classes": 2, "seed": 1}


@pytest.mark.parametrize(
    "changed", [{"volumes": 0}, {"channels": 3}, {"classes": 0}, {"shape": (36, 50)}, {"shape": (36, 50, 11)}]
)
def test_settings_out_of_range(tmp_path: Path, changed: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a phantom needs volumes >= 1"):
        write_phantom(tmp_path / "phantom", **changed)
    assert list(tmp_path.iterdir()) == []
