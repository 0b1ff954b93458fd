"""Volumes for inference: all looked at before the first, and those of a broken run kept if nothing has changed."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from monai_amat.tasks.segmentation import pending_volumes
from monai_amat.tasks.segmentation.data.pending import InferenceRecord, check_volumes, prediction_file


@pytest.fixture
def volumes(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "in" / f"{name}.nii.gz" for name in "abcdef"]
    paths[0].parent.mkdir()
    for i, path in enumerate(paths):
        nib.save(nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4) + i, np.eye(4)), path)
    return paths


def segment(paths: list[Path], folder: Path, made_with: Any) -> None:
    record = InferenceRecord(folder, made_with)
    folder.mkdir(exist_ok=True)
    for path in paths:
        prediction_file(path, folder).write_bytes(b"labels")
        record.add(path)


def pending(paths: list[Path], folder: Path, made_with: Any = "x") -> list[str]:
    found = pending_volumes(paths, channels=1, output_dir=folder, made_with=made_with, progress=False)
    return [Path(path).name[0] for path in found]


def test_a_broken_run_goes_on_where_it_stopped(
    volumes: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    assert pending(volumes, out) == list("abcdef")
    segment(volumes[:2], out, "x")
    with caplog.at_level(logging.WARNING):
        assert pending(volumes, out) == list("cdef")
    assert f"2 of 6 volumes were segmented by an earlier run into {out}" in caplog.text
    segment(volumes[2:], out, "x")
    assert pending(volumes, out) == list("abcdef")
    assert not (out / "inference.json").exists()


def test_what_has_changed_is_segmented_again(volumes: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    segment(volumes[:4], out, {"weights": "1"})
    nib.save(nib.Nifti1Image(np.zeros((2, 3, 5), np.int16) + np.arange(5, dtype=np.int16), np.eye(4)), volumes[0])
    prediction_file(volumes[1], out).write_bytes(b"other labels")
    prediction_file(volumes[2], out).unlink()
    assert pending(volumes, out, {"weights": "1"}) == list("abcef")
    assert pending(volumes, out, {"weights": "2"}) == list("abcdef")


@pytest.mark.parametrize("content", ["", "[]", '{"made_with": 1}', "{"])
def test_a_damaged_record_starts_anew(volumes: list[Path], tmp_path: Path, content: str) -> None:
    segment(volumes[:2], tmp_path / "out", "x")
    (tmp_path / "out" / "inference.json").write_text(content)
    assert pending(volumes, tmp_path / "out") == list("abcdef")


def test_all_volumes_are_looked_at_before_the_first(volumes: list[Path], tmp_path: Path) -> None:
    for i, path in enumerate(volumes[1:]):
        voxels = np.full((2, 3, 4), np.nan if i else 7, np.float32)
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), path)
    volumes[5].write_bytes(volumes[5].read_bytes()[:60])
    with pytest.raises(ValueError, match=r"5 of 6 volumes cannot be segmented: .*b\.nii\.gz: .*; and 2 more$"):
        check_volumes(volumes, channels=1, progress=False)
    with pytest.raises(ValueError, match=r"1 of 1 volumes .*a\.nii\.gz: expected 2 channel"):
        pending_volumes(volumes[:1], channels=2, output_dir=tmp_path, made_with=None, progress=False)
