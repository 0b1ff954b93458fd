"""The parts of a detection loss per image: assigner, box decoding, IoU and focal loss, called in ultralytics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from monai_amat.tasks.detection.network.quiet_import import from_ultralytics, moved, quietly

__all__ = ["DetectionParts", "check_raw"]

_GAINS = ("box", "cls", "dfl")
_RAW = ("boxes", "scores", "feats")


class DetectionParts:
    """The parts of the criterion of ultralytics for one of its detection models.

    Each part works on a whole batch and keeps the samples separate; only the sums of the criterion join the samples,
    and `DetectionLoss` takes these sums per sample instead.

    Boxes are in *cells* (pixels divided by the stride of their level) where ultralytics has them in cells, otherwise in
    pixels; `N` is the number of cells of all levels, `R` the number of bins in the distribution of one side of a box.

    Args:
        model: an `ultralytics` `DetectionModel` whose head gives one set of box distributions: YOLOv5, v8, v9, 11.

    Raises:
        ValueError: if the model is of another kind.

    Example:
        >>> from monai_amat.tasks.detection import YOLOv5
        >>> parts = YOLOv5(classes=3, size="n").parts
        >>> parts.classes, parts.gains
        (3, {'box': 7.5, 'cls': 0.5, 'dfl': 1.5})
    """

    def __init__(self, model: nn.Module) -> None:
        head: Any = getattr(model, "model", [None])[-1]
        if not isinstance(head, from_ultralytics("Detect")):
            raise ValueError(f"detection needs a model of ultralytics that ends in Detect, got {type(model).__name__}")
        if getattr(head, "one2one_cv2", None) is not None or head.reg_max < 2:
            raise ValueError(
                "detection needs a head with box distributions that is not end-to-end (YOLOv10 and YOLO26 have such "
                "heads); use YOLOv5, v8, v9 or 11"
            )
        self._model: Any = model
        self._criterion: Any = None

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self._head.nc)

    @property
    def gains(self) -> dict[str, float]:
        """Weights of the terms, as ultralytics sets them."""
        args = self._model.args
        return {name: float(args[name] if isinstance(args, Mapping) else getattr(args, name)) for name in _GAINS}

    def cells(self, raw: Mapping[str, Any], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Compute centres `(N, 2)` in cells, x before y, and strides `(N, 1)` in pixels, for a raw output."""
        # Only shapes and types are read; half precision cannot separate the cells of a large image.
        sizes = [level.new_empty((0, 0, *level.shape[2:]), dtype=dtype) for level in raw["feats"]]
        centres, strides = from_ultralytics("make_anchors")(sizes, self._head.stride, 0.5)
        return centres, strides

    def boxes(self, distribution: Tensor, centres: Tensor) -> Tensor:
        """Decode raw distributions `(B, N, 4·R)` to boxes `(B, N, 4)`, x1 y1 x2 y2 in cells."""
        return self._pieces(distribution).bbox_decode(centres, distribution.contiguous())

    def assign(
        self, scores: Tensor, boxes: Tensor, centres: Tensor, labels: Tensor, truths: Tensor, real: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Assign true boxes to cells (task-aligned assignment).

        Args:
            scores: `(B, N, classes)` in 0..1.
            boxes: `(B, N, 4)` predicted, in pixels.
            centres: `(N, 2)` in pixels.
            labels: `(B, M)` classes of the true boxes, 0 for padding.
            truths: `(B, M, 4)` x1 y1 x2 y2 in pixels, 0 for padding.
            real: `(B, M)` bool, False for padding.

        Returns:
            the true box of each cell `(B, N, 4)` in pixels, its target scores `(B, N, classes)`, and whether the cell
            is assigned to a box, `(B, N)`.
        """
        _, assigned, targets, answers, _ = self._pieces(boxes).assigner(
            scores, boxes, centres, labels.unsqueeze(-1), truths, real.unsqueeze(-1).to(truths.dtype)
        )
        return assigned, targets.to(scores.dtype), answers.bool()

    def class_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Binary cross-entropy `(B, N, classes)`, times the class weights if the model has any."""
        pieces = self._pieces(logits)
        loss: Tensor = pieces.bce(logits, targets)
        return loss if pieces.class_weights is None else loss * pieces.class_weights

    def iou(self, boxes: Tensor, truths: Tensor) -> Tensor:
        """Complete IoU `(n,)` of pairs of boxes `(n, 4)`."""
        return from_ultralytics("bbox_iou")(boxes, truths, xywh=False, CIoU=True).squeeze(-1)

    def distribution_loss(self, distribution: Tensor, centres: Tensor, truths: Tensor) -> Tensor:
        """Distribution focal loss `(n,)` of `(n, 4·R)` against boxes `(n, 4)`, all in cells."""
        bins = self._head.reg_max
        distances = from_ultralytics("bbox2dist")(centres, truths, bins - 1)
        return self._pieces(distribution).bbox_loss.dfl_loss(distribution.reshape(-1, bins), distances).squeeze(-1)

    def decoded(self, raw: Mapping[str, Any]) -> Tensor:
        """Decode to `(B, 4 + classes, N)`: centre x, y, width, height in pixels, and class scores."""
        distribution, logits = (_precise(raw[name]).transpose(1, 2) for name in ("boxes", "scores"))
        centres, strides = self.cells(raw, distribution.dtype)
        low, high = (self.boxes(distribution, centres) * strides).chunk(2, dim=-1)
        return torch.cat([(low + high) / 2, high - low, logits.sigmoid()], dim=-1).transpose(1, 2)

    @property
    def _head(self) -> Any:
        return self._model.model[-1]

    def _pieces(self, like: Tensor) -> Any:
        """The criterion of ultralytics, created again if the network has moved to another device."""
        if self._criterion is None or self._criterion.device != like.device:
            # Its constants must not be inference tensors, because autograd refuses them later.
            with torch.inference_mode(False), quietly():
                self._criterion = self._model.init_criterion()
        return self._criterion


def _precise(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def check_raw(raw: Any) -> None:
    """Refuse training outputs of another form.

    Raises:
        ImportError: naming the versions of ultralytics that work.
    """
    if not isinstance(raw, Mapping) or not set(_RAW) <= raw.keys():
        found = sorted(map(str, raw)) if isinstance(raw, Mapping) else type(raw).__name__
        raise ImportError(moved(f"training outputs are {found} instead of {list(_RAW)}"))
