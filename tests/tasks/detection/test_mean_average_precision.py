"""mAP: by hand, against the definition in loops, and against MONAI's own COCO metric."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from monai.apps.detection.metrics.coco import COCOMetric
from monai.apps.detection.metrics.matching import matching_batch
from monai.data.box_utils import box_iou
from torch import Tensor

from monai_amat.tasks.detection.detections import samples
from monai_amat.tasks.detection.mean_average_precision import (
    IOU_THRESHOLDS,
    average_precision,
    match_detections,
    mean_average_precision,
)

CLASSES = ("RBC", "WBC", "Platelets")


def precision(found: Sequence[Tensor], true: Sequence[Tensor], **settings: Any) -> Tensor:
    """`(10,)` for one class."""
    batch = samples(list(found), torch.stack(list(true)), 1)
    return average_precision(match_detections(batch, 1, **settings))[0]


def row(width: float, score: float, x: float = 0.0) -> list[float]:
    """A detection `width` x 10 from `x` on: of a true box of 10 x 10 there, its IoU is `width / 10`."""
    return [x, 0.0, x + width, 10.0, score, 0.0]


def square(*places: float) -> Tensor:
    """True boxes of 10 x 10, and padding."""
    return torch.tensor([[0.0, x, 0.0, x + 10, 10.0] for x in places] + [[-1.0, 0, 0, 0, 0]] * (3 - len(places)))


def test_an_overlap_counts_up_to_its_threshold_that_one_included() -> None:
    for tenths in (5, 6, 7, 8, 9):
        found = precision([torch.tensor([row(tenths, 0.5)])], [square(0)])
        assert found.tolist() == [1.0 if threshold <= tenths / 10 else 0.0 for threshold in IOU_THRESHOLDS]
    assert precision([torch.tensor([row(4.9, 0.5)])], [square(0)]).tolist() == [0.0] * 10


def test_by_hand() -> None:
    right, wrong = row(10, 0.8), row(10, 0.9, x=50)
    # Found after a false alarm: precision 1/2 at every recall.
    assert precision([torch.tensor([right, wrong])], [square(0)])[0] == 0.5
    # The same the other way round costs nothing: recall is complete before it.
    assert precision([torch.tensor([row(10, 0.95), wrong])], [square(0)])[0] == 1.0
    # One of two found: the 51 levels of recall from 0 to .5 of 101.
    assert precision([torch.tensor([right])], [square(0, 20)])[0].item() == pytest.approx(51 / 101)
    # Right, wrong, right: precision 1 up to recall .5, then 2/3.
    found = torch.tensor([row(10, 0.95), wrong, row(10, 0.8, x=20)])
    assert precision([found], [square(0, 20)])[0].item() == pytest.approx((51 + 50 * 2 / 3) / 101)
    # A second detection of an object is a false alarm.
    assert precision([torch.tensor([row(10, 0.95), row(10, 0.9), row(10, 0.8, x=20)])], [square(0, 20)])[0].item() == (
        pytest.approx((51 + 50 * 2 / 3) / 101)
    )


def test_scores_rank_detections_of_all_images_together() -> None:
    images = [torch.tensor([row(10, 0.5)]), torch.tensor([row(10, 0.9, x=50)])]
    assert precision(images, [square(0), square()])[0] == 0.5
    images[1][0, 4] = 0.4
    assert precision(images, [square(0), square()])[0] == 1.0


def test_a_better_detection_takes_the_object_that_it_fits_best() -> None:
    # At .5 the first takes the left box, which it fits best; at .85 it fits neither and leaves it to the second.
    found = torch.tensor([row(8, 0.9), row(9, 0.8)])
    values = precision([found], [square(0)]).tolist()
    assert values[:7] == [1.0] * 7 and values[7:] == [0.5, 0.5, 0.0]


def test_classes_without_objects_do_not_count_and_missed_ones_do() -> None:
    found = torch.tensor([[0.0, 0, 10, 10, 0.9, 0], [0.0, 0, 10, 10, 0.9, 2]])
    true = torch.tensor([[[0.0, 0, 0, 10, 10], [1.0, 20, 20, 30, 30]]])
    index = mean_average_precision(match_detections(samples([found], true, 3), 3))
    assert index.per_class.tolist() == pytest.approx([1.0, 0.0, float("nan")], nan_ok=True)
    assert (index.map.item(), index.map50.item()) == (0.5, 0.5)
    nothing = mean_average_precision(match_detections(samples([found], true[:, :0], 3), 3))
    assert math.isnan(nothing.map.item())
    unseen = mean_average_precision(match_detections(samples([found[:0]], true, 3), 3))
    assert unseen.map.item() == 0


def test_only_the_best_detections_of_an_image_count() -> None:
    found = torch.tensor([row(10, 0.1), row(10, 0.9, x=50), row(10, 0.8, x=70)])
    assert precision([found], [square(0)], max_detections=3)[0].item() == pytest.approx(1 / 3)
    assert precision([found], [square(0)], max_detections=2)[0] == 0.0


def slow(found: Sequence[Tensor], true: Tensor, label: int, threshold: float) -> float:
    """The definition, by the letter: point by point down the list of all detections."""

    def shared(a: list[float], b: list[float]) -> float:
        wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        both = max(wide, 0.0) * max(high, 0.0)
        return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)

    wanted = [[entry[1:] for entry in truth if entry[0] == label] for truth in true.tolist()]
    number = sum(len(boxes) for boxes in wanted)
    if number == 0:
        return float("nan")
    listed = [(entry[4], i, entry[:4]) for i, rows in enumerate(found) for entry in rows.tolist() if entry[5] == label]
    free = [[True] * len(boxes) for boxes in wanted]
    points, right = [], 0
    for place, (_, i, box) in enumerate(sorted(listed, key=lambda entry: -entry[0]), start=1):
        shares = [shared(box, other) if free[i][k] else -1.0 for k, other in enumerate(wanted[i])]
        if shares and max(shares) >= threshold:
            free[i][shares.index(max(shares))] = False
            right += 1
        points.append((right / number, right / place))
    levels = np.linspace(0, 1, 101)
    return float(np.mean([max((p for recall, p in points if recall >= level), default=0.0) for level in levels]))


def test_agrees_with_the_definition_in_loops(drawn: Callable[[int], Any]) -> None:
    for seed in range(8):
        found, true = drawn(seed)
        ours = average_precision(match_detections(samples(found, true, 3), 3))
        expected = [[slow(found, true, label, threshold) for threshold in IOU_THRESHOLDS] for label in range(3)]
        np.testing.assert_allclose(ours.numpy(), expected, atol=1e-12)


def test_agrees_with_monais_coco_metric(drawn: Callable[[int], Any]) -> None:
    """Which counts a class without any object as -1, so that each must have one, and rounds to float32: no ties."""
    for seed in range(8):
        found, true = drawn(seed)
        for rows in found:
            rows[:, 2:4] += 0.01 * torch.rand(len(rows), 2)
        true[0, :3] = torch.tensor([[label, 0.0, 0.0, 9.0, 9.0] for label in range(3)])
        coco = COCOMetric(
            classes=CLASSES, iou_list=[0.5], iou_range=[0.5, 0.95, 0.05], max_detection=[300], verbose=False
        )
        real = [truth[truth[:, 0] >= 0].numpy() for truth in true]
        matched = matching_batch(
            iou_fn=box_iou,  # type: ignore[arg-type]
            iou_thresholds=coco.get_iou_thresholds(),
            pred_boxes=[rows[:, :4].numpy() for rows in found],
            pred_classes=[rows[:, 5].numpy() for rows in found],
            pred_scores=[rows[:, 4].numpy() for rows in found],
            gt_boxes=[truth[:, 1:] for truth in real],
            gt_classes=[truth[:, 0] for truth in real],
            max_detections=300,
        )
        theirs, _ = coco(matched)
        ours = mean_average_precision(match_detections(samples(found, true, 3), 3))
        # A recall that is a level exactly may fall on its other side when rounded: one level of 101.
        assert ours.map.item() == pytest.approx(theirs["mAP_IoU_0.50_0.95_0.05_MaxDet_300"], abs=0.005)
        assert ours.map50.item() == pytest.approx(theirs["AP_IoU_0.50_MaxDet_300"], abs=0.005)


def test_weights_are_repetitions_with_any_leading_axes(drawn: Callable[[int], Any]) -> None:
    found, true = drawn(3)
    weights = torch.from_numpy(np.random.default_rng(0).integers(0, 3, size=(2, 9, len(found))))
    weighted = average_precision(match_detections(samples(found, true, 3), 3), weights=weights)
    assert weighted.shape == (2, 9, 3, 10)
    for where in np.ndindex(2, 9):
        rows = torch.arange(len(found)).repeat_interleave(weights[where])
        if len(rows):
            repeated = match_detections(samples([found[i] for i in rows], true[rows], 3), 3)
            np.testing.assert_allclose(weighted[where].numpy(), average_precision(repeated).numpy(), atol=1e-12)
    empty = average_precision(match_detections(samples(found, true, 3), 3), weights=torch.zeros(len(found)))
    assert bool(empty.isnan().all())
