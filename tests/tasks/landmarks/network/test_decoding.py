"""The offset vote against a loop over pixels, and on maps whose landmark is known."""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data import MetaTensor
from torch import Tensor

from monai_amat.tasks.landmarks import decode_landmarks, landmark_confidence
from monai_amat.tasks.landmarks.transforms.maps import landmark_maps

NAN = float("nan")


def as_prediction(maps: Tensor, logit: float = 20.0) -> Tensor:
    """True maps `(B, 3·L, H, W)` as a network would have to return them."""
    count = maps.shape[1] // 3
    return torch.cat([logit * (2 * maps[:, :count] - 1), maps[:, count:]], dim=1)


def loop(pred: Tensor, radius: float) -> list[list[tuple[float, float]]]:
    """The description, vote by vote; float32 like the maps."""
    channels, height, width = pred.shape[1:]
    count, result = channels // 3, []
    for sample in pred:
        row = []
        for landmark in range(count):
            heat = sample[landmark].flatten().tolist()
            order = sorted(range(len(heat)), key=lambda i: (-heat[i], i))[: int(math.pi * radius**2)]
            box: dict[int, list[tuple[float, float]]] = defaultdict(list)
            for i in order:
                y = float(i // width + radius * sample[count + landmark].flatten()[i])
                x = float(i % width + radius * sample[2 * count + landmark].flatten()[i])
                if -0.5 <= y <= height - 0.5 and -0.5 <= x <= width - 0.5:
                    cell = min(math.floor(y + 0.5), height - 1) * width + min(math.floor(x + 0.5), width - 1)
                    box[cell].append((y, x))
            if not box or max(heat) == min(heat):
                row.append((NAN, NAN))
                continue
            best = min(box, key=lambda cell: (-len(box[cell]), -heat[cell], cell))
            row.append(tuple(sum(axis) / len(box[best]) for axis in zip(*box[best], strict=True)))
        result.append(row)
    return result


@given(
    points=st.lists(st.tuples(st.floats(-0.5, 59.5), st.floats(-0.5, 39.5)), min_size=1, max_size=5),
    radius=st.floats(1, 8),
)
def test_maps_of_the_truth_decode_to_the_truth(points: list[tuple[float, float]], radius: float) -> None:
    truth = torch.tensor(points).clamp(max=torch.tensor([59.5, 39.5]))
    found = decode_landmarks(as_prediction(landmark_maps(truth, (60, 40), radius)[None]), radius)
    torch.testing.assert_close(found, truth[None], rtol=0, atol=1e-4)


def test_the_papers_size_to_a_hundredth_of_a_pixel() -> None:
    truth = torch.rand(2, 19, 2) * torch.tensor([199.0, 159.0])
    maps = torch.stack([landmark_maps(points, (200, 160), 10.0) for points in truth])
    assert (decode_landmarks(as_prediction(maps), 10.0) - truth).norm(dim=-1).max() < 0.001


@pytest.mark.parametrize("radius", [1.0, 2.3, 4.0])
@pytest.mark.parametrize("kind", ["noise", "few values", "wild offsets"])
def test_against_the_loop(kind: str, radius: float) -> None:
    draw = torch.Generator().manual_seed(int(10 * radius))
    pred = torch.randn(3, 6, 9, 11, generator=draw)
    if kind == "few values":  # ties of heat and ties of votes
        pred = pred.round()
    if kind == "wild offsets":
        pred[:, 2:] *= 4
        pred[0, 2, 4, 4], pred[1, 4, 3, 3], pred[2, 3, 2, 2] = NAN, math.inf, -math.inf
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = decode_landmarks(pred, radius)
    torch.testing.assert_close(found, torch.tensor(loop(pred, radius)), equal_nan=True)


def blank(*hot: tuple[int, int, float], size: tuple[int, int] = (8, 8)) -> Tensor:
    """One landmark without offsets; hot pixels (row, column, logit) on zeros."""
    pred = torch.zeros(1, 3, *size)
    for row, column, logit in hot:
        pred[0, 0, row, column] = logit
    return pred


def test_ties_go_to_the_hotter_pixel_and_then_to_the_first() -> None:
    # Three voters (π·1² rounded down), a vote each for itself.
    assert decode_landmarks(blank((6, 1, 2.0), (2, 5, 3.0), (4, 4, 2.0)), 1.0).tolist() == [[[2, 5]]]
    assert decode_landmarks(blank((6, 1, 3.0), (2, 5, 3.0), (2, 4, 3.0)), 1.0).tolist() == [[[2, 4]]]
    # More pixels as hot as one another than may vote: the first three do, and two of them agree on (7, 7).
    pred = blank((0, 0, 1.0), (0, 1, 1.0), (0, 2, 1.0), (5, 0, 1.0), (5, 1, 1.0), (5, 2, 1.0))
    pred[0, 1:, 0, 0], pred[0, 1:, 0, 1] = torch.tensor([7.0, 7.0]), torch.tensor([7.0, 6.0])
    pred[0, 1:, 5] = 1.0
    assert decode_landmarks(pred, 1.0).tolist() == [[[7, 7]]]


def test_the_far_edge_of_the_image_is_still_in_it() -> None:
    pred = blank((7, 7, 9.0))
    pred[0, 1:, 7, 7] = 0.5
    assert decode_landmarks(pred, 1.0).tolist() == [[[7.5, 7.5]]]
    pred[0, 1:, 7, 7] = torch.tensor([-7.5, -7.5])
    # The first pixel, next in heat, votes for itself: the same pixel, half a pixel further in.
    assert decode_landmarks(pred, 1.0).tolist() == [[[-0.25, -0.25]]]
    pred[0, 1, 7, 7] = 0.501  # void: the next pixels vote for themselves
    assert decode_landmarks(pred, 1.0).tolist() == [[[0, 0]]]


def test_more_votes_beat_more_heat() -> None:
    pred = blank((1, 1, 9.0), (4, 4, 1.0), (4, 6, 1.0))
    pred[0, 1:, 4, 4], pred[0, 1:, 4, 6] = torch.tensor([0.25, 1.0]), torch.tensor([-0.25, -0.5])
    # Votes (4.25, 5) and (3.75, 5.5): the latter rounds up to column 6, so that no two votes agree …
    assert decode_landmarks(pred, 1.0).tolist() == [[[1, 1]]]
    # … and a little less makes two of them, whose mean is the landmark.
    pred[0, 2, 4, 6] = -0.75
    assert decode_landmarks(pred, 1.0).tolist() == [[[4, 5.125]]]


def test_the_same_alone_and_in_any_batch() -> None:
    pred = torch.randn(5, 6, 20, 16).round(decimals=1)
    together = decode_landmarks(pred, 3.0)
    for i in range(5):
        assert torch.equal(decode_landmarks(pred[i : i + 1], 3.0)[0], together[i])
    assert torch.equal(decode_landmarks(pred.flip(0), 3.0), together.flip(0))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda pred: pred[0, 1].fill_(0.3),
        lambda pred: pred[0, 1].fill_(-math.inf),
        lambda pred: pred[0, 1, 3, 3].fill_(NAN),
        lambda pred: pred[0, 1, 3, 3].fill_(math.inf),
        lambda pred: pred[0, 3].fill_(100.0),  # all votes below the image
        lambda pred: pred[0, 5].fill_(NAN),
    ],
    ids=["flat", "all -inf", "nan", "inf", "outside", "nan offsets"],
)
def test_no_peak_is_nan_with_a_warning_and_the_others_stand(spoil: Any) -> None:
    pred = torch.randn(2, 6, 9, 9)
    expected = decode_landmarks(pred, 2.0)
    spoil(pred)
    with pytest.warns(UserWarning, match="1 of 4 heat maps have no peak"):
        found = decode_landmarks(pred, 2.0)
    assert found.isnan().all(-1).tolist() == [[False, True], [False, False]]
    expected[0, 1] = NAN
    torch.testing.assert_close(found, expected, equal_nan=True, rtol=0, atol=0)


