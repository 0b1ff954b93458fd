"""The arithmetic of the Dice indices, by hand, against other libraries, and as properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.metrics import DiceMetric
from sklearn.metrics import f1_score
from torch import Tensor
from torch.nn.functional import one_hot

from monai_amat.tasks.segmentation.overlap import average_dice, dice, dice_counts, foreground, total_dice

TRUTH = torch.tensor([[[[1, 1, 0], [2, 0, 0]]], [[[0, 0, 0], [0, 0, 0]]]])
GUESS = torch.tensor([[[[1, 0, 0], [2, 2, 0]]], [[[0, 0, 2], [0, 0, 0]]]])
# Sample 0: class 1 hits 1 of 2, class 2 hits its 1 and one more. Sample 1 is empty, class 2 is predicted once.
COUNTS = [[[1, 0, 1], [1, 1, 0]], [[0, 0, 0], [0, 1, 0]]]


def channels(labels: Tensor, classes: int = 3) -> Tensor:
    return one_hot(labels[:, 0], classes).movedim(-1, 1)


def test_counts_by_hand() -> None:
    counts = dice_counts(channels(GUESS).float() * 5 - 2, TRUTH, 2)
    assert counts.dtype == torch.int64
    assert counts.tolist() == COUNTS


@pytest.mark.parametrize("target", [TRUTH, channels(TRUTH), MetaTensor(TRUTH.float())])
def test_forms_of_the_same_input_count_alike(target: Tensor) -> None:
    logits = channels(GUESS).float() * 9 - 4
    for pred in (channels(GUESS), logits, logits.softmax(dim=1), MetaTensor(logits)):
        counts = dice_counts(pred, target, 2)
        assert counts.tolist() == COUNTS
        assert type(counts) is Tensor


def test_sigmoid_channels_may_overlap() -> None:
    logits = torch.tensor([[[1.0, 2.0, -1.0], [3.0, -0.5, -2.0]]])
    target = torch.tensor([[[1, 1, 0], [1, 1, 0]]])
    assert dice_counts(logits, target, 2, prediction="sigmoid").tolist() == [[[2, 0, 0], [1, 0, 1]]]
    assert dice_counts((logits > 0).float(), target, 2, prediction="sigmoid").tolist() == [[[2, 0, 0], [1, 0, 1]]]
    assert foreground(torch.tensor([[[0.2, 0.8]]]), 1, prediction="sigmoid").tolist() == [[[True, True]]]


def test_a_prediction_may_be_a_label_map_with_softmax() -> None:
    """As MONAI's postprocessing makes it, `AsDiscreted("pred", argmax=True)`."""
    labels, truth = torch.tensor([[[0, 1, 2, 2]]]), torch.tensor([[[0, 1, 1, 2]]])
    assert dice_counts(labels, truth, 2).tolist() == dice_counts(channels(labels), truth, 2).tolist()
    with pytest.raises(ValueError, match="the prediction is a label map, which must hold whole numbers from 0 to 2"):
        dice_counts(labels + 1, truth, 2)


def test_channels_that_overlap_are_no_softmax_truth() -> None:
    truth = torch.tensor([[[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 0, 0]]])  # core in whole, enhancing in core
    with pytest.raises(ValueError, match=r"must be one-hot with 'softmax'.*prediction='sigmoid'"):
        foreground(truth, 2, prediction="softmax", truth=True)
    assert foreground(truth, 3, prediction="sigmoid", truth=True).sum().item() == 6


def test_one_sigmoid_channel_takes_a_binary_map() -> None:
    assert dice_counts(
        torch.tensor([[[1.0, -1.0, 1.0]]]), torch.tensor([[[1, 1, 0]]]), 1, prediction="sigmoid"
    ).tolist() == [[[1, 1, 1]]]


def test_three_dimensions() -> None:
    labels = torch.randint(0, 3, (2, 1, 4, 5, 6), generator=torch.Generator().manual_seed(0))
    counts = dice_counts(channels(labels), labels, 2)
    assert counts[..., 1:].sum() == 0
    assert counts[0, 1, 0] == (labels[0] == 2).sum()


def test_counts_stay_exact_beyond_single_precision() -> None:
    counts = torch.tensor([[[2**24 + 1, 0, 0]], [[0, 0, 1]]])
    expected = 2 * (2**24 + 1) / (2 * (2**24 + 1) + 1)
    assert total_dice(counts).mean.item() == expected


def test_indices_by_hand() -> None:
    counts = torch.tensor([*COUNTS, [[3, 0, 0], [0, 0, 0]], [[0, 0, 2], [0, 2, 0]]])
    # Sample 0: (2/3 + 2/3)/2. Sample 1 has no foreground: left out though class 2 is predicted. Sample 2: class 1
    # alone. Sample 3: class 1 missed, class 2 predicted where there is none: both 0.
    any_class = average_dice(counts)
    assert any_class.mean.item() == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert any_class.per_class.tolist() == pytest.approx([(2 / 3 + 1 + 0) / 3, (2 / 3 + 0) / 2])
    every_class = average_dice(counts, slices="every")
    assert every_class.mean.item() == pytest.approx(2 / 3)
    total = total_dice(counts)
    assert total.per_class.tolist() == pytest.approx([8 / 11, 2 / 6])
    assert total.mean.item() == pytest.approx((8 / 11 + 2 / 6) / 2)


