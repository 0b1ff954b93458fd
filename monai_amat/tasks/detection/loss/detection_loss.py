"""The loss of a detector without anchors, one value per image and term."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from monai_amat.losses.base import PerSampleLoss, full_precision
from monai_amat.tasks.detection.loss.padded_boxes import padded_boxes

__all__ = ["DetectionLoss", "DetectionPieces"]


class DetectionPieces(Protocol):
    """The parts that the loss is built from; `DetectionParts` documents each of them."""

    @property
    def classes(self) -> int:
        """Number of classes."""

    @property
    def gains(self) -> dict[str, float]:
        """Weights of the terms `box`, `cls` and `dfl`."""

    def cells(self, raw: Mapping[str, Any], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Centres and strides of the cells."""

    def boxes(self, distribution: Tensor, centres: Tensor) -> Tensor:
        """Predicted boxes in cells."""

    def assign(
        self, scores: Tensor, boxes: Tensor, centres: Tensor, labels: Tensor, truths: Tensor, real: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """True box and target scores of each cell, and whether the cell is assigned to a box."""

    def class_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Loss of each class score."""

    def iou(self, boxes: Tensor, truths: Tensor) -> Tensor:
        """IoU of pairs of boxes."""

    def distribution_loss(self, distribution: Tensor, centres: Tensor, truths: Tensor) -> Tensor:
        """Loss of the distributions of boxes' sides."""

    def decoded(self, raw: Mapping[str, Any]) -> Tensor:
        """Decoded boxes and scores."""


class DetectionLoss(PerSampleLoss):
    r"""Box, class and distribution focal loss of each image; terms `"box"`, `"cls"` and `"dfl"`, all judged.

    Let $t_{ac}$ be the target score of cell a for class c, as the assigner gives it to cells that are assigned to a
    true box (0 elsewhere), $w_a = \sum_c t_{ac}$, and $W = \max(1, \sum_a w_a)$ over the cells of *this image*. Then

    $$
    L_{box} = \frac1W \sum_a w_a (1 - CIoU_a), \quad
    L_{cls} = \frac1W \sum_{a,c} BCE(p_{ac}, t_{ac}), \quad
    L_{dfl} = \frac1W \sum_a w_a \, DFL_a.
    $$

    Assigner, box decoding, IoU and the losses of single cells are those of ultralytics. Its own criterion takes W over
    the whole batch, so that the loss of an image depends on the other images; for a batch of one image this loss, with
    the default weights, equals that criterion. An image without objects has only the class term, with W = 1.

    Args:
        network: a `YOLOv5`, or its `parts`.
        weights: weights of the three terms; by default the gains of ultralytics (7.5, 0.5, 1.5).

    Raises:
        TypeError: if the network has no `parts`.
        ValueError: if a weight names another term.

    Example:
        >>> from monai_amat.tasks.detection import YOLOv5
        >>> network = YOLOv5(classes=3, size="n").train()
        >>> target = torch.tensor([[[0.0, 8, 8, 40, 40]], [[-1, 0, 0, 0, 0]]])  # one object, none
        >>> terms = DetectionLoss(network).terms(network(torch.zeros(2, 3, 64, 64)), target)
        >>> {name: (value > 0).tolist() for name, value in terms.items()}
        {'box': [True, False], 'cls': [True, True], 'dfl': [True, False]}
    """

    def __init__(self, network: Any, *, weights: Mapping[str, float] | None = None) -> None:
        pieces: DetectionPieces = getattr(network, "parts", network)
        if not hasattr(pieces, "gains"):
            raise TypeError(
                f"DetectionLoss needs a monai_amat.tasks.detection.YOLOv5 (before DDP and compile wrap it), got "
                f"{type(network).__name__}"
            )
        super().__init__(weights={**pieces.gains, **(weights or {})}, judged=("box", "cls", "dfl"))
        if unknown := self.weights.keys() - set(self.judged):
            raise ValueError(f"weights must name terms of {list(self.judged)}, got {sorted(unknown)}")
        self._pieces = pieces

    def terms(self, pred: Any, target: Any) -> dict[str, Tensor]:
        """The three terms of each image, computed in single precision under autocast too.

        Args:
            pred: the network's output in training mode, or its `raw` in evaluation mode.
            target: `(B, max_boxes, 5)`, see `padded_boxes`.

        Raises:
            TypeError: if the prediction is already decoded.
            ValueError: if the target has another shape, or a class that the network does not have.
        """
        raw = _raw(pred)
        with torch.autocast(raw["scores"].device.type, enabled=False):
            return self._terms(raw, target)

    def prediction(self, pred: Any, target: Any) -> Tensor:
        """Decoded boxes and scores `(B, 4 + classes, N)`, as the network gives them in evaluation mode."""
        raw = _raw(pred)
        with torch.no_grad(), torch.autocast(raw["scores"].device.type, enabled=False):
            return self._pieces.decoded(raw)

    def _terms(self, raw: Mapping[str, Any], target: Any) -> dict[str, Tensor]:
        pieces = self._pieces
        sides, logits = (full_precision(raw[name]).transpose(1, 2).contiguous() for name in ("boxes", "scores"))
        truths = padded_boxes(target, len(logits), pieces.classes)
        centres, strides = pieces.cells(raw, logits.dtype)
        boxes = pieces.boxes(sides, centres)
        with torch.no_grad():
            assigned, targets, answers = pieces.assign(
                logits.sigmoid(), boxes * strides, centres * strides, truths.labels, truths.corners, truths.real
            )
            share = targets.sum((1, 2)).clamp(min=1)
            chosen = answers.nonzero(as_tuple=True)
            weight = targets[chosen].sum(-1)
            truth, centre = (assigned / strides)[chosen], centres[chosen[1]]
        box = (1 - pieces.iou(boxes[chosen], truth)) * weight
        dfl = pieces.distribution_loss(sides[chosen], centre, truth) * weight
        sums = {
            "box": _by_image(box, chosen, answers),
            "cls": pieces.class_loss(logits, targets).sum((1, 2)),
            "dfl": _by_image(dfl, chosen, answers),
        }
        return {name: value / share for name, value in sums.items()}


def _by_image(values: Tensor, chosen: tuple[Tensor, ...], answers: Tensor) -> Tensor:
    """Sums `(B,)` of the values of the chosen cells, without adding by index, which has no fixed order on a GPU."""
    return values.new_zeros(answers.shape).index_put(chosen, values).sum(1)


def _raw(pred: Any) -> Mapping[str, Any]:
    if isinstance(pred, Mapping) and {"boxes", "scores", "feats"} <= pred.keys():
        return pred
    if isinstance(pred, Tensor):
        raise TypeError(
            f"pred must be the raw output of the network, got decoded boxes {tuple(pred.shape)} of evaluation mode; "
            "evaluate with inferer=monai_amat.engines.RawOutputsInferer(), in PrepareBatchNoisy or RobustnessCurve "
            "and in the evaluator"
        )
    found = sorted(map(str, pred)) if isinstance(pred, Mapping) else type(pred).__name__
    raise TypeError(f"pred must hold the raw 'boxes', 'scores' and 'feats' of a YOLOv5 network, got {found}")
