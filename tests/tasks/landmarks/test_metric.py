"""Radial errors worked by hand, and as a robustness metric."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from monai_amat.tasks.landmarks import RadialErrorMetric
from monai_amat.tasks.landmarks.metric import landmark_errors, radial_error
from monai_amat.tasks.landmarks.transforms.maps import landmark_maps

NAN = float("nan")
SIZE = (40, 60)
SPACING = torch.tensor([[0.5, 0.25], [1.0, 1.0], [2.0, 0.1]])  # (y, x) mm
TRUTH = torch.tensor([[[10.0, 20.0], [30.0, 40.0]], [[5.5, 6.5], [NAN, NAN]], [[20.0, 20.0], [12.0, 50.0]]])
SHIFT = torch.tensor([[[6.0, 16.0], [0.0, 0.0]], [[0.0, 2.0], [0.0, 0.0]], [[-2.0, 30.0], [1.0, 0.0]]])
# sqrt((6·0.5)² + (16·0.25)²) = 5; 0; 2; no truth; sqrt(4² + 3²) = 5; 2
ERRORS = [[5.0, 0.0], [2.0, NAN], [5.0, 2.0]]


def prediction(points: Tensor) -> Tensor:
    """Maps of a network that finds exactly these points; a flat heat map for NaN."""
    count = points.shape[1]
    maps = torch.stack([landmark_maps(each, SIZE, 0.05 * SIZE[0]) for each in points])
    heat = torch.where(points.isnan().any(-1)[..., None, None], 0.0, 20 * maps[:, :count] - 10)
    return torch.cat([heat, maps[:, count:]], dim=1)


def found() -> Tensor:
    """Where the network sees the landmarks; anywhere where there is none."""
    return torch.where(TRUTH.isnan(), 33.0, TRUTH) + SHIFT


def target() -> dict[str, Tensor]:
    return {"landmarks": TRUTH, "spacing": SPACING}


def frame_of(pred: Tensor) -> tuple[RadialErrorMetric, pd.DataFrame]:
    metric = RadialErrorMetric(landmarks=2)
    return metric, pd.DataFrame({name: value.numpy() for name, value in metric.columns(pred, target()).items()})


def test_distance_by_hand_with_unequal_spacing() -> None:
    distance = radial_error(TRUTH + SHIFT, TRUTH, SPACING)
    assert distance.dtype == torch.float64
    torch.testing.assert_close(distance, torch.tensor(ERRORS, dtype=torch.float64), equal_nan=True)
    swapped = radial_error(TRUTH + SHIFT, TRUTH, SPACING.flip(1))
    assert swapped[0, 0].item() == pytest.approx(math.hypot(6 * 0.25, 16 * 0.5))


def test_columns_of_a_batch() -> None:
    _, frame = frame_of(prediction(found()))
    assert list(frame) == ["error_1", "error_2", "no_peak_1", "no_peak_2"]
    np.testing.assert_allclose(frame[["error_1", "error_2"]].to_numpy(), ERRORS, atol=1e-4)
    assert not frame[["no_peak_1", "no_peak_2"]].to_numpy().any()


def test_figures_by_hand() -> None:
    metric, frame = frame_of(prediction(found()))
    summary = metric.summary(frame)
    assert next(iter(summary)) == "mre"
    expected = {
        "mre": (5 + 0 + 2 + 5 + 2) / 5,
        # Errors of 2 mm, up to float32 rounding, are on the edge of 2 mm and within 2.5.
        "sdr_2.5": 60.0, "sdr_3": 60.0, "sdr_4": 60.0, "no_peak": 0.0,
        "mre_1": 4.0, "mre_2": 1.0, "sdr_3_1": 100 / 3, "sdr_3_2": 100.0,
    }  # fmt: skip
    for name, value in expected.items():
        assert summary[name] == pytest.approx(value, abs=1e-4), name
    figures = ("mre", "sdr_2", "sdr_2.5", "sdr_3", "sdr_4")
    assert set(summary) == {*figures, "no_peak", *(f"{name}_{i}" for name in figures for i in (1, 2))}


def test_less_than_the_threshold() -> None:
    frame = pd.DataFrame({"error_1": [1.9999999, 2.0, 2.5, 4.0001, NAN], "no_peak_1": [0] * 5})
    summary = RadialErrorMetric(landmarks=1).summary(frame)
    assert [summary[f"sdr_{name}"] for name in ("2", "2.5", "3", "4")] == [25.0, 50.0, 75.0, 75.0]


def test_giving_up_does_not_flatter() -> None:
    points = found()
    points[0, 0] = NAN  # was wrong by 5 mm
    points[1, 1] = NAN  # has no truth
    with pytest.warns(UserWarning, match="2 of 6 heat maps have no peak"):
        metric, frame = frame_of(prediction(points))
    diagonal = math.hypot(40 * 0.5, 60 * 0.25)
    assert frame["error_1"][0] == pytest.approx(diagonal)
    assert math.isnan(frame["error_2"][1])
    assert frame[["no_peak_1", "no_peak_2"]].to_numpy().tolist() == [[1, 0], [0, 0], [0, 0]]
    summary = metric.summary(frame)
    assert summary["mre"] == pytest.approx((diagonal + 0 + 2 + 5 + 2) / 5, abs=1e-4)
    assert summary["no_peak"] == pytest.approx(20.0)
    # No point of the image could be further off, and none is counted as found, however small the image.
    tiny = pd.DataFrame({"error_1": [0.5, 0.5], "no_peak_1": [1, 0]})
    assert RadialErrorMetric(landmarks=1).summary(tiny)["sdr_2"] == 50.0


def test_the_diagonal_is_the_worst_there_is() -> None:
    spacing = torch.tensor([[0.5, 0.25]])
    corners = torch.tensor([[[-0.5, -0.5]], [[39.5, 59.5]]])
    flat = torch.zeros(1, 3, *SIZE)
    with pytest.warns(UserWarning, match="no peak"):
        error = landmark_errors(flat, {"landmarks": corners[:1], "spacing": spacing}, landmarks=1).error
    assert error.item() == pytest.approx(radial_error(corners[1:], corners[:1], spacing).item())


def test_weights_are_repetitions_with_any_leading_axes() -> None:
    draw = np.random.default_rng(0)
    frame = pd.DataFrame({
        "error_1": draw.uniform(0, 6, 8), "error_2": draw.uniform(0, 6, 8), "no_peak_1": 0, "no_peak_2": [1, *[0] * 7],
    })  # fmt: skip
    frame.loc[3, "error_1"] = NAN
    metric = RadialErrorMetric(landmarks=2)
    weights = draw.integers(0, 3, size=(2, 5, len(frame)))
    weighted = metric.summary(frame, weights)
    for where in np.ndindex(2, 5):
        repeated = metric.summary(frame.loc[np.repeat(frame.index, weights[where])])
        for name, values in weighted.items():
            assert values.shape == (2, 5)
            assert values[where] == pytest.approx(repeated[name], nan_ok=True)


def test_where_nothing_counts() -> None:
    empty = pd.DataFrame({"error_1": [NAN, NAN], "no_peak_1": [0, 0]})
    summary = RadialErrorMetric(landmarks=1, thresholds=[1.5]).summary(empty)
    assert list(summary) == ["mre", "sdr_1.5", "no_peak", "mre_1", "sdr_1.5_1"]
    assert all(math.isnan(value) for value in summary.values())


def test_the_radius_is_that_of_the_maps() -> None:
    points = torch.tensor([[[20.4, 30.3]]])
    maps = landmark_maps(points[0], SIZE, 0.2 * SIZE[0])[None]
    pred = torch.cat([20 * maps[:, :1] - 10, maps[:, 1:]], dim=1)
    truth = {"landmarks": points, "spacing": torch.ones(1, 2)}
    right, wrong = (
        landmark_errors(pred, truth, landmarks=1, relative_radius=share).error.item() for share in (0.2, 0.05)
    )
    assert right < 1e-4
    assert wrong > 0.05


@pytest.mark.parametrize(
    ("pred", "truth", "error", "message"),
    [
        (torch.zeros(3, 9, 40, 60), target(), ValueError, r"2 landmarks need maps \(B, 6, H, W\)"),
        (torch.zeros(3, 6, 40), target(), ValueError, r"\(3, 6, 40\)"),
        (torch.randn(3, 6, 40, 60), {"spacing": SPACING}, KeyError, r"\['landmarks'\].*with \['spacing'\]"),
        (torch.randn(3, 6, 40, 60), {**target(), "spacing": SPACING[:, :1]}, ValueError, r"spacing must be \(3, 2\)"),
        (
            torch.randn(3, 6, 40, 60),
            {**target(), "landmarks": TRUTH[:, :1]},
            ValueError,
            r"\(3, 2, 2\) and \(3, 1, 2\)",
        ),
    ],
)
def test_bad_input(pred: Tensor, truth: dict[str, Tensor], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        RadialErrorMetric(landmarks=2).columns(pred, truth)


@pytest.mark.parametrize(
    "settings",
    [
        {"landmarks": 0},
        {"relative_radius": 0.0},
        {"relative_radius": NAN},
        {"thresholds": ()},
        {"thresholds": (2.0, 0.0)},
        {"thresholds": (NAN,)},
    ],
)
def test_bad_settings(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        RadialErrorMetric(**{"landmarks": 2} | settings)


def test_missing_columns_are_named() -> None:
    metric, frame = frame_of(prediction(found()))
    with pytest.raises(KeyError, match="no_peak_2"):
        metric.summary(frame.drop(columns="no_peak_2"))
