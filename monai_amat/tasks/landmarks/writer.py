"""Predicted landmarks as files: one table of all, and per image a JSON file and a picture."""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.utils import convert_to_tensor
from monai.utils.enums import CommonKeys
from torch import Tensor

from monai_amat.files import write_text_whole
from monai_amat.wording import some

__all__ = ["LandmarkFilesHandler"]

_COLUMNS = ("case", "number", "name", "x_px", "y_px", "x_mm", "y_mm", "confidence")
_DOUBTFUL = 0.5
_DIGITS = 3


class LandmarkFilesHandler:
    """Write the landmarks of an evaluator: `landmarks.csv`, and per image `<case>.json` and `<case>.png`.

    Coordinates are given in native pixels, with centres at integers, so that the middle of the first pixel is 0, and in
    mm from the upper left corner of the image, `(pixel + 1/2) · spacing`. A landmark that was not found has empty cells
    in the table and `null` in the JSON file. The confidence of each landmark stands in the table, the JSON file and the
    key of the picture; landmarks below 0.5 are counted in a warning at the end.

    The evaluator decollates; each item of `engine.state.output` holds `pred`, landmarks `(L, 2)`, (y, x) in native
    pixels, and optionally `confidence` `(L,)`, as `PredictedLandmarksd` makes them; `case`, `spacing` and `picture` are
    read from the items of the batch. The files of an image are written as soon as it is done, the table at the end.

    Args:
        output_dir: folder of all files; created if necessary.
        names: names of the L landmarks.
        draw: `draw(picture, points, path, names=…)` draws the picture, for example `draw_landmarks`; None for no
            pictures.
        picture_key: the image as it was loaded, with its affine, to draw on.

    Attributes:
        rows: rows of the table.

    Raises:
        KeyError: during the run, if an item lacks one of these keys.
        ValueError: during the run, if the numbers of landmarks and names differ, or two images have one name.

    Example:
        >>> import tempfile
        >>> from types import SimpleNamespace
        >>> writer = LandmarkFilesHandler(tempfile.mkdtemp(), names=["sella"])
        >>> item = {"case": "017", "spacing": torch.tensor([0.1, 0.1]), "pred": torch.tensor([[99.5, 199.5]])}
        >>> writer.write(SimpleNamespace(state=SimpleNamespace(batch=[item], output=[item])))
        >>> print((writer.output_dir / "017.json").read_text()[:76])
        {
          "case": "017",
          "spacing_mm": [
            0.1,
            0.1
          ],
          "landmarks": [
        >>> [writer.rows[0][axis] for axis in ("x_px", "y_px", "x_mm", "y_mm")]
        [199.5, 99.5, 20.0, 10.0]
    """

    def __init__(
        self,
        output_dir: str | Path,
        *,
        names: Sequence[str],
        draw: Callable[..., Any] | None = None,
        picture_key: str = "picture",
    ) -> None:
        self.output_dir = Path(output_dir)
        self.names = tuple(names)
        self.draw = draw
        self.picture_key = picture_key
        self.rows: list[dict[str, Any]] = []
        self._logger = logging.getLogger(__name__)

    def attach(self, engine: Any) -> None:
        """Attach to a `SupervisedEvaluator` that decollates."""
        # A folder that cannot be created is reported before the first image.
        self.output_dir.mkdir(parents=True, exist_ok=True)
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.write)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def start(self, engine: Any) -> None:
        """Begin a new table."""
        self.rows = []

    def write(self, engine: Any) -> None:
        """Write the files of every image of the batch."""
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            needed = ("case", "spacing", *(() if self.draw is None else (self.picture_key,)))
            if missing := [key for key in needed if key not in item]:
                raise KeyError(
                    f"LandmarkFilesHandler needs {missing} in the batch, got items with {sorted(map(str, item))}"
                )
            found = output[CommonKeys.PRED], output.get("confidence")
            self._write(str(item["case"]), *found, item["spacing"], item.get(self.picture_key))

    def finish(self, engine: Any) -> None:
        """Write the table of all images."""
        text = io.StringIO()
        table = csv.DictWriter(text, fieldnames=_COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(self.rows)
        write_text_whole(self.output_dir / "landmarks.csv", text.getvalue())
        missing = sum(row["x_px"] is None for row in self.rows)
        images = len(self.rows) // len(self.names)
        doubtful = [row for row in self.rows if row.get("confidence", 1.0) < _DOUBTFUL]
        if doubtful:
            listed = some(f"{row['name']} of {row['case']} ({row['confidence']:.2f})" for row in doubtful)
            self._logger.warning(
                "%d of %d landmarks have a confidence below %s, because their heat maps are flat or ambiguous: %s; "
                "check "
                "them in the pictures, and the network and its image size where they are many",
                len(doubtful),
                len(self.rows),
                _DOUBTFUL,
                listed,
            )
        self._logger.info(
            "landmarks of %d image(s), %d not found: %s", images, missing, self.output_dir / "landmarks.csv"
        )

    def _write(self, case: str, points: Tensor, confidence: Any, spacing: Tensor, picture: Any) -> None:
        points, spacing = (convert_to_tensor(value, track_meta=False).detach().cpu() for value in (points, spacing))
        if points.shape != (len(self.names), 2):
            raise ValueError(
                f"'{case}': expected landmarks ({len(self.names)}, 2), one for each name, got {tuple(points.shape)}"
            )
        if any(row["case"] == case for row in self.rows):
            raise ValueError(f"two images have the name '{case}', and their files would replace each other; rename one")
        sure = [None] * len(self.names) if confidence is None else [round(float(value), 3) for value in confidence]
        rows = [
            _row(name, point, spacing) | ({} if share is None else {"confidence": share})
            for name, point, share in zip(self.names, points, sure, strict=True)
        ]
        landmarks: list[dict[str, Any]] = [{"number": number, **row} for number, row in enumerate(rows, 1)]
        self.rows += [{"case": case, **landmark} for landmark in landmarks]
        content = {"case": case, "spacing_mm": [round(value, 6) for value in spacing.tolist()], "landmarks": landmarks}
        write_text_whole(self.output_dir / f"{case}.json", json.dumps(content, indent=2) + "\n")
        if self.draw is not None:
            keys = zip(self.names, sure, strict=True)
            names = tuple(name if share is None else f"{name}  {share:.2f}" for name, share in keys)
            self.draw(picture, points, self.output_dir / f"{case}.png", names=names)


def _row(name: str, point: Tensor, spacing: Tensor) -> dict[str, Any]:
    """Row of one landmark, x before y as in the files of the challenge."""
    if not bool(torch.isfinite(point).all()):
        return {"name": name, "x_px": None, "y_px": None, "x_mm": None, "y_mm": None}
    pixels, mm = point.double(), (point.double() + 0.5) * spacing.double()
    y_px, x_px, y_mm, x_mm = (round(value, _DIGITS) for value in (*pixels.tolist(), *mm.tolist()))
    return {"name": name, "x_px": x_px, "y_px": y_px, "x_mm": x_mm, "y_mm": y_mm}
