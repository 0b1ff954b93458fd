"""Slices brought to one spacing, and classes that training never sees."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from monai.data import Dataset

from monai_amat.data import IndexedDataset
from monai_amat.tasks.segmentation import load_slices, write_phantom


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantom(tmp_path_factory.mktemp("spacing") / "phantom", volumes=15, shape=(14, 18, 12), seed=3)


def test_image_and_label_are_resampled_alike_and_z_scored_afterwards(root: Path) -> None:
    plain = load_slices(root, "test", progress=False)
    halved = load_slices(root, "test", spacing=(2.0, 0.5), progress=False)
    assert [(item["case"], item["slice"]) for item in plain] == [(item["case"], item["slice"]) for item in halved]
    for before, after in zip(plain, halved, strict=True):
        height, width = before["image"].shape[1:]
        assert after["image"].shape[1:] == after["label"].shape[1:] == (round(height / 2), width * 2)
        present = {int(name) for name in after["classes"].split(",") if name}
        assert set(after["label"].unique().tolist()) - {0} == present
    volume = np.stack([item["image"].numpy() for item in halved if item["case"] == halved[0]["case"]])
    assert (volume.mean(), volume.std()) == (pytest.approx(0, abs=1e-5), pytest.approx(1, abs=1e-5))
    # As much of the world is foreground as before, up to ties and rounding at the border.
    areas = [sum(int((item["label"] > 0).sum()) for item in slices) for slices in (plain, halved)]
    assert areas[1] == pytest.approx(areas[0], rel=0.15)


def test_finer_labels_are_where_the_coarse_ones_were(root: Path) -> None:
    plain, doubled = (load_slices(root, "test", spacing=spacing, progress=False) for spacing in (None, (0.5, 0.5)))
    for before, after in zip(plain, doubled, strict=True):
        nearest = before["label"].numpy().repeat(2, axis=1).repeat(2, axis=2)
        assert (nearest == after["label"].numpy()).mean() > 0.93


def test_a_data_set_is_known_by_its_spacing(root: Path) -> None:
    """Its samples' margins and thresholds are of no use at another resolution."""
    spacings = (None, (2.0, 2.0), (2.0, 2.5), (2.0, 2.0))
    data = [load_slices(root, "test", spacing=spacing, progress=False) for spacing in spacings]
    found = [IndexedDataset(Dataset(slices)).fingerprint for slices in data]
    assert len(set(found)) == 3
    assert found[1] == found[3]
    assert "spacing" not in data[0][0]


def test_an_affine_without_a_spacing_is_named(root: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(root, tmp_path / "data"))
    for part in ("imagesTr", "labelsTr"):
        for file in (data / part).iterdir():
            image: Any = nib.load(file)
            header = image.header.copy()
            header.set_sform(np.diag([1.0, 0.0, 1.0, 1.0]), code=1)
            header["qform_code"] = 0
            nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj), None, header), file)
    with pytest.raises(ValueError, match=r"phantom_\d+\.nii\.gz: expected an affine with an inverse"):
        load_slices(data, "test", progress=False)


def test_a_class_that_training_never_sees_is_refused(root: Path, tmp_path: Path) -> None:
    content = json.loads((root / "dataset.json").read_text())
    content["labels"]["3"] = "Nothing"
    for entry in content["training"]:
        for key in ("image", "label"):
            entry[key] = str(root / entry[key])
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"each class of dataset\.json .* got none with class 3 \(Nothing\)"):
        load_slices(tmp_path, "train", progress=False)
    # A test that holds none of a class is a matter of its scores, not of training.
    assert load_slices(tmp_path, "test", progress=False)
