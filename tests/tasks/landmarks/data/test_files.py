"""Text files of the challenge: order of coordinates, what is passed over, and what is refused with its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monai_amat.tasks.landmarks.data.files import LANDMARK_NAMES, NativeFrame, read_frame, read_landmarks

LINES = [f"{100 + i},{200 + 2 * i}" for i in range(19)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "038.txt"


def test_names_are_nineteen_and_differ() -> None:
    assert len(set(LANDMARK_NAMES)) == 19


@pytest.mark.parametrize("ending", ["", "\n", "\r\n", "\n\n \n"])
def test_coordinates_come_in_array_order(file: Path, ending: str) -> None:
    file.write_bytes(("\n".join(LINES) + ending).encode())
    points = read_landmarks(str(file))
    assert points.tolist() == [[200.0 + 2 * i, 100.0 + i] for i in range(19)]


def test_class_lines_and_a_byte_order_mark_are_passed_over(file: Path) -> None:
    file.write_text("\n".join(LINES) + "\n")
    expected = read_landmarks(file)
    file.write_text("\n".join([*LINES, *"12345678"]) + "\n", encoding="utf-8-sig")
    assert torch.equal(read_landmarks(file), expected)


@given(
    points=st.lists(
        st.tuples(st.floats(-1e4, 1e4, allow_nan=False), st.floats(-1e4, 1e4, allow_nan=False)),
        min_size=19,
        max_size=19,
    )
)
def test_any_numbers_are_read_as_written(
    tmp_path_factory: pytest.TempPathFactory, points: list[tuple[float, float]]
) -> None:
    file = tmp_path_factory.mktemp("files") / "001.txt"
    file.write_text("".join(f" {x!r} , {y!r}\n" for y, x in points))
    assert torch.equal(read_landmarks(file), torch.tensor(points, dtype=torch.float64))


def test_missing_landmark_is_nan(file: Path) -> None:
    file.write_text("\n".join(["nan,nan", *LINES[1:]]))
    points = read_landmarks(file)
    assert points.isnan().sum(dim=1).tolist() == [2] + [0] * 18


@pytest.mark.parametrize("count", [0, 1, 18, 20, 26, 28])
def test_wrong_number_of_lines(file: Path, count: int) -> None:
    file.write_text("\n".join((LINES * 2)[:count]))
    with pytest.raises(ValueError, match=rf"038\.txt: expected 19 lines .* got {count} lines"):
        read_landmarks(file)


@pytest.mark.parametrize("line", ["12", "1,2,3", "a,b", "", "1;2", "inf,3", "nan,3", "3,nan", "1,"])
def test_damaged_line_is_named(file: Path, line: str) -> None:
    file.write_text("\n".join([*LINES[:6], line, *LINES[7:]]))
    with pytest.raises(ValueError, match=r"038\.txt, line 7 \(pogonion\): expected 'x,y'.*") as error:
        read_landmarks(file)
    assert repr(line) in str(error.value)


def test_no_text_and_no_file(file: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"038\.txt: no such file"):
        read_landmarks(file)
    file.write_bytes(b"\xff\xfe\x00\x81" * 50)
    with pytest.raises(ValueError, match=r"038\.txt: not a text file"):
        read_landmarks(file)


def test_frame_is_the_challenges_own_unless_stated(tmp_path: Path) -> None:
    assert read_frame(tmp_path) == NativeFrame((2400, 1935), 0.1, stated=False)
    (tmp_path / "info.json").write_text('{"native_size_xy": [300, 400], "pixel_spacing_mm": 1}')
    assert read_frame(tmp_path) == NativeFrame((400, 300), 1.0, stated=True)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"native_size_xy": [1935]}, "'native_size_xy' must be"),
        ({"native_size_xy": [1935, 0]}, r"got \[1935, 0\]"),
        ({"native_size_xy": [1935.0, 2400]}, "'native_size_xy' must be"),
        ({"native_size_xy": None}, "got None"),
        ({"pixel_spacing_mm": 0}, "'pixel_spacing_mm' must be a positive number, got 0"),
        ({"pixel_spacing_mm": "0.1"}, "got '0.1'"),
        ({"pixel_spacing_mm": True}, "got True"),
        ({"pixel_spacing_mm": float("inf")}, "got inf"),
        ({"pixel_spacing_mm": float("nan")}, "got nan"),
        ({"landmarks": 29}, "'landmarks' must be 19, got 29"),
    ],
)
def test_info_that_makes_no_sense(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    good = {"native_size_xy": [1935, 2400], "pixel_spacing_mm": 0.1, "landmarks": 19}
    (tmp_path / "info.json").write_text(json.dumps(good | changed))
    with pytest.raises(ValueError, match=rf"info\.json: .*{message}"):
        read_frame(tmp_path)


@pytest.mark.parametrize(("text", "message"), [("{", "not valid JSON"), ("[1]", "'native_size_xy' must be")])
def test_info_that_is_no_object(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "info.json").write_text(text)
    with pytest.raises(ValueError, match=rf"info\.json: {message}"):
        read_frame(tmp_path)
