from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.engines import SupervisedEvaluator
from PIL import Image

from monai_amat.tasks.detection import DetectionFilesHandler

FOUND = torch.tensor([[2.0, 3, 20.25, 21.126, 0.5, 1], [30.0, 5, 44, 30, 0.91234, 0]])


class Given(torch.nn.Module):
    """Passes detections for those of a network."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image


def item(folder: Path, name: str, found: torch.Tensor, **changes: Any) -> dict[str, Any]:
    return {
        "image": found[None],
        "file": [str(folder / name)],
        "picture": torch.full((1, 3, 40, 50), 0.5),
        "native_size": torch.tensor([[40, 50]]),
        **changes,
    }


def evaluate(handler: DetectionFilesHandler, batches: list[dict[str, Any]]) -> None:
    SupervisedEvaluator(
        device="cpu",  # type: ignore[arg-type]
        val_data_loader=batches,
        network=Given(),
        val_handlers=[handler],
    ).run()


def test_there_are_a_table_and_a_file_and_a_picture_of_each_image(tmp_path: Path) -> None:
    batches = [
        item(tmp_path / "in", "smear.1.jpg", FOUND),
        item(tmp_path / "in", "empty.png", torch.zeros(0, 6)),
    ]
    output = tmp_path / "out"
    handler = DetectionFilesHandler(output, ["RBC", "WBC"])
    for _ in range(2):  # a second run starts anew
        evaluate(handler, batches)
    assert sorted(path.name for path in output.iterdir()) == [
        *("detections.csv", "empty_pred.json", "empty_pred.png", "smear.1_pred.json", "smear.1_pred.png")
    ]
    written = json.loads((output / "smear.1_pred.json").read_text())
    assert (written["image"], written["width"], written["height"]) == ("smear.1.jpg", 50, 40)
    assert written["objects"] == [
        {"class": "RBC", "score": 0.9123, "box": [30.0, 5.0, 44.0, 30.0]},
        {"class": "WBC", "score": 0.5, "box": [2.0, 3.0, 20.25, 21.13]},
    ]
    assert json.loads((output / "empty_pred.json").read_text())["objects"] == []
    with (output / "detections.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["image"], row["class"], row["x1"], row["y2"]) for row in rows] == [
        *(("smear.1.jpg", "RBC", "30.0", "30.0"), ("smear.1.jpg", "WBC", "2.0", "21.13"))
    ]
    drawn, blank = (np.asarray(Image.open(output / f"{name}_pred.png")) for name in ("smear.1", "empty"))
    assert drawn.shape == blank.shape == (40, 50, 3)
    assert (blank == 128).all()
    assert (drawn[29, 30:44] != 128).any(axis=-1).all()  # the lower edge of the first box
    assert (drawn[33:, :28] == 128).all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"file": ["out/a.png"]}, ValueError, "must differ from the folder of the images"),
        ({"image": torch.tensor([[[0.0, 0, 9, 9, 0.5, 2]]])}, ValueError, "class_names must name class 2"),
        ({"picture": None}, KeyError, r"needs \['picture'\]"),
    ],
)
def test_what_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    batch = {key: value for key, value in {**item(tmp_path, "a.jpg", FOUND), **change}.items() if value is not None}
    with pytest.raises(error, match=message):
        evaluate(DetectionFilesHandler("out", ["RBC", "WBC"]), [batch])
    assert not (tmp_path / "out" / "detections.csv").exists()
