from __future__ import annotations

from pathlib import Path

import pytest

from monai_amat.tasks.detection import list_images


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
    with pytest.raises(ValueError, match=r"smear\.png: results are named after .* smear\.jpg has the same name"):
        list_images(tmp_path)
