"""The loss of a classic YOLOv5 network, one value per image and term: box, objectness and class of the paper."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from monai_amat.checks import check_positive
from monai_amat.losses.base import PerSampleLoss, full_precision
from monai_amat.tasks.detection.loss.padded_boxes import padded_boxes

__all__ = ["ClassicYOLOv5Loss"]

_TERMS = ("box", "obj", "cls")


class ClassicYOLOv5Loss(PerSampleLoss):
    """Box (CIoU), objectness and class loss of each image (section 3.3); terms `"box"`, `"obj"`, `"cls"`.

    The terms are those that a `ComputeLoss` from the user's clone of `ultralytics/yolov5` gives for that image alone,
    including its gains in `hyp`. `ComputeLoss` averages over all objects and cells of a batch and returns its terms
    without gradient; therefore it is called once per image, and where a gradient is needed once per term, with the
    gains of the other terms at 0. A batch of B images then takes 3·B calls.

    Args:
        compute_loss: `compute_loss(levels, targets) -> (loss, items)`: `levels` a list of tensors
            `(B, anchors, h, w, 5 + classes)`; `targets` `(n, 6)`, rows of image, class, centre x and y, width and
            height, the last four relative to the image size; `loss` the sum of the terms times B, `items` the terms.
            Its `hyp` holds the gains `box`, `obj` and `cls`.
        stride: pixels per cell of the first level.
        weights: weights of the three terms in the total, in addition to the gains; 1 each by default.

    Raises:
        TypeError: if `compute_loss` is not such an object.
        ValueError: if it balances its terms by earlier batches (`autobalance`), or a setting is out of range.
    """

    def __init__(
        self,
        compute_loss: Callable[..., tuple[Tensor, Tensor]],
        *,
        stride: float = 8.0,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(weights=weights, judged=_TERMS)
        if unknown := self.weights.keys() - set(_TERMS):
            raise ValueError(f"weights must name terms of {list(_TERMS)}, got {sorted(unknown)}")
        check_positive("stride", stride)
        gains = getattr(compute_loss, "hyp", None)
        if not isinstance(gains, Mapping) or not set(_TERMS) <= gains.keys():
            raise TypeError(
                f"compute_loss must be a ComputeLoss of YOLOv5, whose hyp holds the gains {', '.join(_TERMS)}, got "
                f"{type(compute_loss).__name__} with hyp of type {type(gains).__name__}"
            )
        if getattr(compute_loss, "autobalance", False):
            raise ValueError(
                "compute_loss must not have autobalance on, because the loss of an image would depend on earlier "
                "images; build it with autobalance=False"
            )
        self.stride = float(stride)
        self._compute: Any = compute_loss

    def terms(self, pred: Any, target: Any) -> dict[str, Tensor]:
        """The three terms of each image.

        Args:
            pred: the network's output in training mode, or the output of `ClassicYOLOv5.raw`.
            target: `(B, max_boxes, 5)`, see `padded_boxes`.

        Raises:
            TypeError: if the prediction is already decoded.
            ValueError: if the target has another shape, or a class that the network does not have.
        """
        levels = [full_precision(level) for level in _levels(pred)]
        first = levels[0]
        boxes = padded_boxes(target, len(first), first.shape[-1] - 5)
        size = torch.tensor([first.shape[3], first.shape[2]], device=first.device) * self.stride
        low, high = boxes.corners.chunk(2, dim=-1)
        rows = torch.cat([(low + high) / 2 / size, (high - low) / size], dim=-1)
        labels = boxes.labels.unsqueeze(-1).to(rows.dtype)
        rows = torch.cat([torch.zeros_like(labels), labels, rows], dim=-1)
        found: list[Tensor] = []
        with torch.autocast(first.device.type, enabled=False):
            for i in range(len(first)):
                found.append(self._image([level[i : i + 1] for level in levels], rows[i][boxes.real[i]]))
        terms = torch.stack(found) if found else first.new_zeros((0, len(_TERMS)))
        return dict(zip(_TERMS, terms.unbind(1), strict=True))

    def prediction(self, pred: Any, target: Any) -> Any:
        """Decoded boxes and scores `(B, 4 + classes, N)` in evaluation mode; in training mode `pred` itself."""
        return pred["decoded"] if isinstance(pred, Mapping) and "decoded" in pred else pred

    def _image(self, levels: list[Tensor], targets: Tensor) -> Tensor:
        """The terms `(3,)` of one image."""
        if torch.is_grad_enabled() and any(level.requires_grad for level in levels):
            return torch.stack([self._only(name, levels, targets) for name in _TERMS])
        _, items = self._compute(levels, targets)
        return full_precision(items.detach()).reshape(-1)[: len(_TERMS)]

    def _only(self, name: str, levels: list[Tensor], targets: Tensor) -> Tensor:
        with self._gains({other: 0.0 for other in _TERMS if other != name}):
            loss, _ = self._compute(levels, targets)
        return full_precision(loss).sum()

    @contextmanager
    def _gains(self, changes: Mapping[str, float]) -> Iterator[None]:
        # A copy, because the model and the optimiser of the clone read the same dictionary.
        before = self._compute.hyp
        self._compute.hyp = {**before, **changes}
        try:
            yield
        finally:
            self._compute.hyp = before


def _levels(pred: Any) -> list[Tensor]:
    found = pred.get("levels") if isinstance(pred, Mapping) else pred
    if isinstance(found, list | tuple) and found and all(isinstance(v, Tensor) and v.ndim == 5 for v in found):
        return list(found)
    shapes = [tuple(leaf.shape) if isinstance(leaf, Tensor) else type(leaf).__name__ for leaf in tree_leaves(pred)]
    raise TypeError(
        f"pred must be a list of tensors (B, anchors, h, w, 5 + classes), got {type(pred).__name__} of {shapes}; "
        "in evaluation mode wrap the network in monai_amat.tasks.detection.ClassicYOLOv5 and give inferer="
        "monai_amat.engines.RawOutputsInferer()"
    )
