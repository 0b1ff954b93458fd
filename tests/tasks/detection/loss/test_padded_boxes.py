from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monai_amat.tasks.detection.loss.padded_boxes import padded_boxes


def target(*images: list[list[float]], rows: int = 4) -> torch.Tensor:
    """Images of rows [class, x1, y1, x2, y2], padded."""
    padding = [-1.0, 0.0, 0.0, 0.0, 0.0]
    return torch.tensor([[*image, *[padding] * (rows - len(image))] for image in images])


def test_columns_that_are_padding_everywhere_go() -> None:
    boxes = padded_boxes(target([[2, 1, 2, 3, 4]], [], [[0, 5, 6, 7, 8], [1, 0, 0, 9, 9]]), 3, 3)
    assert boxes.labels.tolist() == [[2, 0], [0, 0], [0, 1]]
    assert boxes.real.tolist() == [[True, False], [False, False], [True, True]]
    assert boxes.corners[2].tolist() == [[5, 6, 7, 8], [0, 0, 9, 9]]
    assert boxes.labels.dtype == torch.int64


@pytest.mark.parametrize("shape", [(2, 4, 5), (2, 0, 5), (0, 4, 5)])
def test_nothing_but_padding_leaves_no_column(shape: tuple[int, int, int]) -> None:
    rows = torch.zeros(shape)
    rows[..., 0] = -1
    boxes = padded_boxes(rows, shape[0], 3)
    assert boxes.corners.shape == (shape[0], 0, 4)
    assert boxes.real.shape == boxes.labels.shape == (shape[0], 0)


@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=4))
def test_padding_may_stand_anywhere_and_hold_anything(pattern: list[list[bool]]) -> None:
    real = torch.tensor(pattern)
    rows = torch.rand(*real.shape, 5)
    rows[..., 0] = torch.where(real, 1.0, -1.0)
    rows[~real, 1:] = float("nan")
    boxes = padded_boxes(rows, len(real), 2)
    assert torch.equal(boxes.corners[boxes.real], rows[real][:, 1:])
    assert not boxes.corners[~boxes.real].any()
    assert not boxes.labels[~boxes.real].any()
    columns = real.any(0).nonzero()
    assert boxes.real.shape[1] == (int(columns.max()) + 1 if len(columns) else 0)


def test_a_mapping_holds_them_under_targets_and_the_type_does_not_matter() -> None:
    rows = target([[1, 1, 2, 3, 4]])
    for given_target in ({"targets": rows}, rows.half(), rows.long(), rows.double()):
        boxes = padded_boxes(given_target, 1, 2)
        assert boxes.corners.tolist() == [[[1, 2, 3, 4]]]
        assert boxes.labels.tolist() == [[1]]


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (target([[3, 1, 2, 3, 4]], []), ValueError, r"got 3 in samples \[0\] of the batch"),
        (target([], [[0, 1, 2, 3, 4], [5, 0, 0, 1, 1]]), ValueError, r"got 5 in samples \[1\]"),
        (torch.zeros(2, 5), ValueError, r"must be \(2, max_boxes, 5\).*got \(2, 5\)"),
        (torch.zeros(2, 3, 6), ValueError, r"got \(2, 3, 6\)"),
        (torch.zeros(3, 3, 5), ValueError, r"got \(3, 3, 5\)"),
        ([[1, 2]], TypeError, "got list"),
        ({"boxes": torch.zeros(2, 3, 5)}, KeyError, r"got \['boxes'\]"),
    ],
)
def test_bad_targets_say_what_is_wrong(wrong: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        padded_boxes(wrong, 2, 3)
