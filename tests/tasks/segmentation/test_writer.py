"""Label maps on disk: whole, on their volumes' grids, and nothing that cannot be one."""

from __future__ import annotations

import gzip
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_amat.tasks.segmentation import LabelMapFilesHandler
from monai_amat.tasks.segmentation import writer as label_map_writer

SHAPE = (5, 4, 3)


def source(path: Path, shape: tuple[int, ...] = SHAPE, kind: Any = nib.Nifti1Image) -> Path:
    nib.save(kind(np.ones(shape, dtype=np.float32), np.diag([2.0, 1.0, 3.0, 1.0])), path)
    return path


def engine(*outputs: Any) -> Any:
    return SimpleNamespace(state=SimpleNamespace(output=[{"pred": output} for output in outputs]))


def labels(path: Path, shape: tuple[int, ...] = (1, *SHAPE), value: float = 1.0) -> MetaTensor:
    return MetaTensor(torch.full(shape, value), meta={"filename_or_obj": str(path)})


def read(path: Path) -> Any:
    return nib.load(path)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.b.nii.gz", "a.NII.GZ"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_a_map_is_named_after_its_volume_and_holds_bytes(tmp_path: Path, name: str, kind: Any) -> None:
    file = source(tmp_path / name, kind=kind)
    LabelMapFilesHandler(tmp_path / "out").write(engine(labels(file, value=200.0)))
    written = tmp_path / "out" / f"{name.lower().split('.nii')[0]}_pred.nii.gz"
    assert list((tmp_path / "out").iterdir()) == [written]
    image = read(written)
    assert (image.shape, image.get_data_dtype()) == (SHAPE, np.uint8)
    assert np.asanyarray(image.dataobj).min() == 200
    np.testing.assert_array_equal(image.affine, read(file).affine)


def test_what_the_header_says_of_grey_values_is_not_carried_over(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.ones((*SHAPE, 2), dtype=np.float32), np.eye(4))
    image.header.set_slope_inter(3.0, 7.0)
    image.header["cal_max"], image.header["descrip"] = 900.0, b"a patient"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"a patient"))
    nib.save(image, tmp_path / "a.nii")
    LabelMapFilesHandler(tmp_path / "out").write(engine(labels(tmp_path / "a.nii")))
    written = read(tmp_path / "out" / "a_pred.nii.gz")
    assert written.shape == SHAPE
    assert np.asanyarray(written.dataobj).max() == 1
    assert b"a patient" not in gzip.decompress((tmp_path / "out" / "a_pred.nii.gz").read_bytes())
    assert float(written.header["cal_max"]) == 0.0


def test_the_same_map_is_the_same_file(tmp_path: Path) -> None:
    """No time of day in it, so that checksums can be compared."""
    file = source(tmp_path / "a.nii")
    found = []
    for output in ("first", "second"):
        LabelMapFilesHandler(tmp_path / output).write(engine(labels(file)))
        found.append((tmp_path / output / "a_pred.nii.gz").read_bytes())
    assert found[0] == found[1]
    assert found[0][4:8] == bytes(4)


def test_a_failure_while_writing_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = source(tmp_path / "a.nii")
    LabelMapFilesHandler(tmp_path / "out").write(engine(labels(file)))
    before = (tmp_path / "out" / "a_pred.nii.gz").read_bytes()

    def full(*_: Any, **__: Any) -> bytes:
        raise OSError("No space left on device")

    monkeypatch.setattr(label_map_writer.gzip, "compress", full)
    with pytest.raises(OSError, match="No space left"):
        LabelMapFilesHandler(tmp_path / "out").write(engine(labels(file, value=2.0)))
    assert [path.read_bytes() for path in (tmp_path / "out").iterdir()] == [before]


def test_what_is_no_label_map_is_refused(tmp_path: Path) -> None:
    file = source(tmp_path / "a.nii")
    writer = LabelMapFilesHandler(tmp_path / "out")
    for wrong, message in (
        (labels(file, (1, 5, 4, 4)), r"a\.nii: expected a label map \(1, 5, 4, 3\), got \(1, 5, 4, 4\)"),
        (labels(file, (2, 5, 4, 3)), r"got \(2, 5, 4, 3\)"),
        (labels(file, value=256.0), r"a\.nii: labels must be whole numbers from 0 to 255, got 256"),
        (labels(file, value=0.5), r"got 0\.5"),
        (torch.ones(1, *SHAPE), "LabelMapFilesHandler needs a MetaTensor with its file"),
    ):
        with pytest.raises(ValueError, match=message):
            writer.write(engine(wrong))
    nib.save(nib.MGHImage(np.ones(SHAPE, dtype=np.float32), np.eye(4)), tmp_path / "b.mgz")
    with pytest.raises(ValueError, match=r"b\.mgz: expected a NIfTI volume"):
        writer.write(engine(labels(tmp_path / "b.mgz")))
    with pytest.raises(KeyError, match="'label_map'"):
        LabelMapFilesHandler(tmp_path / "out", pred_key="label_map").write(engine(labels(file)))
    assert not (tmp_path / "out").exists()


def test_two_volumes_of_one_name_are_refused_in_a_run_and_rewritten_in_the_next(tmp_path: Path) -> None:
    first, second = source(tmp_path / "a.nii"), tmp_path / "deeper" / "a.nii"
    second.parent.mkdir()
    source(second)
    writer = LabelMapFilesHandler(tmp_path / "out")
    with pytest.raises(ValueError, match=r"deeper/a\.nii: its label map would replace .*a\.nii"):
        writer.write(engine(labels(first), labels(second)))
    writer.start(engine())
    writer.write(engine(labels(second, value=2.0)))
    assert np.asanyarray(read(tmp_path / "out" / "a_pred.nii.gz").dataobj).max() == 2
