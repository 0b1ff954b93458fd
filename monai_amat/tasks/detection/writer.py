"""Detections as files: one table of all, and per image a JSON file and a picture."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from torch import Tensor

from monai_amat.files import write_text_whole
from monai_amat.tasks.detection.drawing import draw_boxes

__all__ = ["DetectionFilesHandler"]

_COLUMNS = ("image", "class", "score", "x1", "y1", "x2", "y2")


class DetectionFilesHandler:
    """Write the detections of an evaluator: for `<name>.jpg` files `<name>_pred.json` and `<name>_pred.png`.

    `detections.csv`, written at the end of the run, has one row per object, in the order of images and scores; an image
    without objects has a JSON file with an empty list, and no row.

    Attach it to a `SupervisedEvaluator` that decollates, with a post-processing that returns boxes in native pixels
    (`BoxesToNatived`).

    Args:
        output_dir: folder of the files; must differ from the folder of the images.
        class_names: names of the classes.
        pred_key: detections `(n, 6)`, rows x1 y1 x2 y2 score class, in pixels of the picture.
        file_key: path of the image.
        picture_key: the stored picture `(3, H, W)` from 0 to 1, to draw on.
        size_key: its size `(H, W)`.

    Raises:
        KeyError: during the run, if an item lacks one of the keys.
        ValueError: during the run, if `output_dir` is the folder of the images, or a class has no name.
    """

    def __init__(
        self,
        output_dir: str | Path,
        class_names: Sequence[str],
        *,
        pred_key: str = "pred",
        file_key: str = "file",
        picture_key: str = "picture",
        size_key: str = "native_size",
    ) -> None:
        self.output_dir = Path(output_dir)
        self.class_names = tuple(class_names)
        self.pred_key = pred_key
        self.file_key = file_key
        self.picture_key = picture_key
        self.size_key = size_key
        self._rows: list[dict[str, Any]] = []

    def attach(self, engine: Any) -> None:
        """Attach to an evaluator."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._write)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _start(self, engine: Any) -> None:
        self._rows = []

    def _write(self, engine: Any) -> None:
        for given, made in zip(engine.state.batch, engine.state.output, strict=True):
            item = {**given, **made}
            missing = [
                key for key in (self.pred_key, self.file_key, self.picture_key, self.size_key) if key not in item
            ]
            if missing:
                raise KeyError(
                    f"DetectionFilesHandler needs {missing}, got items with {sorted(map(str, item))}; correct the keys"
                )
            self._write_image(item)

    def _write_image(self, item: Mapping[str, Any]) -> None:
        file = Path(item[self.file_key])
        if file.parent.resolve() == self.output_dir.resolve():
            raise ValueError(
                f"output_dir must differ from the folder of the images, got {self.output_dir}; choose another folder"
            )
        found = torch.as_tensor(item[self.pred_key]).as_subclass(Tensor).cpu().float()
        found = found[found[:, 4].argsort(descending=True, stable=True)]
        labels = found[:, 5].long()
        if len(labels) and not 0 <= int(labels.max()) < len(self.class_names):
            raise ValueError(f"class_names must name class {int(labels.max())}, got {list(self.class_names)}")
        objects = [
            {
                "class": self.class_names[label],
                "score": round(score, 4),
                "box": [round(side, 2) for side in box],
            }
            for box, score, label in zip(found[:, :4].tolist(), found[:, 4].tolist(), labels.tolist(), strict=True)
        ]
        height, width = (int(side) for side in item[self.size_key])
        header = {
            "image": file.name,
            "width": width,
            "height": height,
            "box": "x1 y1 x2 y2 in pixels from the top left",
        }
        name = self.output_dir / f"{file.stem}_pred"
        write_text_whole(
            name.with_name(f"{name.name}.json"), json.dumps({**header, "objects": objects}, indent=2) + "\n"
        )
        draw_boxes(
            item[self.picture_key],
            found[:, :4],
            labels,
            found[:, 4],
            name.with_name(f"{name.name}.png"),
            class_names=self.class_names,
        )
        for one in objects:
            corners = dict(zip(_COLUMNS[3:], one["box"], strict=True))
            self._rows.append({"image": file.name, "class": one["class"], "score": one["score"], **corners})

    def _finish(self, engine: Any) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        write_text_whole(self.output_dir / "detections.csv", text.getvalue())