def test_saturated_heat_still_has_a_peak() -> None:
    # float32's sigmoid gives 1 for both, and 0 for both: the logits distinguish them.
    for low, high in ((40.0, 41.0), (-200.0, -150.0)):
        pred = torch.full((1, 3, 8, 8), low)
        pred[:, 1:] = 0
        pred[0, 0, 5, 2] = high
        assert decode_landmarks(pred, 1.0).tolist() == [[[5, 2]]]


def test_any_increasing_function_of_the_heat_decodes_to_the_same() -> None:
    pred = torch.randn(2, 6, 12, 12)
    probability = torch.cat([torch.sigmoid(pred[:, :2]), pred[:, 2:]], dim=1)
    assert torch.equal(decode_landmarks(probability, 2.5), decode_landmarks(pred, 2.5))


def test_precision_metadata_and_gradient() -> None:
    pred = torch.randn(1, 3, 12, 12, requires_grad=True)
    found = decode_landmarks(pred, 2.0)
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert type(decode_landmarks(MetaTensor(pred.detach()), 2.0)) is Tensor
    assert decode_landmarks(pred.half(), 2.0).dtype == torch.float32
    assert decode_landmarks(pred.double(), 2.0).dtype == torch.float64


def test_a_radius_that_covers_the_image() -> None:
    pred = torch.randn(1, 3, 4, 4)
    pred[:, 1:] = 0
    assert decode_landmarks(pred, 50.0).tolist() == [[list(divmod(int(pred[0, 0].argmax()), 4))]]


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 4, 8, 8), (1, 0, 8, 8), (1, 3, 8, 8, 8)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(B, 3·L, H, W\)"):
        decode_landmarks(torch.zeros(shape), 2.0)


