"""mAP as COCO defines it: detections matched image by image, average precision of any set of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from monai.apps.detection.metrics.matching import matching_batch
from torch import Tensor

from monai_amat.tasks.detection.detections import Sample, overlaps

__all__ = [
    "IOU_THRESHOLDS",
    "MAX_DETECTIONS",
    "Matches",
    "PrecisionIndex",
    "average_precision",
    "match_detections",
    "mean_average_precision",
]

IOU_THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
""".5, .55, … .95."""

MAX_DETECTIONS = 300
"""Detections of an image that count, the best ones: what YOLO's evaluation keeps."""

# Made as COCO makes them, to the last bit: a recall may be one of them exactly.
_RECALLS = torch.from_numpy(np.linspace(0, 1, 101))


class Matches(NamedTuple):
    """Which detections of each image are right: all that average precision needs of an image.

    Args:
        scores: `(N, K)` float32; NaN where an image has fewer detections.
        labels: `(N, K)` int64, classes of the detections; -1 likewise.
        right: `(N, K)` int64, bit t set where the detection is right at `IOU_THRESHOLDS[t]`.
        true: `(N, C)` int64, number of true objects of each class.
    """

    scores: Tensor
    labels: Tensor
    right: Tensor
    true: Tensor


class PrecisionIndex(NamedTuple):
    """mAP and its parts; NaN where nothing counts. `R` stands for the leading axes of the weights, if any.

    Args:
        map: `(*R)`, mean over classes and the thresholds .5 to .95.
        map50: `(*R)`, mean over classes at .5.
        per_class: `(*R, C)`, mean over the thresholds.
        per_class50: `(*R, C)`, at .5.
    """

    map: Tensor
    map50: Tensor
    per_class: Tensor
    per_class50: Tensor


def match_detections(batch: Sequence[Sample], classes: int, *, max_detections: int = MAX_DETECTIONS) -> Matches:
    """Match the detections of each image with its true objects, by MONAI's `matching_batch`.

    COCO's rule: from the best score down, a detection is right when among the true boxes of its class that no better
    one has taken the best overlap is at least the threshold.

    Args:
        batch: the images.
        classes: number of classes C.
        max_detections: K, only the best ones of an image count.

    Example:
        >>> box, zero = torch.tensor([[0.0, 0.0, 10.0, 10.0]]), torch.tensor([0])
        >>> matches = match_detections([Sample(box * 0.9, torch.tensor([0.5]), zero, box, zero)], 1, max_detections=1)
        >>> f"{matches.right.item():010b}", matches.true  # an IoU of .81
        ('0001111111', tensor([[1]]))
    """
    shape = len(batch), max_detections
    scores = torch.full(shape, torch.nan)
    labels = torch.full(shape, -1)
    right = torch.zeros(shape, dtype=torch.int64)
    true = torch.zeros(len(batch), classes, dtype=torch.int64)
    for i, sample in enumerate(batch):
        n = min(len(sample.scores), max_detections)
        best = Sample(sample.found[:n], sample.scores[:n], sample.found_classes[:n], sample.true, sample.true_classes)
        scores[i, :n], labels[i, :n] = best.scores, best.found_classes
        right[i, :n] = _right(best)
        true[i] = torch.bincount(best.true_classes, minlength=classes)
    return Matches(scores, labels, right, true)


def average_precision(matches: Matches, *, weights: Tensor | None = None) -> Tensor:
    """Average precision of each class at each threshold: COCO's mean over 101 levels of recall.

    Args:
        matches: of the images.
        weights: `(*R, N)`, how often each image counts; once by default.

    Returns:
        `(*R, C, 10)` float64; NaN for a class without any true object.

    Example:
        >>> one = torch.ones(1, 2, dtype=torch.int64)
        >>> matches = Matches(torch.tensor([[0.9, 0.8]]), 0 * one, torch.tensor([[0, 1023]]), one[:, :1])
        >>> average_precision(matches)[0, 0].item()  # right, but only the second
        0.5
    """
    images, classes = matches.true.shape
    shares = torch.ones(images, dtype=torch.float64) if weights is None else weights.double()
    leading = shares.shape[:-1]
    shares = shares.reshape(-1, images)
    owner = torch.arange(images)[:, None].expand_as(matches.labels)
    result = torch.full((len(shares), classes, len(IOU_THRESHOLDS)), torch.nan, dtype=torch.float64)
    for c in range(classes):
        mine = matches.labels == c
        # Among equal scores COCO keeps the order of images and, within one, of detections.
        order = matches.scores[mine].argsort(descending=True, stable=True)
        bits, owners = matches.right[mine][order], owner[mine][order]
        wanted = shares @ matches.true[:, c].double()
        seen = shares[:, owners].cumsum(dim=1)
        for t in range(len(IOU_THRESHOLDS)):
            result[:, c, t] = _area(shares, owners, seen, (bits >> t) % 2 == 1, wanted)
    return result.reshape(*leading, classes, len(IOU_THRESHOLDS))


