"""The contract of a per-sample loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from monai_amat.checks import check_per_sample
from monai_amat.losses import PerSampleLoss
from monai_amat.losses.base import full_precision


class TwoTerms(PerSampleLoss):
    """Mean and maximum of the absolute difference."""

    def terms(self, pred: Any, target: Any) -> dict[str, Tensor]:
        """Two terms."""
        gap = (pred - target).abs().flatten(1)
        return {"mean": gap.mean(1), "max": gap.amax(1)}


class Fixed(PerSampleLoss):
    """Returns fixed terms."""

    def __init__(self, terms: Any) -> None:
        super().__init__()
        self.fixed = terms

    def terms(self, pred: Any, target: Any) -> dict[str, Tensor]:
        """The fixed terms."""
        return self.fixed


def test_terms_without_a_weight_have_weight_one() -> None:
    pred, target = torch.tensor([[1.0, 3.0], [0.0, 2.0]]), torch.zeros(2, 2)
    torch.testing.assert_close(TwoTerms()(pred, target), torch.tensor([5.0, 3.0]))
    torch.testing.assert_close(TwoTerms(weights={"max": 0.5})(pred, target), torch.tensor([3.5, 2.0]))
    torch.testing.assert_close(TwoTerms(weights={"max": 0})(pred, target), torch.tensor([2.0, 1.0]))


def test_total_of_given_terms_is_what_forward_returns() -> None:
    pred, target = torch.rand(3, 4), torch.rand(3, 4)
    loss = TwoTerms(weights={"mean": 3.0})
    assert torch.equal(loss.total(loss.terms(pred, target)), loss(pred, target))


def test_judged_and_prediction_defaults() -> None:
    assert TwoTerms().judged == ("total",)
    assert TwoTerms(judged=["mean", "max"]).judged == ("mean", "max")
    pred = {"a": torch.zeros(1)}
    assert TwoTerms().prediction(pred, None) is pred


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": {"mean": -1.0}}, "weight of loss term 'mean'"),
        ({"weights": {"mean": float("nan")}}, "weight of loss term 'mean'"),
        ({"judged": ()}, "judged must be"),
        ({"judged": "total"}, "judged must be"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TwoTerms(**settings)


def test_a_weight_of_an_unknown_term_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the loss terms \['mean', 'max'\], got \['dise'\]$"):
        TwoTerms(weights={"dise": 1.0})(torch.zeros(2, 2), torch.zeros(2, 2))


@pytest.mark.parametrize(
    ("terms", "error", "message"),
    [
        ({"a": torch.tensor(1.0)}, ValueError, r"'a' must hold one value per sample, shape \(2,\), got shape \(\)"),
        ({"a": torch.zeros(2), "b": torch.zeros(2, 3)}, ValueError, r"'b'.*shape \(2, 3\)"),
        ({"a": torch.zeros(1)}, ValueError, r"'a'.*shape \(1,\)"),
        ({"a": 1.0}, TypeError, "'a' must be a tensor.*float"),
        ({}, ValueError, "at least one term"),
        ({"total": torch.zeros(2)}, ValueError, "none of them 'total', got"),
    ],
)
def test_forward_refuses_terms_that_are_not_per_sample(terms: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Fixed(terms)([torch.zeros(2, 1), torch.zeros(2, 5)], torch.zeros(2, 1))


def test_check_per_sample_accepts_an_empty_batch() -> None:
    check_per_sample(torch.zeros(0), 0, "dice")
    with pytest.raises(ValueError, match="dice"):
        check_per_sample(torch.zeros(1), 0, "dice")


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
        (torch.int64, torch.int64),
        (torch.bool, torch.bool),
    ],
)
def test_full_precision_promotes_half_only(dtype: torch.dtype, expected: torch.dtype) -> None:
    assert full_precision(torch.zeros(2, dtype=dtype)).dtype == expected


def test_abstract() -> None:
    with pytest.raises(TypeError, match="terms"):
        PerSampleLoss()  # type: ignore[abstract]
