"""What detection metrics are fed: detections as lists, truths as padded tensors, both checked; and their overlaps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Decode", "Sample", "check_classes", "overlaps", "samples"]


Decode = Callable[[Tensor], Sequence[Tensor]]
"""`decode(pred)`: from a network's output `(B, …)` the detections of each image, `(n, 6)`; for YOLOv5
`functools.partial(monai_amat.tasks.detection.decode_detections, conf=0.001)`."""


class Sample(NamedTuple):
    """One image's boxes, on the CPU.

    Args:
        found: `(n, 4)` float32, detected boxes, the best score first.
        scores: `(n,)` float32.
        found_classes: `(n,)` int64.
        true: `(m, 4)` float32, true boxes.
        true_classes: `(m,)` int64.
    """

    found: Tensor
    scores: Tensor
    found_classes: Tensor
    true: Tensor
    true_classes: Tensor


def samples(
    pred: Sequence[Tensor] | Tensor,
    target: Sequence[Tensor] | Tensor,
    classes: int,
    *,
    decode: Decode | None = None,
) -> list[Sample]:
    """Take a batch apart and check it.

    Args:
        pred: for each image `(n, 6)`, rows `x1 y1 x2 y2 score class`; with `decode` what it takes, as a batch or
            as a list of its samples.
        target: for each image `(max_boxes, 5)`, rows `class x1 y1 x2 y2`, class -1 for padding.
        classes: number of classes; they are 0 to `classes - 1`.
        decode: makes detections of `pred`.

    Raises:
        ValueError: for another shape, or where a box or score is not finite, a box has its corners swapped, or a class
            is none.

    Example:
        >>> sample = samples([torch.tensor([[0.0, 0.0, 4.0, 4.0, 0.9, 1.0]])], torch.full((1, 3, 5), -1.0), 2)[0]
        >>> tuple(sample.found.shape), sample.found_classes, tuple(sample.true.shape)
        ((1, 4), tensor([1]), (0, 4))
    """
    if decode is not None:
        pred = decode(pred if isinstance(pred, Tensor) else torch.stack(list(pred)))
    if len(pred) != len(target):
        raise ValueError(f"detections of {len(pred)} images do not go with targets of {len(target)}")
    return [_sample(i, of_image, truth, classes) for i, (of_image, truth) in enumerate(zip(pred, target, strict=True))]


def overlaps(sample: Sample) -> Tensor:
    """IoU of each detection and true box of one class, 0 where the classes differ: `(n, m)` float64.

    MONAI's `box_iou` rounds to float32, by which an overlap of exactly .7 would miss a threshold of .7.

    Example:
        >>> true = torch.tensor([[0.0, 0.0, 4.0, 2.0], [0.0, 0.0, 4.0, 4.0]])
        >>> overlaps(Sample(true[1:], torch.ones(1), torch.tensor([0]), true, torch.tensor([0, 1])))
        tensor([[0.5000, 0.0000]], dtype=torch.float64)
    """
    found, true = sample.found.double()[:, None], sample.true.double()
    low, high = torch.maximum(found[..., :2], true[:, :2]), torch.minimum(found[..., 2:], true[:, 2:])
    shared = (high - low).clamp(min=0).prod(dim=-1)
    together = sum((box[..., 2:] - box[..., :2]).prod(dim=-1) for box in (found, true)) - shared
    same = sample.found_classes[:, None] == sample.true_classes
    return torch.where(same & (together > 0), shared / together, 0.0)


def check_classes(classes: Sequence[str]) -> tuple[str, ...]:
    """Names of classes, refused where figures would share a name.

    Raises:
        ValueError: for no name, or one that comes twice.
    """
    names = (classes,) if isinstance(classes, str) else tuple(classes)
    if isinstance(classes, str) or not names or len(set(names)) < len(names):
        raise ValueError(f"classes must be a list of different names, at least one, got {classes!r}")
    return names


def _sample(number: int, pred: Tensor, target: Tensor, classes: int) -> Sample:
    found, truth = (part.as_subclass(Tensor).detach().cpu().float() for part in (pred, target))
    if found.ndim != 2 or found.shape[1] != 6:
        raise ValueError(
            f"detections of image {number} must be (n, 6), rows x1 y1 x2 y2 score class, got {tuple(found.shape)}; "
            "a network's own output needs decode="
        )
    if truth.ndim != 2 or truth.shape[1] != 5:
        raise ValueError(
            f"targets of image {number} must be (max_boxes, 5), rows class x1 y1 x2 y2, got {tuple(truth.shape)}"
        )
    truth = truth[truth[:, 0] != -1]
    found = found[found[:, 4].argsort(descending=True, stable=True)]
    _check(f"detections of image {number}", found[:, :4], found[:, 5], classes)
    _check(f"targets of image {number}", truth[:, 1:], truth[:, 0], classes)
    if not bool(found[:, 4].isfinite().all()):
        raise ValueError(f"detections of image {number} have a score that is not finite")
    return Sample(found[:, :4], found[:, 4], found[:, 5].long(), truth[:, 1:], truth[:, 0].long())


def _check(what: str, boxes: Tensor, labels: Tensor, classes: int) -> None:
    if not bool(((boxes[:, 2:] >= boxes[:, :2]).all(dim=1) & boxes.isfinite().all(dim=1)).all()):
        raise ValueError(f"{what} hold a box that is not finite or has x2 < x1 or y2 < y1")
    if not bool(((labels >= 0) & (labels < classes) & (labels == labels.round())).all()):
        raise ValueError(f"{what} hold a class that is none of 0 to {classes - 1}: {sorted(set(labels.tolist()))}")
