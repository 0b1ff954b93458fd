from __future__ import annotations

from pathlib import Path

import pytest

from monai_amat.data import list_images, list_volumes


def test_pictures_are_listed_by_name_and_nothing_else(tmp_path: Path) -> None:
    for name in ("c.PNG", "a.jpeg", "b.bmp", "d.JPG", ".hidden.png", "notes.txt", "e.nii.gz"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [Path(file).name for file in list_images(tmp_path)] == ["a.jpeg", "b.bmp", "c.PNG", "d.JPG"]
    assert list_images(str(tmp_path)) == list_images(tmp_path)


def test_what_cannot_be_listed_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder .*absent; give the folder of images"):
        list_images(tmp_path / "absent")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(FileNotFoundError, match=r"holds no image: no file that ends in \.bmp, \.jpeg, \.jpg, \.png"):
        list_images(tmp_path)
    for name in ("smear.jpg", "smear.png"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"smear\.png: results go by the name, which smear\.jpg has too"):
        list_images(tmp_path)


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
    with pytest.raises(ValueError, match=r"a\.nii\.gz: results go by the name, which a\.nii has too"):
        list_volumes(tmp_path)
