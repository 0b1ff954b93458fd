"""Slices of a Decathlon folder: content, orientation, normalisation, and what the loader makes of them."""

from __future__ import annotations

import copy
import json
from collections import Counter
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.transforms import Compose, RandFlipd, ResizeWithPadOrCropd

from monai_amat.tasks.segmentation.data.decathlon import Decathlon
from monai_amat.tasks.segmentation.data.slices import Section, load_slices
from monai_amat.tasks.segmentation.phantom import write_phantom


def load(path: Path) -> Any:
    """nibabel's own reading; Any, because its declared type knows neither voxels nor affine."""
    return nib.load(path)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantom(tmp_path_factory.mktemp("slices") / "phantom", volumes=15, shape=(14, 18, 12), seed=3)


def test_slices_are_the_files_content_in_plane_y_x(root: Path) -> None:
    slices = load_slices(root, "all", progress=False)
    case = Decathlon(root).cases[2]
    voxels = load(case.image).get_fdata()
    truth = np.asarray(load(case.label).dataobj)
    mine = [item for item in slices if item["case"] == case.name]
    assert [item["slice"] for item in mine] == list(range(voxels.shape[2]))
    expected = (voxels - voxels.mean()) / voxels.std()
    for item in mine:
        np.testing.assert_allclose(item["image"][0], expected[..., item["slice"]].T, atol=1e-5)
        np.testing.assert_array_equal(item["label"][0], truth[..., item["slice"]].T)
        present = sorted(set(truth[..., item["slice"]].ravel().tolist()) - {0})
        assert item["classes"] == ",".join(str(value) for value in present)
    assert {item["classes"] for item in slices} == {"", "1", "2", "1,2"}


def test_types_and_order(root: Path) -> None:
    slices = load_slices(root, "all", progress=False)
    assert [(item["case"], item["slice"]) for item in slices] == sorted((i["case"], i["slice"]) for i in slices)
    for item in slices:
        assert type(item["image"]) is type(item["label"]) is torch.Tensor
        assert (item["image"].dtype, item["label"].dtype) == (torch.float32, torch.uint8)
        assert item["image"].shape == item["label"].shape
    again = load_slices(root, "all", progress=False)
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(again, slices, strict=True))


def test_a_slice_holds_no_more_memory_than_its_own(root: Path) -> None:
    item = load_slices(root, "all", limit=1, progress=False)[0]
    for key in ("image", "label"):
        assert item[key].is_contiguous()
        assert item[key].untyped_storage().nbytes() == item[key].numel() * item[key].element_size()


def test_sections_are_the_splits(root: Path) -> None:
    def cases(section: Section, **settings: Any) -> set[str]:
        return {item["case"] for item in load_slices(root, section, progress=False, **settings)}

    train, validation, test = cases("train"), cases("validation"), cases("test")
    assert (len(train), len(validation), len(test)) == (12, 1, 2)
    assert len(train | validation | test) == 15
    assert cases("test", fold=1) < train
    assert len(cases("train", n_splits=3)) == 10


def test_limit_and_slice_step(root: Path) -> None:
    full = load_slices(root, "train", progress=False)
    few = load_slices(root, "train", limit=2, slice_step=4, progress=False)
    names = sorted({item["case"] for item in full})[:2]
    wanted = [item for item in full if item["case"] in names and item["slice"] % 4 == 0]
    assert [(item["case"], item["slice"]) for item in few] == [(item["case"], item["slice"]) for item in wanted]
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(few, wanted, strict=True))


def test_through_monais_data_set_and_loader(root: Path) -> None:
    slices = load_slices(root, "validation", progress=False)
    before = copy.deepcopy(slices)
    transform = Compose(
        [ResizeWithPadOrCropd(("image", "label"), (24, 16)), RandFlipd(("image", "label"), prob=0.5, spatial_axis=0)]
    )
    batch: dict[str, Any] = next(iter(DataLoader(Dataset(slices, transform), batch_size=len(slices))))
    assert batch["image"].shape == batch["label"].shape == (len(slices), 1, 24, 16)
    assert batch["label"].dtype == torch.uint8
    assert batch["classes"] == [item["classes"] for item in slices]
    assert batch["slice"].tolist() == [item["slice"] for item in slices]
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(slices, before, strict=True))


def test_channels_are_normalised_each_by_itself(tmp_path: Path) -> None:
    root = write_phantom(tmp_path / "two", volumes=1, shape=(14, 18, 12), channels=2, classes=1)
    volume = torch.stack([item["image"] for item in load_slices(root, "all", progress=False)])
    assert volume.shape[1] == 2
    assert volume.mean(dim=(0, 2, 3)).tolist() == pytest.approx([0, 0], abs=1e-4)
    assert volume.std(dim=(0, 2, 3), correction=0).tolist() == pytest.approx([1, 1], abs=1e-4)


