from __future__ import annotations

from pathlib import Path

import pytest

from monai_amat.tasks.segmentation import list_volumes


def test_volumes_are_listed_by_name(tmp_path: Path) -> None:
    for name in ("b.nii.gz", "a.nii", "c.nii.gz", "notes.txt", "d.nii.json"):
        (tmp_path / name).touch()
    (tmp_path / "deeper").mkdir()
    (tmp_path / "a_folder.nii").mkdir()
    (tmp_path / "deeper" / "e.nii.gz").touch()
    assert list_volumes(tmp_path) == [str(tmp_path / name) for name in ("a.nii", "b.nii.gz", "c.nii.gz")]
    assert list_volumes(str(tmp_path)) == list_volumes(tmp_path)


def test_what_the_file_system_of_a_mac_leaves_in_archives_is_no_volume(tmp_path: Path) -> None:
    """The Decathlon's archives are full of `._name.nii.gz`."""
    for name in ("._hippocampus_001.nii.gz", "hippocampus_001.nii.gz"):
        (tmp_path / name).touch()
    assert list_volumes(tmp_path) == [str(tmp_path / "hippocampus_001.nii.gz")]


def test_no_volumes_are_an_error_that_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder .*absent; give the folder of NIfTI volumes"):
        list_volumes(tmp_path / "absent")
    (tmp_path / "._a.nii.gz").touch()
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path} holds no volume: no file that ends in \.nii\.gz, \.nii"):
        list_volumes(tmp_path)


def test_volumes_whose_label_maps_would_be_one_file_are_refused(tmp_path: Path) -> None:
    for name in ("a.nii", "a.nii.gz", "b.nii"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"a\.nii\.gz: results are named after .* a\.nii has the same name"):
        list_volumes(tmp_path)
