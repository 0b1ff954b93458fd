"""Average IoU, in both readings, by hand and against loops."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from monai_amat.tasks.detection.average_iou import average_iou, iou_sums
from monai_amat.tasks.detection.detections import samples


def one_class(*boxes: tuple[float, float, float, float], score: float = 0.9) -> Tensor:
    return torch.tensor([[*box, score, 0.0] for box in boxes]).reshape(-1, 6)


def truths(*boxes: tuple[float, float, float, float]) -> Tensor:
    rows = [[0.0, *box] for box in boxes] + [[-1.0, 0, 0, 0, 0]]
    return torch.tensor(rows)


def sums(found: Tensor, target: Tensor, **settings: Any) -> list[float]:
    values: list[float] = iou_sums(samples([found], target[None], 1), 1, **settings)[0, 0].tolist()
    return values


def test_an_object_counts_with_its_best_detection_and_a_detection_with_its_best_object() -> None:
    whole, half, other = (0.0, 0.0, 4.0, 4.0), (0.0, 0.0, 4.0, 2.0), (10.0, 10.0, 14.0, 14.0)
    # Two detections of one object: the object counts once, with the better one; each detection counts.
    assert sums(one_class(half, whole), truths(whole)) == [1, 1.0, 2, 1.5]
    # One detection of two objects is the best of both; what is missed counts 0.
    assert sums(one_class(half), truths(whole, half, other)) == [3, 1.5, 1, 1.0]
    # A false alarm counts for detections only.
    assert sums(one_class(half, other), truths(whole)) == [1, 0.5, 2, 0.5]
    assert sums(one_class(half), truths()) == [0, 0, 1, 0]
    assert sums(one_class(), truths(whole)) == [1, 0, 0, 0]


def test_weak_detections_do_not_count() -> None:
    whole = (0.0, 0.0, 4.0, 4.0)
    assert sums(one_class(whole, score=0.25), truths(whole)) == [1, 1, 1, 1]
    assert sums(one_class(whole, score=0.249), truths(whole)) == [1, 0, 0, 0]
    assert sums(one_class(whole, score=0.249), truths(whole), min_score=0.1) == [1, 1, 1, 1]


def test_the_class_must_be_right() -> None:
    found = torch.tensor([[0.0, 0.0, 4.0, 4.0, 0.9, 1.0]])
    table = iou_sums(samples([found], truths((0.0, 0.0, 4.0, 4.0))[None], 2), 2)[0]
    assert table.tolist() == [[1, 0, 0, 0], [0, 0, 1, 0]]


def test_an_image_without_detections_counts_as_zeros_over_true_objects() -> None:
    table = torch.tensor([[[2.0, 1.6, 3.0, 1.5]], [[6.0, 0.0, 0.0, 0.0]]])
    assert average_iou(table).mean.item() == pytest.approx(0.2)
    assert average_iou(table, over="detected").mean.item() == 0.5
    assert math.isnan(average_iou(table[1:], over="detected").mean.item())


def slow(found: list[Tensor], true: Tensor, over: str, label: int | None) -> float:
    """The definition, in loops."""

    def shared(a: list[float], b: list[float]) -> float:
        wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        both = max(wide, 0.0) * max(high, 0.0)
        return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)

    values = []
    for rows, truth in zip(found, true.tolist(), strict=True):
        strong = [row for row in rows.tolist() if row[4] >= 0.25]
        real = [row for row in truth if row[0] >= 0]
        ones: list[tuple[int, list[float]]] = [(int(row[0]), row[1:]) for row in real]
        others: list[tuple[int, list[float]]] = [(int(row[5]), row[:4]) for row in strong]
        if over == "detected":
            ones, others = others, ones
        for kind, box in ones:
            if label in (None, kind):
                values.append(max((shared(box, other) for of, other in others if of == kind), default=0.0))
    return sum(values) / len(values) if values else float("nan")


@pytest.mark.parametrize("over", ["true", "detected"])
def test_agrees_with_loops(drawn: Callable[[int], Any], over: Any) -> None:
    for seed in range(8):
        found, true = drawn(seed)
        index = average_iou(iou_sums(samples(found, true, 3), 3), over=over)
        assert index.mean.item() == pytest.approx(slow(found, true, over, None), nan_ok=True)
        expected = [slow(found, true, over, label) for label in range(3)]
        assert index.per_class.tolist() == pytest.approx(expected, nan_ok=True)


def test_settings() -> None:
    with pytest.raises(ValueError, match="over must be"):
        average_iou(torch.zeros(1, 1, 4), over="all")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\(images, classes, 4\), got shape \(1, 4\)"):
        average_iou(torch.zeros(1, 4))