def test_anisotropic_volumes_are_cut_along_their_coarse_axis(tmp_path: Path) -> None:
    root = write_phantom(tmp_path / "coarse", volumes=1, shape=(14, 18, 12))
    case = Decathlon(root).cases[0]
    for path in (case.image, case.label):
        nib.save(nib.Nifti1Image(np.asarray(load(path).dataobj), np.diag([4.0, 1, 1, 1])), path)
    voxels = load(case.image).get_fdata()
    slices = load_slices(root, "all", progress=False)
    assert len(slices) == voxels.shape[0]
    expected = (voxels - voxels.mean()) / voxels.std()
    np.testing.assert_allclose(slices[3]["image"][0], expected[3].T, atol=1e-5)  # (z, y)


def test_progress_bar_goes_to_the_screen_only_if_asked(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load_slices(root, "validation", progress=False)
    assert capsys.readouterr().err == ""
    load_slices(root, "validation")
    assert "phantom validation" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"section": "training"}, "section must be 'train', 'validation', 'test' or 'all', got 'training'"),
        ({"limit": 0}, "limit must be at least 1, got 0"),
        ({"slice_step": 0}, "slice_step must be at least 1, got 0"),
        ({"n_splits": 6, "fold": 5}, r"phantom: the held-out fold must hold at least 3 cases.*15 cases in 6 folds"),
    ],
)
def test_settings_out_of_range(root: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_slices(root, progress=False, **settings)


def test_broken_case_is_named(tmp_path: Path) -> None:
    root = write_phantom(tmp_path / "broken", volumes=2, shape=(12, 12, 12))
    description = json.loads((root / "dataset.json").read_text())
    description["labels"] = {"0": "background", "1": "only"}
    (root / "dataset.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match=r"labelsTr/phantom_000\.nii\.gz: label values must be integers from 0 to 1"):
        load_slices(root, "all", progress=False)


@pytest.mark.real_data("Task04_Hippocampus")
def test_real_hippocampus_counts(data_root: Path) -> None:
    slices = load_slices(data_root / "Task04_Hippocampus", "all", progress=False)
    assert len(slices) == 9270
    counts = Counter(item["classes"] for item in slices)
    assert counts == {"": 2647, "1": 1411, "2": 2924, "1,2": 2288}
    # Facts of the paper's data: 29 % empty, 47 % one class, 25 % both.
    shares = [counts[""], counts["1"] + counts["2"], counts["1,2"]]
    assert [round(100 * share / 9270) for share in shares] == [29, 47, 25]
    # In-plane (y, x): the paper's patch is 56 x 40.
    assert np.median([item["image"].shape[1:] for item in slices], axis=0).tolist() == [50, 35]


@pytest.mark.real_data("Task04_Hippocampus")
def test_real_hippocampus_first_case_by_hand(data_root: Path) -> None:
    folder = data_root / "Task04_Hippocampus"
    slices = load_slices(folder, "all", limit=1, progress=False)
    voxels = load(folder / "imagesTr" / "hippocampus_001.nii.gz").get_fdata()
    truth = np.asarray(load(folder / "labelsTr" / "hippocampus_001.nii.gz").dataobj)
    assert len(slices) == voxels.shape[2]
    for i, item in enumerate(slices):
        np.testing.assert_allclose(item["image"][0], (voxels[..., i].T - voxels.mean()) / voxels.std(), atol=1e-5)
        np.testing.assert_array_equal(item["label"][0], truth[..., i].T)


@pytest.mark.real_data("Task02_Heart", "PROMISE12")
@pytest.mark.parametrize(("folder", "slices"), [("Task02_Heart", 130), ("PROMISE12", 47)])
def test_other_real_folders_fit_the_same_code(data_root: Path, folder: str, slices: int) -> None:
    loaded = load_slices(data_root / folder, "all", limit=1, progress=False)
    assert len(loaded) == slices
    assert loaded[0]["image"].shape == (1, 256, 256)


def test_another_number_of_classes_or_channels_than_expected(phantom_root: Path) -> None:
    assert load_slices(phantom_root, "all", limit=1, num_classes=3, channels=1, progress=False)
    with pytest.raises(ValueError, match=r"dataset.json: expected 2 classes .* got 3"):
        load_slices(phantom_root, "all", num_classes=2, progress=False)
    with pytest.raises(ValueError, match=r"dataset\.json: expected 2 image channels, got 1"):
        load_slices(phantom_root, "all", channels=2, progress=False)