@pytest.mark.parametrize("radius", [0.9, -1.0, NAN, math.inf])
def test_bad_radius(radius: float) -> None:
    with pytest.raises(ValueError, match="radius must be at least 1"):
        decode_landmarks(torch.zeros(1, 3, 8, 8), radius)


@given(
    points=st.lists(st.tuples(st.floats(-0.5, 59.5), st.floats(-0.5, 39.5)), min_size=1, max_size=5),
    radius=st.floats(2, 8),
)
def test_the_confidence_of_true_maps_is_one_at_the_edge_too(points: list[tuple[float, float]], radius: float) -> None:
    truth = torch.tensor(points).clamp(max=torch.tensor([59.4, 39.4]))
    pred = as_prediction(landmark_maps(truth, (60, 40), radius)[None])
    assert float(landmark_confidence(pred, radius).min()) > 0.85


def test_maps_that_say_nothing_have_little_confidence() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 3 * 4, 80, 64, generator=generator)
    smooth = torch.nn.functional.avg_pool2d(noise, 9, 1, 4)
    for pred in (noise, smooth, torch.zeros_like(noise)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert float(landmark_confidence(pred, 6.0).max()) < 0.4
    blank = landmark_confidence(torch.zeros(1, 3, 8, 8), 2.0)
    assert blank.tolist() == [[0.0]]


def test_two_peaks_halve_the_confidence() -> None:
    maps = landmark_maps(torch.tensor([[20.0, 20.0], [60.0, 40.0]]), (80, 64), 6.0)
    both = torch.cat([maps[:2].amax(0, keepdim=True), maps[2:4].sum(0, keepdim=True), maps[4:].sum(0, keepdim=True)])
    assert landmark_confidence(as_prediction(both[None]), 6.0).item() == pytest.approx(0.5, abs=0.1)
