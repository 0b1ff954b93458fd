"""What a centre crop would cut off: the same pixels as MONAI's crop, whatever the sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.transforms import ResizeWithPadOrCrop

from monai_amat.tasks.segmentation import check_fit


def item(label: torch.Tensor, case: str = "a", number: int = 3) -> dict[str, Any]:
    return {"label": label[None], "case": case, "slice": number}


def spot(height: int, width: int, row: int, column: int) -> torch.Tensor:
    label = torch.zeros(height, width, dtype=torch.uint8)
    label[row, column] = 2
    return label


@given(data=st.data(), size=st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_it_refuses_exactly_what_the_evaluation_transform_would_lose(
    data: st.DataObject, size: tuple[int, int]
) -> None:
    height, width = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    label = spot(height, width, data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1)))
    kept = bool(ResizeWithPadOrCrop(size)(label[None]).any())
    try:
        slices = [item(label)]
        assert check_fit(slices, size) is slices
        fits = True
    except ValueError:
        fits = False
    assert fits == kept


def test_background_may_be_cut_off() -> None:
    check_fit([item(torch.zeros(20, 20)), item(spot(20, 20, 10, 10))], (4, 4))


def test_the_first_slice_that_does_not_fit_is_named_with_a_size_for_all() -> None:
    slices = [item(spot(8, 8, 4, 4), "fine"), item(spot(10, 8, 0, 4), "case_7", 12), item(spot(8, 11, 4, 4), "wide")]
    message = r"slice 12 of case_7: expected .* in the central 8x8 pixels; evaluate at 10x11 or more \(eval_size"
    with pytest.raises(ValueError, match=message):
        check_fit(slices, (8, 8))
    assert check_fit(slices, (10, 11)) is slices
