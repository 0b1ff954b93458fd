"""The phantom of the landmark task: layout, coordinates, determinism, and what it refuses to overwrite."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from monai_amat.tasks.landmarks.data.cephalograms import load_cephalograms
from monai_amat.tasks.landmarks.phantom.cephalograms import write_cephalogram_phantom
from monai_amat.tasks.landmarks.phantom.skull import draw_skull

SMALL: dict[str, Any] = {"images": 6, "size": (60, 48)}


def files_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_is_read_as_the_challenge(tmp_path: Path) -> None:
    root = write_cephalogram_phantom(tmp_path / "phantom", images=13, size=(60, 48))
    for section, ids in {"train": range(1, 10), "validation": [151, 152], "test": [201, 202]}.items():
        items = load_cephalograms(root, section)
        assert [int(item["case"]) for item in items] == list(ids)
        assert not any(item["landmarks"].isnan().any() for item in items)
    with Image.open(root / "RawImage" / "TrainingData" / "001.png") as picture:
        assert (picture.mode, picture.size) == ("L", (48, 60))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["phantom"]


def test_coordinates_are_native_and_readers_differ_without_bias(tmp_path: Path) -> None:
    root = write_cephalogram_phantom(tmp_path / "phantom", images=36, size=(60, 48), seed=4)
    errors = {}
    for reader in ("senior", "junior"):
        found = []
        for item in load_cephalograms(root, reader=reader):
            truth = draw_skull(np.random.default_rng([4, int(item["case"])]), (60, 48))[1]
            # In mm from the frame's corner: pixel i covers i to i + 1 tenths of a millimetre.
            found.append((item["landmarks"].numpy() + 0.5) * 0.1 - truth)
        errors[reader] = np.stack(found)
        assert 0.26 < errors[reader].std() < 0.34
    both = np.stack([errors["senior"], errors["junior"]])
    assert abs(both.mean()) < 4 * 0.3 / np.sqrt(both.size)  # four standard errors; half a native pixel would be seven
    assert abs(np.corrcoef(errors["senior"].ravel(), errors["junior"].ravel())[0, 1]) < 0.13


def test_seed_decides_every_byte_and_more_images_begin_with_the_same(tmp_path: Path) -> None:
    first, again, other, more = (
        files_of(write_cephalogram_phantom(tmp_path / name, **SMALL | changed))
        for name, changed in (("a", {}), ("b", {}), ("c", {"seed": 1}), ("d", {"images": 12}))
    )
    assert first == again
    assert not any(first[name] == other[name] for name in first)
    assert all(first[name] == more[name] for name in first if name != "info.json")
    assert len(more) == 2 * (len(first) - 1) + 1


@pytest.mark.parametrize(
    ("images", "counts"), [(3, (1, 1, 1)), (11, (9, 1, 1)), (24, (16, 4, 4)), (224, (150, 37, 37))]
)
def test_sections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: int, counts: tuple[int, int, int]) -> None:
    drawn = []
    monkeypatch.setattr(
        "monai_amat.tasks.landmarks.phantom.cephalograms._write_image", lambda _, number, *__: drawn.append(number)
    )
    write_cephalogram_phantom(tmp_path / "phantom", images=images)
    train, validation, test = counts
    assert drawn == [*range(1, train + 1), *range(151, 151 + validation), *range(201, 201 + test)]


def test_writing_again_does_nothing(tmp_path: Path) -> None:
    root = write_cephalogram_phantom(tmp_path / "phantom", **SMALL)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert write_cephalogram_phantom(str(root), **SMALL) == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    assert len(load_cephalograms(write_cephalogram_phantom(tmp_path / "there", **SMALL))) == 4


@pytest.mark.parametrize(
    ("name", "content"), [("info.json", "{}"), ("info.json", "?"), ("thesis.txt", "years of work")]
)
def test_something_else_is_left_alone(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(FileExistsError, match="got other files; choose another folder"):
        write_cephalogram_phantom(tmp_path, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("changed", [{"seed": 1}, {"images": 7}, {"size": (62, 50)}])
def test_phantom_of_other_settings_is_left_alone(tmp_path: Path, changed: dict[str, Any]) -> None:
    root = write_cephalogram_phantom(tmp_path / "phantom", **SMALL)
    before = files_of(root)
    with pytest.raises(FileExistsError, match="expected a phantom with the settings"):
        write_cephalogram_phantom(root, **SMALL | changed)
    assert files_of(root) == before


@pytest.mark.parametrize("name", ["RawImage/Test1Data/201.png", "AnnotationsByMD/400_junior/002.txt"])
def test_incomplete_phantom_is_named(tmp_path: Path, name: str) -> None:
    root = write_cephalogram_phantom(tmp_path / "phantom", **SMALL)
    (root / name).unlink()
    with pytest.raises(FileExistsError, match=f"{name} is missing"):
        write_cephalogram_phantom(root, **SMALL)


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("monai_amat.tasks.landmarks.phantom.cephalograms._write_image", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_cephalogram_phantom(tmp_path / "phantom", **SMALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("same", [True, False])
def test_another_process_is_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same: bool) -> None:
    root, draw = tmp_path / "phantom", draw_skull

    def draw_after_the_other(*args: Any) -> Any:
        monkeypatch.setattr("monai_amat.tasks.landmarks.phantom.cephalograms.draw_skull", draw)
        write_cephalogram_phantom(root, **SMALL | ({} if same else {"seed": 9}))
        return draw(*args)

    monkeypatch.setattr("monai_amat.tasks.landmarks.phantom.cephalograms.draw_skull", draw_after_the_other)
    if same:
        write_cephalogram_phantom(root, **SMALL)
    else:
        with pytest.raises(FileExistsError, match="expected a phantom with the settings"):
            write_cephalogram_phantom(root, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["phantom"]
    assert json.loads((root / "info.json").read_text())["phantom"]["seed"] == (0 if same else 9)


@pytest.mark.parametrize(
    "changed",
    [{"images": 2}, {"images": 225}, {"size": (60, 47)}, {"size": (58, 48)}, {"size": (60, 60)}, {"size": (60,)}],
)
def test_settings_out_of_range(tmp_path: Path, changed: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a phantom needs 3 to 224 images and a size"):
        write_cephalogram_phantom(tmp_path / "phantom", **SMALL | changed)
    assert list(tmp_path.iterdir()) == []
