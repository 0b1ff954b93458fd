"""Radiographs of any source: a JSON list with a split of one's own, in every form, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from monai_amat.tasks.landmarks import load_cephalograms, load_landmark_list

POINTS = [[3, 4], None, [10.5, 20]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "films").mkdir()
    for name in ("a", "b", "c"):
        Image.new("L", (40, 50)).save(tmp_path / "films" / f"{name}.png", dpi=(254, 127))
    (tmp_path / "films" / "b.txt").write_text("3,4\nnan,nan\n10.5,20\n")
    return tmp_path


def write(root: Path, **content: Any) -> Path:
    (root / "list.json").write_text(json.dumps(content))
    return root / "list.json"


def entry(name: str = "a", **changes: Any) -> dict[str, Any]:
    return {"image": f"films/{name}.png", "landmarks": POINTS, **changes}


def test_sections_points_and_text_files_are_read(root: Path) -> None:
    file = write(
        root, train=[entry("a"), entry("b", landmarks="films/b.txt", image="films\\b.png")], test=[entry("c", case="7")]
    )
    first, second = load_landmark_list(file, "train")
    expected = torch.tensor([[4.0, 3.0], [math.nan, math.nan], [20.0, 10.5]])
    for item in (first, second):
        torch.testing.assert_close(item["landmarks"], expected, equal_nan=True)
        torch.testing.assert_close(item["spacing"], torch.tensor([0.2, 0.1]))
        assert item["native_size"].tolist() == [50, 40]
    assert [first["case"], second["case"]] == ["a", "b"]
    (third,) = load_cephalograms(root, "test", split="list.json")
    assert third["case"] == "7"
    assert len(load_cephalograms(root, "train", split=str(file), limit=1)) == 1


@pytest.mark.parametrize(
    ("spacing", "expected"), [({"spacing": 0.3}, [0.3, 0.3]), ({"spacing": [0.3, 0.4]}, [0.4, 0.3]), ({}, [0.1, 0.05])]
)
def test_spacing_is_that_of_native_pixels_y_before_x(
    root: Path, spacing: dict[str, Any], expected: list[float]
) -> None:
    reduced = entry(native_size=[80, 100], landmarks=[[79, 99]], **spacing)
    (item,) = load_landmark_list(write(root, train=[reduced]), "train")
    torch.testing.assert_close(item["spacing"], torch.tensor(expected))
    assert item["native_size"].tolist() == [100, 80]
    assert item["landmarks"].tolist() == [[99.0, 79.0]]


def test_landmarks_outside_are_missing_and_counted(root: Path) -> None:
    file = write(root, train=[entry(landmarks=[[3, 4], [40, 4], [3, -1]])])
    with pytest.warns(UserWarning, match=r"2 landmark\(s\) lie outside .*number 2 of a, number 3 of a"):
        (item,) = load_landmark_list(file, "train")
    assert item["landmarks"].isnan().any(dim=-1).tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train": []}, "section 'test'|must hold at least one entry"),
        ({"training": [entry()]}, "section must be one of 'training', got 'train'"),
        ({"train": [{"image": "films/a.png"}]}, "entry 1 of 'train' needs an 'image' and 'landmarks'"),
        ({"train": [entry()], "test": [entry()]}, r"image once, got 1 several times: a\.png \(entry 1 of 'train' and"),
        ({"train": [entry(), entry("b", landmarks=[[1, 2]])]}, "same number of landmarks, got 3 in 1 entries, 1 in 1"),
        ({"train": [entry(), entry("b", case="a")]}, "names of cases must be unique, got a more than once"),
        ({"train": [entry(landmarks=[[1]])]}, r"landmark 1 must be \[x, y\] in pixels or null, got \[1\]"),
        ({"train": [entry(landmarks=[])]}, "at least one landmark"),
        ({"train": [entry(landmarks=[None])]}, "expected a landmark inside of the image"),
        ({"train": [entry(spacing=0)]}, "'spacing' must be a positive number"),
        ({"train": [entry(native_size=[50, 40])]}, "aspect ratio of 'native_size'"),
        ({"train": [entry(native_size="big")]}, "'native_size' must be"),
    ],
)
def test_what_cannot_be_read_is_named(root: Path, content: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_landmark_list(write(root, **content), "train")


def test_missing_and_damaged_files_are_named(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.json: no such list"):
        load_cephalograms(root, "train", split="absent.json")
    with pytest.raises(FileNotFoundError, match=r"films/z\.png: no such image"):
        load_landmark_list(write(root, train=[entry("z")]), "train")
    (root / "list.json").write_text("{")
    with pytest.raises(ValueError, match=r"list\.json: not valid JSON"):
        load_landmark_list(root / "list.json", "train")
    (root / "films" / "b.txt").write_text("3;4")
    with pytest.raises(ValueError, match=r"b\.txt, line 1: expected 'x,y'"):
        load_landmark_list(write(root, train=[entry(landmarks="films/b.txt")]), "train")
    Image.new("L", (40, 50)).save(root / "films" / "a.png")
    with pytest.raises(ValueError, match="the pixel size is unknown; give 'spacing'"):
        load_landmark_list(write(root, train=[entry()]), "train")
