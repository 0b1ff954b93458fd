"""Average IoU and mAP: sums and matched detections of each image, and the figures of any set of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from monai_amat.checks import check_within
from monai_amat.tasks.detection.average_iou import MIN_SCORE, average_iou, iou_sums
from monai_amat.tasks.detection.detections import Decode, check_classes, samples
from monai_amat.tasks.detection.mean_average_precision import (
    IOU_THRESHOLDS,
    MAX_DETECTIONS,
    Matches,
    match_detections,
    mean_average_precision,
)

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["DetectionMetric"]

_PARTS = ("true", "iou_true", "detected", "iou_detected")
_NONE = "none"


class DetectionMetric:
    """Average IoU in both readings and mAP of a detector, as a `monai_amat.handlers.Metric`. Higher is better.

    mAP ranks the detections of all images by score, so a row must hold all of its image's detections: the text column
    `detections` has, for each detection, its class, its score and, with one digit per threshold from .5 to .95, whether
    it is right.

    Args:
        classes: names of the classes.
        min_score: detections below do not count for the average IoU; for mAP all do.
        max_detections: only the best ones of an image count.
        decode: makes detections, down to low scores, of the network's output, where that comes instead.

    Raises:
        ValueError: for a setting out of range.

    Example:
        >>> import pandas as pd
        >>> metric = DetectionMetric(classes=["RBC"])
        >>> found = [torch.tensor([[0.0, 0.0, 9.0, 9.0, 0.75, 0.0]])]
        >>> columns = metric.columns(found, torch.tensor([[[0.0, 0.0, 0.0, 10.0, 10.0]]]))
        >>> columns["detections"], columns["iou_true_RBC"]
        (['0:0.75:1111111000'], tensor([0.8100], dtype=torch.float64))
        >>> {name: round(value, 2) for name, value in list(metric.summary(pd.DataFrame(columns)).items())[:4]}
        {'iou_true': 0.81, 'iou_detected': 0.81, 'map': 0.7, 'map50': 1.0}
    """

    def __init__(
        self,
        *,
        classes: Sequence[str],
        min_score: float = MIN_SCORE,
        max_detections: int = MAX_DETECTIONS,
        decode: Decode | None = None,
    ) -> None:
        self.classes = check_classes(classes)
        check_within("max_detections", max_detections, 1)
        self.min_score = min_score
        self.max_detections = max_detections
        self.decode = decode

    def columns(self, pred: Sequence[Tensor] | Tensor, target: Sequence[Tensor] | Tensor) -> dict[str, Any]:
        """Numbers and matched detections of each image.

        Args:
            pred: for each image `(n, 6)`, rows `x1 y1 x2 y2 score class`, down to low scores; with `decode` what
                that takes.
            target: `(B, max_boxes, 5)`, rows `class x1 y1 x2 y2`, class -1 for padding.

        Returns:
            for each class c `true_c` and `detected_c`, numbers of objects, `iou_true_c` and `iou_detected_c`,
            their summed overlaps (see `iou_sums`), each `(B,)` float64; and
            `detections`, one text per image.
        """
        batch = samples(pred, target, len(self.classes), decode=self.decode)
        sums = iou_sums(batch, len(self.classes), min_score=self.min_score)
        columns: dict[str, Any] = {name: sums[:, c, part] for name, c, part in self._names()}
        matches = match_detections(batch, len(self.classes), max_detections=self.max_detections)
        return columns | {"detections": _to_text(matches)}

    def summary(self, rows: pd.DataFrame, weights: np.ndarray | None = None) -> dict[str, Any]:
        """All figures over `rows`.

        Args:
            rows: one row per image, with the columns of `columns`.
            weights: `(*R, rows)`, how often each row counts; once by default.

        Returns:
            `iou_true` (over all true objects), `iou_detected` (over all detections: the paper's words), `map` at
            .5:.95, `map50` at .5, and `iou_true_c`, `iou_detected_c`, `map_c`, `map50_c` of each class c;
            floats, or with weights arrays `(*R)`. NaN where nothing counts.

        Raises:
            ValueError: for a text that is not one of `columns`.
        """
        numbers = np.stack([rows[name].to_numpy(np.float64) for name, _, _ in self._names()], axis=1)
        sums = torch.from_numpy(numbers).reshape(len(rows), len(self.classes), len(_PARTS))
        matches = _from_text(rows["detections"].tolist(), sums[..., 0].long())
        shares = None if weights is None else torch.from_numpy(np.asarray(weights, dtype=np.float64))
        true = average_iou(sums, over="true", weights=shares)
        detected = average_iou(sums, over="detected", weights=shares)
        precision = mean_average_precision(matches, weights=shares)
        named = {"iou_true": true.mean, "iou_detected": detected.mean, "map": precision.map, "map50": precision.map50}
        for kind, per_class in (
            ("iou_true", true.per_class),
            ("iou_detected", detected.per_class),
            ("map", precision.per_class),
            ("map50", precision.per_class50),
        ):
            named |= {f"{kind}_{name}": per_class[..., c] for c, name in enumerate(self.classes)}
        return {name: value.item() if weights is None else value.numpy() for name, value in named.items()}

    def higher_is_better(self, figure: str | None = None) -> bool:
        """True of every figure."""
        return True

    def _names(self) -> list[tuple[str, int, int]]:
        return [(f"{part}_{name}", c, p) for c, name in enumerate(self.classes) for p, part in enumerate(_PARTS)]


def _to_text(matches: Matches) -> list[str]:
    """The detections of each image, `class:score:right` with a blank between them."""
    texts = []
    for scores, labels, right in zip(
        matches.scores.numpy(), matches.labels.tolist(), matches.right.tolist(), strict=True
    ):
        # The shortest text that gives the same float32 again.
        shown = [np.format_float_positional(score, trim="-") for score in scores]
        digits = [f"{bits:0{len(IOU_THRESHOLDS)}b}"[::-1] for bits in right]
        found = [f"{c}:{s}:{d}" for c, s, d in zip(labels, shown, digits, strict=True) if c >= 0]
        texts.append(" ".join(found) or _NONE)
    return texts


def _from_text(texts: Sequence[str], true: Tensor) -> Matches:
    try:
        rows = [[entry.split(":") for entry in text.split(" ")] if text != _NONE else [] for text in texts]
        most = max((len(row) for row in rows), default=0)
        scores, labels = torch.full((len(rows), most), torch.nan), torch.full((len(rows), most), -1)
        right = torch.zeros(len(rows), most, dtype=torch.int64)
        for i, row in enumerate(rows):
            labels[i, : len(row)] = torch.tensor([int(c) for c, _, _ in row])
            scores[i, : len(row)] = torch.from_numpy(np.array([s for _, s, _ in row], dtype=np.float32))
            right[i, : len(row)] = torch.tensor([int(d[::-1], 2) for _, _, d in row])
    except (ValueError, AttributeError) as error:
        raise ValueError(f"a text under 'detections' is not one of DetectionMetric.columns: {error}") from error
    return Matches(scores, labels, right, true)
