"""Predicted maps become points in native pixels, through whatever the image went through."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import Compose, Flipd, Resized, Rotated

from monai_amat.tasks.landmarks import LandmarkMapsd, LandmarksToImaged, PredictedLandmarksd, decode_landmarks
from monai_amat.tasks.landmarks.transforms.cephalogram import stored_to_native

DECODE = functools.partial(decode_landmarks, radius=5.0)


def item(size: tuple[int, int], native: tuple[int, int], **more: Any) -> dict[str, Any]:
    return {"image": MetaTensor(torch.rand(1, *size), affine=stored_to_native(size, native)), **more}


@given(
    size=st.tuples(st.integers(60, 120), st.integers(60, 120)),
    native=st.tuples(st.integers(60, 400), st.integers(60, 400)),
    place=st.lists(st.tuples(st.floats(0.3, 0.7), st.floats(0.3, 0.7)), min_size=1, max_size=3),
)
def test_true_maps_give_back_the_native_landmarks(
    size: tuple[int, int], native: tuple[int, int], place: list[tuple[float, float]]
) -> None:
    """There and back: native landmarks, maps at the network's size after flip and rotation, and native points again."""
    landmarks = torch.tensor(place) * torch.tensor(native)
    there = Compose(
        [
            Flipd("image", spatial_axis=1),
            Rotated("image", 0.2, keep_size=True),
            Resized("image", (100, 80), mode="area"),
            LandmarksToImaged("landmarks", spacing_key=None),
            LandmarkMapsd("landmarks"),
        ]
    )
    moved = there(item(size, native, landmarks=landmarks))
    assert not torch.allclose(moved["landmarks"], landmarks, atol=1.0)
    # Logits of a sigmoid may be any increasing function of the heat.
    found = PredictedLandmarksd("maps", decode=DECODE)(moved)["maps"]
    torch.testing.assert_close(found, landmarks, rtol=1e-4, atol=1e-2)


def test_what_is_not_found_stays_nan() -> None:
    with pytest.warns(UserWarning, match="no peak"):
        found = PredictedLandmarksd("pred", decode=DECODE)(item((64, 64), (64, 64), pred=torch.zeros(6, 64, 64)))
    assert found["pred"].shape == (2, 2)
    assert found["pred"].isnan().all()


def test_the_item_is_left_as_it_was() -> None:
    given_item = item((64, 64), (64, 64), pred=torch.randn(3, 64, 64), other=1)
    before = dict(given_item)
    found = PredictedLandmarksd("pred", decode=DECODE)(given_item)
    assert given_item["pred"] is before["pred"]
    assert found["image"] is given_item["image"]
    assert found["other"] == 1


def test_errors_name_the_key() -> None:
    maps = torch.randn(3, 64, 64)
    transform = PredictedLandmarksd("pred", decode=DECODE)
    with pytest.raises(KeyError, match=r"PredictedLandmarksd needs 'image', got an item with \['pred'\]"):
        transform({"pred": maps})
    with pytest.raises(TypeError, match="'image' must be a MetaTensor"):
        transform({"pred": maps, "image": torch.zeros(1, 64, 64)})
    with pytest.raises(ValueError, match="must have one size"):
        transform(item((64, 60), (64, 60), pred=maps))
    with pytest.raises(KeyError, match="pred"):
        transform(item((64, 64), (64, 64)))
    lenient = PredictedLandmarksd("pred", decode=DECODE, allow_missing_keys=True)
    assert "pred" not in lenient(item((64, 64), (64, 64)))


def test_confidence_goes_beside_the_points() -> None:
    item = {"image": MetaTensor(torch.zeros(1, 8, 8)), "pred": torch.zeros(3, 8, 8)}
    half = PredictedLandmarksd(
        decode=lambda maps: torch.zeros(len(maps), 1, 2), confidence=lambda maps: torch.full((len(maps), 1), 0.5)
    )
    assert half(item)["confidence"].tolist() == [0.5]
