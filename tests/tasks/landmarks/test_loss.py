"""Heat maps and offsets against a loop over samples, landmarks and pixels, and by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data import MetaTensor
from torch import Tensor

from monai_amat.tasks.landmarks import HeatmapBCE, HeatmapDice, HeatmapOffsetLoss, HeatmapTerm
from monai_amat.tasks.landmarks.transforms.maps import landmark_maps

NAN = float("nan")
POINTS = [
    [[3.2, 4.9], [0.1, 7.4], [NAN, NAN]],
    [[NAN, NAN], [NAN, NAN], [NAN, NAN]],
    [[8.0, 8.0], [8.4, 0.0], [2.5, 2.5]],
]
TERMS = ("heatmap", "offset_y", "offset_x")


def make(seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Prediction and maps `(3, 9, 9, 10)`; sample 0 lacks a landmark, sample 1 has none."""
    maps = torch.stack([landmark_maps(torch.tensor(points), (9, 10), radius=2.5) for points in POINTS])
    pred = 2 * torch.randn(maps.shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return pred, maps


def reference(pred: Tensor, maps: Tensor, kind: str) -> dict[str, list[float]]:
    """The three terms by the formulas, pixel by pixel, in Python's numbers."""
    result: dict[str, list[float]] = {name: [] for name in TERMS}
    landmarks = pred.shape[1] // 3
    for sample_pred, sample_maps in zip(pred.tolist(), maps.tolist(), strict=True):
        heat_scores, gaps, pixels = [], [0.0, 0.0], 0
        for landmark in range(landmarks):
            heat = [value for row in sample_maps[landmark] for value in row]
            probability = [1 / (1 + math.exp(-value)) for row in sample_pred[landmark] for value in row]
            disc = [value > 0 for value in heat]
            if not any(disc):
                continue
            if kind == "dice":
                overlap = sum(p for p, inside in zip(probability, disc, strict=True) if inside)
                heat_scores.append(1 - (2 * overlap + 1e-5) / (sum(probability) + sum(disc) + 1e-5))
            else:
                pairs = list(zip(probability, heat, strict=True))
                entropy = sum(-t * math.log(p) - (1 - t) * math.log(1 - p) for p, t in pairs)
                heat_scores.append(entropy / len(pairs))
            pixels += sum(disc)
            for axis in (0, 1):
                channel = landmarks * (1 + axis) + landmark
                there = [value for row in sample_pred[channel] for value in row]
                truth = [value for row in sample_maps[channel] for value in row]
                gaps[axis] += sum(abs(a - b) for a, b, inside in zip(there, truth, disc, strict=True) if inside)
        result["heatmap"].append(sum(heat_scores) / max(len(heat_scores), 1))
        result["offset_y"].append(gaps[0] / max(pixels, 1))
        result["offset_x"].append(gaps[1] / max(pixels, 1))
    return result


@pytest.mark.parametrize(("kind", "heatmap"), [("dice", HeatmapDice()), ("bce", HeatmapBCE())])
def test_against_the_slow_reference(kind: str, heatmap: HeatmapTerm) -> None:
    pred, maps = make(dtype=torch.float64)
    terms = HeatmapOffsetLoss(heatmap=heatmap).terms(pred, maps)
    expected = reference(pred, maps, kind)
    assert list(terms) == list(TERMS)
    for name in TERMS:
        torch.testing.assert_close(terms[name], torch.tensor(expected[name], dtype=torch.float64))
    assert all(min(values[0], values[2]) > 0 for values in expected.values())


def test_the_authors_weights() -> None:
    pred, maps = make()
    for heatmap, weight in ((HeatmapDice(), 0.5), (HeatmapBCE(), 2.0)):
        loss = HeatmapOffsetLoss(heatmap=heatmap)
        terms = loss.terms(pred, maps)
        torch.testing.assert_close(loss(pred, maps), weight * terms["heatmap"] + terms["offset_y"] + terms["offset_x"])
        assert loss.judged == TERMS
    torch.testing.assert_close(
        HeatmapOffsetLoss(weights={"offset_x": 0.0, "heatmap": 3.0, "offset_y": 0.0})(pred, maps),
        3 * HeatmapOffsetLoss().terms(pred, maps)["heatmap"],
    )


def test_dice_by_hand() -> None:
    # Logits of 0 are one half everywhere: overlap is half the disc.
    maps = landmark_maps(torch.tensor([[4.0, 4.0]]), (9, 10), radius=2.0)[None]
    disc = 9  # the centre, its 8 neighbours; the next ones are 2 pixels away, not inside
    assert int((maps[:, 0] > 0).sum()) == disc
    terms = HeatmapOffsetLoss(heatmap=HeatmapDice(smooth=1e-12)).terms(torch.zeros(1, 3, 9, 10), maps)
    assert terms["heatmap"].item() == pytest.approx(1 - 2 * (disc / 2) / (90 / 2 + disc))
    # |dy| / R is 0, ½ over three columns and three rows.
    assert terms["offset_y"].item() == pytest.approx((3 * 0.5 + 3 * 0.5) / 9)


def test_the_truth_itself_is_best() -> None:
    _, maps = make()
    pred = torch.cat([60 * (maps[:, :3] > 0).float() - 30, maps[:, 3:]], dim=1)
    terms = HeatmapOffsetLoss().terms(pred, maps)
    assert terms["heatmap"].max() < 1e-5
    assert terms["offset_y"].max() == terms["offset_x"].max() == 0
    # Cross-entropy cannot fall below the entropy of the Gaussian, and reaches it where the probabilities are it.
    gaussian = torch.cat([torch.logit(maps[:, :3].clamp(1e-7, 1 - 1e-7)), maps[:, 3:]], dim=1)
    bce = HeatmapOffsetLoss(heatmap=HeatmapBCE())
    best = bce.terms(gaussian, maps)["heatmap"]
    for wrong in (pred, gaussian + 0.1, gaussian - 0.1):
        assert (bce.terms(wrong, maps)["heatmap"] > best)[[0, 2]].all()


def test_missing_landmarks_count_in_no_term() -> None:
    pred, maps = make()
    other = pred.clone()
    other[0, 2::3] = 50.0  # the third landmark of sample 0 is missing
    other[1] = -70.0  # sample 1 has none
    loss = HeatmapOffsetLoss()
    terms = loss.terms(pred, maps)
    for name, values in loss.terms(other, maps).items():
        assert torch.equal(values, terms[name])
        assert values[1] == 0
    assert torch.equal(loss(pred, maps)[1], torch.tensor(0.0))


def test_nothing_outside_the_disc_moves_an_offset() -> None:
    pred, maps = make()
    pred.requires_grad_()
    terms = HeatmapOffsetLoss().terms(pred, maps)
    (gradient,) = torch.autograd.grad(terms["offset_y"].sum() + terms["offset_x"].sum(), pred)
    assert not gradient[:, :3].any()
    disc = (maps[:, :3] > 0).repeat(1, 2, 1, 1)
    assert torch.equal(gradient[:, 3:] != 0, disc)


@given(row=st.integers(0, 2), seed=st.integers(0, 99))
def test_a_sample_depends_on_itself_alone(row: int, seed: int) -> None:
    pred, maps = make(seed)
    pred.requires_grad_()
    for loss in (HeatmapOffsetLoss(), HeatmapOffsetLoss(heatmap=HeatmapBCE())):
        values = loss(pred, maps)
        (gradient,) = torch.autograd.grad(values[row], pred)
        assert bool(gradient.isfinite().all())
        assert not gradient[[other for other in range(3) if other != row]].any()
        assert bool(gradient[row].any()) == (row != 1)
        torch.testing.assert_close(loss(pred[row : row + 1], maps[row : row + 1])[0], values[row])


def test_target_as_a_tree_or_as_maps() -> None:
    pred, maps = make()
    loss = HeatmapOffsetLoss()
    tree = {"maps": maps, "landmarks": torch.tensor(POINTS), "spacing": torch.ones(3, 2)}
    assert torch.equal(loss(pred, tree), loss(pred, maps))
    assert loss.prediction(pred, tree) is pred


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    pred, maps = make()
    half = pred.to(dtype)
    value = HeatmapOffsetLoss()(half, maps)
    assert value.dtype == torch.float32
    assert torch.equal(value, HeatmapOffsetLoss()(half.float(), maps))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(HeatmapOffsetLoss()(half, maps), value)


def test_metadata_stays_out() -> None:
    pred, maps = make()
    value = HeatmapOffsetLoss()(MetaTensor(pred), {"maps": MetaTensor(maps)})
    assert type(value) is Tensor
    assert torch.equal(value, HeatmapOffsetLoss()(pred, maps))


def test_extreme_logits_stay_finite() -> None:
    pred, maps = make()
    for sign in (-1, 1):
        extreme = torch.cat([torch.full_like(pred[:, :3], sign * 1e4), pred[:, 3:]], dim=1).requires_grad_()
        for heatmap in (HeatmapDice(), HeatmapBCE()):
            value = HeatmapOffsetLoss(heatmap=heatmap)(extreme, maps)
            (gradient,) = torch.autograd.grad(value.sum(), extreme)
            assert bool(value.isfinite().all()) and bool(gradient.isfinite().all())


def test_a_broken_prediction_is_seen_where_it_counts() -> None:
    pred, maps = make()
    pred[0, 0, 0, 0] = NAN
    value = HeatmapOffsetLoss()(pred, maps)
    assert value.isnan().tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("pred", "target", "error", "message"),
    [
        (torch.zeros(1, 9, 4, 4), {"landmarks": 0, "spacing": 0}, KeyError, r"'maps'.*\['landmarks', 'spacing'\]"),
        (torch.zeros(1, 9, 4, 4), torch.zeros(1, 6, 4, 4), ValueError, r"\(1, 9, 4, 4\).*\(1, 6, 4, 4\)"),
        (torch.zeros(1, 9, 4, 4), torch.zeros(1, 9, 4, 5), ValueError, "one shape"),
        (torch.zeros(1, 8, 4, 4), torch.zeros(1, 8, 4, 4), ValueError, "one shape"),
        (torch.zeros(1, 9, 4), torch.zeros(1, 9, 4), ValueError, "one shape"),
        (torch.zeros(1, 9, 4, 4), None, TypeError, "the target must be a tensor.*NoneType"),
        ([torch.zeros(1, 9, 4, 4)], torch.zeros(1, 9, 4, 4), TypeError, "pred must be a tensor.*list"),
        (torch.zeros(1, 9, 4, 4).long(), torch.zeros(1, 9, 4, 4), TypeError, "int64"),
    ],
)
def test_bad_input(pred: Any, target: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        HeatmapOffsetLoss().terms(pred, target)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: HeatmapOffsetLoss(weights={"offset": 1.0}), r"'offset_y'.*\['offset'\]"),
        (lambda: HeatmapOffsetLoss(weights={"offset_y": -1.0}), "'offset_y' must be finite"),
        (lambda: HeatmapOffsetLoss(heatmap=HeatmapBCE(weight=NAN)), "'heatmap' must be finite"),
        (lambda: HeatmapDice(smooth=0), "smooth"),
    ],
)
def test_bad_settings(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
