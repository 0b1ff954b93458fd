from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data import MetaTensor

from monai_amat.tasks.detection import BoxesToNatived, Letterboxd


@given(
    size=st.tuples(st.integers(20, 90), st.integers(20, 90)),
    frame=st.tuples(st.integers(32, 64), st.integers(32, 64)),
    seed=st.integers(0, 1000),
)
def test_it_undoes_the_letterbox(size: tuple[int, int], frame: tuple[int, int], seed: int) -> None:
    height, width = size
    corner = torch.rand(5, 2, generator=torch.Generator().manual_seed(seed)) * torch.tensor([width, height]) * 0.6
    boxes = torch.cat([corner, corner + torch.tensor([width, height]) * 0.3], dim=1)
    item = Letterboxd(frame)({"image": torch.zeros(3, *size), "boxes": boxes})
    marks = torch.arange(10.0).reshape(5, 2)
    item["pred"] = torch.cat([item["boxes"], marks], dim=1)
    native = BoxesToNatived("pred")(item)["pred"]
    torch.testing.assert_close(native[:, :4], boxes, rtol=1e-4, atol=1e-3)
    assert torch.equal(native[:, 4:], marks)


def test_boxes_are_cut_at_the_edge_and_dropped_outside() -> None:
    pred = torch.tensor(
        [[-4.0, 8, 12, 24, 0.9, 0], [4.0, 0, 8, 8, 0.8, 1], [4.0, 10, 8, 40, 0.7, 2], [30.0, 9, 40, 20, 0.6, 0]]
    )
    item = {
        "pred": MetaTensor(pred),
        "letterbox": torch.tensor([0.5, 0.0, 8.0]),
        "native_size": torch.tensor([32, 64]),
    }
    native = BoxesToNatived("pred")(item)["pred"]
    assert type(native) is torch.Tensor
    # The second lay in the padding above; of the others what is in the image is left.
    expected = [[0, 0, 24, 32, 0.9, 0], [8, 4, 16, 32, 0.7, 2], [60, 2, 64, 24, 0.6, 0]]
    torch.testing.assert_close(native, torch.tensor(expected))
    assert item["pred"].shape == (4, 6)


def test_an_image_without_detections_stays_without() -> None:
    item = {"pred": torch.zeros(0, 6), "letterbox": torch.tensor([0.5, 0.0, 8.0]), "native_size": torch.tensor([9, 9])}
    assert BoxesToNatived("pred")(item)["pred"].shape == (0, 6)


@pytest.mark.parametrize("key", ["letterbox", "native_size"])
def test_an_item_that_was_not_letterboxed_is_refused(key: str) -> None:
    item = {"pred": torch.zeros(0, 6), "letterbox": torch.zeros(3), "native_size": torch.zeros(2)}
    del item[key]
    with pytest.raises(KeyError, match=f"needs '{key}', which Letterboxd adds"):
        BoxesToNatived("pred")(item)
