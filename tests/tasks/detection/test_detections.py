"""Batches of detections and targets: what is taken from them, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monai_amat.tasks.detection.detections import check_classes, overlaps, samples

FOUND = torch.tensor([[0.0, 0.0, 4.0, 4.0, 0.2, 1.0], [2.0, 2.0, 6.0, 6.0, 0.9, 0.0], [0.0, 0.0, 1.0, 1.0, 0.2, 0.0]])
TARGET = torch.tensor([[-1.0, 0, 0, 0, 0], [0.0, 0, 0, 4, 4], [1.0, 0, 0, 4, 2], [-1.0, 0, 0, 0, 0]])


def test_the_best_score_comes_first_and_padding_is_gone() -> None:
    sample = samples([FOUND], TARGET[None], 2)[0]
    assert sample.scores.tolist() == FOUND[[1, 0, 2], 4].tolist()
    assert sample.found_classes.tolist() == [0, 1, 0]
    assert torch.equal(sample.found, FOUND[[1, 0, 2], :4])
    assert sample.true_classes.tolist() == [0, 1]
    assert torch.equal(sample.true, TARGET[1:3, 1:])


def test_only_boxes_of_one_class_overlap() -> None:
    expected = [[4 / 28, 0], [0, 0.5], [1 / 16, 0]]
    torch.testing.assert_close(
        overlaps(samples([FOUND], TARGET[None], 2)[0]), torch.tensor(expected, dtype=torch.float64)
    )
    nothing = samples([torch.zeros(0, 6)], torch.full((1, 2, 5), -1.0), 2)[0]
    assert overlaps(nothing).shape == (0, 0)


@given(st.tuples(*[st.integers(0, 8)] * 8))
def test_overlap_is_shared_pixels_by_pixels_of_either(edges: tuple[int, ...]) -> None:
    one, other = ([min(e[0], e[2]), min(e[1], e[3]), max(e[0], e[2]), max(e[1], e[3])] for e in (edges[:4], edges[4:]))
    drawn = torch.zeros(2, 8, 8, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(drawn, (one, other), strict=True):
        mask[y1:y2, x1:x2] = True
    either = int((drawn[0] | drawn[1]).sum())
    expected = int((drawn[0] & drawn[1]).sum()) / either if either else 0.0
    found, target = torch.tensor([[*one, 0.5, 0.0]]), torch.tensor([[[0.0, *other]]])
    assert overlaps(samples([found], target, 1)[0]).item() == pytest.approx(expected)


def test_a_network_s_output_is_decoded_as_a_batch() -> None:
    shapes = []

    def decode(pred: torch.Tensor) -> list[torch.Tensor]:
        shapes.append(tuple(pred.shape))
        return [FOUND[: int(number)] for number in pred[:, 0, 0]]

    output = torch.tensor([1.0, 3.0]).view(2, 1, 1)
    for pred in (output, list(output)):  # a batch, and what is left of one that was decollated
        batch = samples(pred, [TARGET, TARGET], 2, decode=decode)
        assert [len(sample.scores) for sample in batch] == [1, 3]
    assert shapes == [(2, 1, 1)] * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pred": [FOUND, FOUND]}, "detections of 2 images do not go with targets of 1"),
        ({"pred": torch.zeros(1, 7, 30)}, r"of image 0 must be \(n, 6\).* got \(7, 30\); .* needs decode="),
        ({"target": torch.zeros(1, 4, 4)}, r"targets of image 0 must be \(max_boxes, 5\).* got \(4, 4\)"),
        ({"pred": [torch.tensor([[0.0, 0, 4, 4, float("nan"), 0]])]}, "a score that is not finite"),
        ({"pred": [torch.tensor([[0.0, 0, float("inf"), 4, 0.5, 0]])]}, "detections of image 0 hold a box that is not"),
        ({"pred": [torch.tensor([[5.0, 0, 4, 4, 0.5, 0]])]}, "x2 < x1"),
        ({"target": torch.tensor([[[0.0, 0, 5, 4, 4]]])}, "targets of image 0 hold a box"),
        ({"pred": [torch.tensor([[0.0, 0, 4, 4, 0.5, 2]])]}, r"a class that is none of 0 to 1: \[2.0\]"),
        ({"pred": [torch.tensor([[0.0, 0, 4, 4, 0.5, 0.5]])]}, "a class that is none of 0 to 1"),
        ({"target": torch.tensor([[[-2.0, 0, 0, 4, 4]]])}, "targets of image 0 hold a class"),
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"pred": [FOUND], "target": TARGET[None], "classes": 2}
    with pytest.raises(ValueError, match=message):
        samples(**arguments | change)


def test_classes_are_different_names() -> None:
    assert check_classes(["RBC", "WBC"]) == ("RBC", "WBC")
    for wrong in ("RBC", [], ["RBC", "RBC"]):
        with pytest.raises(ValueError, match="a list of different names"):
            check_classes(wrong)
