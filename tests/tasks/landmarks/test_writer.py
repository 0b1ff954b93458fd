"""Landmarks on disk: the same numbers in table and files, nothing invented for what was not found."""

from __future__ import annotations

import csv
import json
import logging
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from monai.engines import SupervisedEvaluator

from monai_amat.tasks.landmarks import LandmarkFilesHandler

NAMES = ("sella", "nasion", "orbitale")
POINTS = torch.tensor([[9.5, 19.5], [math.nan, math.nan], [0.0, 100.25]])


class Drawn:
    """Notes what is to be drawn."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any, Path, Any]] = []

    def __call__(self, picture: Any, points: Any, path: Path, *, names: Any) -> None:
        self.calls.append((picture, points, path, names))


def found(case: str, points: torch.Tensor = POINTS) -> dict[str, Any]:
    return {
        "image": torch.zeros(1, 4, 4),
        "case": case,
        "spacing": torch.tensor([0.5, 0.25]),
        "picture": torch.full((1, 8, 6), float(len(case))),
        "points": points,
    }


def run(writer: LandmarkFilesHandler, *batches: list[dict[str, Any]]) -> None:
    """An evaluator whose network finds what the items carry, batches taken apart as MONAI does it."""

    def find(engine: Any, batch: Any) -> Any:
        return [{"pred": item["points"]} for item in batch]

    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=list(batches),
        network=torch.nn.Identity(),
        decollate=False,
        iteration_update=find,
        val_handlers=[writer],
    )
    evaluator.run()


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "landmarks.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_coordinates_are_pixels_and_millimetres_x_before_y(tmp_path: Path) -> None:
    writer = LandmarkFilesHandler(tmp_path / "out", names=NAMES)
    run(writer, [found("a")])
    rows = table(tmp_path / "out")
    assert [(row["case"], row["number"], row["name"]) for row in rows] == [
        ("a", str(number), name) for number, name in enumerate(NAMES, 1)
    ]
    # From the corner of the image, which is half a pixel before the first one's middle.
    assert [rows[0][key] for key in ("x_px", "y_px", "x_mm", "y_mm")] == ["19.5", "9.5", "5.0", "5.0"]
    assert [rows[1][key] for key in ("x_px", "y_px", "x_mm", "y_mm")] == [""] * 4
    assert [rows[2][key] for key in ("x_px", "y_px", "x_mm", "y_mm")] == ["100.25", "0.0", "25.188", "0.25"]
    content = json.loads((tmp_path / "out" / "a.json").read_text())
    assert content["case"] == "a"
    assert content["spacing_mm"] == [0.5, 0.25]
    assert content["landmarks"][0] == {
        **{"number": 1, "name": "sella", "x_px": 19.5, "y_px": 9.5, "x_mm": 5.0, "y_mm": 5.0},
    }
    assert content["landmarks"][1]["x_px"] is None
    assert not list((tmp_path / "out").glob("*.png"))


def test_every_image_of_every_batch_has_its_files(tmp_path: Path) -> None:
    drawn = Drawn()
    writer = LandmarkFilesHandler(tmp_path, names=NAMES, draw=drawn)
    points = MetaTensor(POINTS + 1)
    run(writer, [found("a"), found("bb")], [found("ccc", points)])
    assert [row["case"] for row in table(tmp_path)] == [case for case in ("a", "bb", "ccc") for _ in NAMES]
    assert {path.name for path in tmp_path.iterdir()} == {"landmarks.csv", "a.json", "bb.json", "ccc.json"}
    assert [path for _, _, path, _ in drawn.calls] == [tmp_path / f"{case}.png" for case in ("a", "bb", "ccc")]
    assert [float(picture.mean()) for picture, *_ in drawn.calls] == [1.0, 2.0, 3.0]
    torch.testing.assert_close(drawn.calls[2][1], POINTS + 1, equal_nan=True)
    assert all(names == NAMES for *_, names in drawn.calls)


def test_a_second_run_makes_a_new_table(tmp_path: Path) -> None:
    writer = LandmarkFilesHandler(tmp_path, names=NAMES)
    run(writer, [found("a")])
    run(writer, [found("b")])
    assert {row["case"] for row in table(tmp_path)} == {"b"}


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        ([found("a", torch.zeros(4, 2))], ValueError, r"'a': expected landmarks \(3, 2\), .* got \(4, 2\)"),
        ([found("a"), found("a")], ValueError, "two images have the name 'a'"),
        ([{key: value for key, value in found("a").items() if key != "spacing"}], KeyError, r"needs \['spacing'\]"),
        ([{key: value for key, value in found("a").items() if key != "picture"}], KeyError, r"needs \['picture'\]"),
    ],
)
def test_what_cannot_be_written_is_named(
    tmp_path: Path, batch: list[dict[str, Any]], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(LandmarkFilesHandler(tmp_path, names=NAMES, draw=Drawn()), batch)


def test_a_folder_that_cannot_be_made_is_found_out_before_the_first_image(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"):
        run(LandmarkFilesHandler(tmp_path / "file" / "out", names=NAMES), [found("a")])


def test_confidence_is_in_table_file_and_picture_and_doubts_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    drawn = Drawn()
    writer = LandmarkFilesHandler(tmp_path, names=NAMES, draw=drawn)
    items = [found(case) for case in ("a", "b", "c", "d", "e")]
    output = [{"pred": POINTS, "confidence": torch.tensor([0.9876, 0.0, 0.25])} for _ in items]
    state = SimpleNamespace(state=SimpleNamespace(batch=items, output=output))
    with caplog.at_level(logging.WARNING):
        writer.write(state)
        writer.finish(state)
    assert [row["confidence"] for row in table(tmp_path)[:3]] == ["0.988", "0.0", "0.25"]
    assert json.loads((tmp_path / "a.json").read_text())["landmarks"][2]["confidence"] == 0.25
    assert drawn.calls[0][3] == ("sella  0.99", "nasion  0.00", "orbitale  0.25")
    (record,) = caplog.records
    expected = "10 of 15 landmarks have a confidence below 0.5"
    assert record.getMessage().startswith(expected)
    assert "nasion of a (0.00), orbitale of a (0.25), nasion of b (0.00) and 7 more" in record.getMessage()
