"""Average IoU of detections, in both readings of the paper's "average IoU of all detected objects"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from monai_amat.tasks.detection.detections import Sample, overlaps

__all__ = ["MIN_SCORE", "IoUIndex", "Objects", "average_iou", "iou_sums"]

Objects = Literal["true", "detected"]
"""What is averaged over: the `true` objects, or the `detected` ones."""

MIN_SCORE = 0.25
"""Score from which on a detection counts as one: what YOLOv5 shows by default. (mAP looks at all of them.)"""


class IoUIndex(NamedTuple):
    """An average IoU and its parts; NaN where nothing counts. `R` stands for the leading axes of the weights, if any.

    Args:
        mean: `(*R)`, over the objects of all classes.
        per_class: `(*R, C)`, over those of each class.
    """

    mean: Tensor
    per_class: Tensor


def iou_sums(batch: Sequence[Sample], classes: int, *, min_score: float = MIN_SCORE) -> Tensor:
    """Numbers and summed overlaps of the objects of each image and class.

    A true object's overlap is its IoU with the best detection of its class; a detection's, that with the best true box
    of its class; 0 where there is none. One detection may be the best of several objects.

    Args:
        batch: the images.
        classes: number of classes C.
        min_score: detections below do not count.

    Returns:
        `(B, C, 4)` float64: true objects, sum of their overlaps, detections, sum of theirs.

    Example:
        >>> true, classes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [8.0, 8.0, 9.0, 9.0]]), torch.tensor([0, 0])
        >>> found = torch.tensor([[0.0, 0.0, 4.0, 2.0]])
        >>> iou_sums([Sample(found, torch.ones(1), classes[:1], true, classes)], 1)
        tensor([[[2.0000, 0.5000, 1.0000, 0.5000]]], dtype=torch.float64)
    """
    sums = torch.zeros(len(batch), classes, 4, dtype=torch.float64)
    for row, sample in zip(sums, batch, strict=True):
        counted = sample.scores >= min_score
        shared = overlaps(sample)[counted]
        found_classes = sample.found_classes[counted]
        # A row or column of zeros stands for "there is none".
        of_true = torch.cat([shared, shared.new_zeros(1, shared.shape[1])]).amax(dim=0)
        of_found = torch.cat([shared, shared.new_zeros(shared.shape[0], 1)], dim=1).amax(dim=1)
        for part, labels, values in ((0, sample.true_classes, of_true), (2, found_classes, of_found)):
            row[:, part] = torch.bincount(labels, minlength=classes)
            row[:, part + 1].index_add_(0, labels, values)
    return sums


def average_iou(sums: Tensor, *, over: Objects = "true", weights: Tensor | None = None) -> IoUIndex:
    """Mean overlap of all objects of all images.

    - `true`: of the true objects, so that one that is missed counts 0. An image in which nothing is detected counts
      with as many zeros as it has objects; the authors' code skips such images, which flatters weak networks.
    - `detected`: of the detections, the paper's words (section 3.3); what is missed does not count at all, and
      without any detection there is no average.

    Args:
        sums: `(N, C, 4)` of `iou_sums`.
        over: see above.
        weights: `(*R, N)`, how often each image counts; once by default.

    Raises:
        ValueError: for another `over`, or sums of another shape.

    Example:
        >>> sums = torch.tensor([[[2.0, 0.5, 1.0, 0.5]], [[2.0, 0.0, 0.0, 0.0]]])
        >>> average_iou(sums).mean.item(), average_iou(sums, over="detected").mean.item()
        (0.125, 0.5)
    """
    if over not in ("true", "detected"):
        raise ValueError(f"over must be 'true' or 'detected', got {over!r}")
    if sums.ndim != 3 or sums.shape[2] != 4:
        raise ValueError(f"sums must be (images, classes, 4), got shape {tuple(sums.shape)}")
    first = 0 if over == "true" else 2
    table = sums[..., first : first + 2].double().flatten(1)
    shares = table.new_ones(len(table)) if weights is None else weights.to(table)
    totals = (shares @ table).unflatten(-1, (-1, 2))
    whole = totals.sum(dim=-2)
    return IoUIndex(whole[..., 1] / whole[..., 0], totals[..., 1] / totals[..., 0])