def mean_average_precision(matches: Matches, *, weights: Tensor | None = None) -> PrecisionIndex:
    """The mean of average precision over classes that have a true object at all.

    Args:
        matches: of the images.
        weights: `(*R, N)`, how often each image counts; once by default.

    Example:
        >>> one = torch.ones(1, 2, dtype=torch.int64)
        >>> index = mean_average_precision(Matches(0.9 * one.float(), 0 * one, 31 * one, 2 * one[:, :1]))
        >>> index.map.item(), index.map50.item()  # both right up to an IoU of .7
        (0.5, 1.0)
    """
    precision = average_precision(matches, weights=weights)
    every, half = precision.mean(dim=-1), precision[..., 0]
    return PrecisionIndex(every.nanmean(dim=-1), half.nanmean(dim=-1), every, half)


def _right(sample: Sample) -> Tensor:
    """Bits of one image's detections, `(n,)` int64."""
    bits = torch.zeros(len(sample.scores), dtype=torch.int64)
    # The overlaps are looked up, not computed again for each class: a "box" is its place in the list.
    shared = overlaps(sample).numpy()
    found, true = np.arange(len(sample.found)), np.arange(len(sample.true))
    matched = matching_batch(
        iou_fn=lambda detections, truths: shared[np.ix_(detections, truths)],
        iou_thresholds=IOU_THRESHOLDS,
        pred_boxes=[found],
        pred_classes=[sample.found_classes.numpy()],
        pred_scores=[sample.scores.numpy()],
        gt_boxes=[true],
        gt_classes=[sample.true_classes.numpy()],
        max_detections=len(found),
    )[0]
    powers = 2 ** torch.arange(len(IOU_THRESHOLDS))
    for label, of_class in matched.items():
        # MONAI sorts by score, which Sample is sorted by already, and keeps the order of equals.
        hits = torch.from_numpy(of_class["dtMatches"]).long().reshape(len(IOU_THRESHOLDS), -1)
        bits[sample.found_classes == int(label)] = powers @ hits
    return bits


def _area(shares: Tensor, owners: Tensor, seen: Tensor, right: Tensor, wanted: Tensor) -> Tensor:
    """Average precision `(R,)` of one class at one threshold.

    Only at right detections does recall rise and can precision be at its best, so the curve is made of these alone: an
    image that counts k times is k equal steps, of which the last has the highest precision.

    Args:
        shares: `(R, N)`, how often each image counts.
        owners: `(D,)`, image of each detection, the best score first.
        seen: `(R, D)`, number of detections so far.
        right: `(D,)` bool.
        wanted: `(R,)`, number of true objects.
    """
    if not bool(right.any()):
        return torch.where(wanted > 0, 0.0, torch.nan)
    hits = shares[:, owners[right]].cumsum(dim=1)
    precision = (hits / seen[:, right]).nan_to_num(nan=0.0)  # 0/0: images that do not count came first
    envelope = precision.flip(1).cummax(dim=1).values.flip(1)
    recall = hits / wanted[:, None]
    places = torch.searchsorted(recall.nan_to_num(nan=0.0), _RECALLS.expand(len(shares), -1).contiguous())
    reached = torch.cat([envelope, envelope.new_zeros(len(envelope), 1)], dim=1).gather(1, places)
    return torch.where(wanted > 0, reached.mean(dim=1), torch.nan)