def test_nothing_that_counts_is_nan_and_an_absent_class_is_left_out() -> None:
    empty = torch.zeros(3, 2, 3, dtype=torch.int64)
    assert average_dice(empty).mean.isnan()
    assert total_dice(empty).mean.isnan()
    assert total_dice(torch.tensor([[[1, 0, 0], [0, 0, 0]]])).mean.item() == 1.0
    assert average_dice(torch.tensor([[[1, 0, 0], [0, 0, 0]]]), slices="every").mean.isnan()
    assert math.isnan(dice(torch.tensor([0, 0, 0])).item())


labels_strategy = st.integers(0, 2**32 - 1).map(
    lambda seed: torch.randint(0, 3, (2, 5, 1, 4, 4), generator=torch.Generator().manual_seed(seed))
)


@given(labels_strategy)
@settings(max_examples=25, deadline=None)
def test_agrees_with_monai_where_every_class_is_present(pair: Tensor) -> None:
    guess, truth = pair
    truth = truth.clone()
    truth[:, :, 0, :2] = torch.tensor([1, 2])
    metric = DiceMetric(include_background=False, reduction="mean")
    metric(channels(guess), channels(truth))
    ours = average_dice(dice_counts(channels(guess), truth, 2), slices="every")
    assert ours.mean.item() == pytest.approx(metric.aggregate().item(), abs=1e-6)  # type: ignore[union-attr]


@given(labels_strategy)
@settings(max_examples=25, deadline=None)
def test_total_agrees_with_scikit_learn(pair: Tensor) -> None:
    guess, truth = pair
    expected = f1_score(
        truth.flatten().numpy(), guess.flatten().numpy(), labels=[1, 2], average=None, zero_division=np.nan
    )
    ours = total_dice(dice_counts(channels(guess), truth, 2))
    np.testing.assert_allclose(ours.per_class.numpy(), expected, equal_nan=True)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_a_weight_is_a_repetition(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, 3, (6, 2, 3), generator=draw)
    weights = torch.randint(0, 3, (4, 6), generator=draw)
    for index in (lambda c, w=None: average_dice(c, weights=w), lambda c, w=None: total_dice(c, weights=w)):
        weighted = index(counts, weights)
        for r, repeats in enumerate(weights):
            repeated = index(counts.repeat_interleave(repeats, dim=0))
            torch.testing.assert_close(weighted.mean[r], repeated.mean, equal_nan=True)
            torch.testing.assert_close(weighted.per_class[r], repeated.per_class, equal_nan=True)


@pytest.mark.parametrize(
    ("pred", "target", "message"),
    [
        (torch.zeros(1, 2, 4), torch.zeros(1, 1, 4), r"prediction must be \(B, 3"),
        (torch.zeros(1, 3, 4), torch.zeros(1, 2, 4), r"truth must be \(B, 3.*or a label map"),
        (torch.zeros(1, 3, 4), torch.zeros(1, 1, 5), "differ in batch or space"),
        (torch.zeros(1, 3, 4), torch.full((1, 1, 4), 3), "whole numbers from 0 to 2, got values from 3 to 3"),
        (torch.zeros(1, 3, 4), torch.full((1, 1, 4), 0.5), "whole numbers"),
        (torch.zeros(1, 3, 4), torch.full((1, 1, 4), -1), "whole numbers"),
        (torch.zeros(1, 3, 4), torch.full((1, 1, 4), math.nan), "whole numbers"),
        (torch.zeros(1, 3), torch.zeros(1, 1), r"expected \(B, channels, \*spatial\)"),
    ],
)
def test_what_does_not_fit_is_refused(pred: Tensor, target: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dice_counts(pred, target, 2)


@pytest.mark.parametrize(
    "truth", [torch.tensor([[[120.0, 4.0], [33.0, 88.0]]]), torch.full((1, 2, 2), 0.7), torch.full((1, 2, 2), math.nan)]
)
def test_channels_that_are_no_masks_are_refused_with_sigmoid(truth: Tensor) -> None:
    """Coordinates, which another kind of network predicts, and probabilities."""
    with pytest.raises(ValueError, match=r"must hold 0 and 1 alone.*got values from .*coordinates.* need a metric"):
        dice_counts(torch.zeros(1, 2, 2), truth, 2, prediction="sigmoid")
    with pytest.raises(ValueError, match=r"must be one-hot.*0 and 1 alone.*need a metric"):
        dice_counts(torch.zeros(1, 2, 2), truth, 1)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="'softmax' or 'sigmoid'"):
        dice_counts(torch.zeros(1, 3, 4), torch.zeros(1, 1, 4), 2, prediction="argmax")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'any' or 'every'"):
        average_dice(torch.zeros(1, 1, 3), slices="all")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tp, fp, fn last"):
        total_dice(torch.zeros(1, 3))
