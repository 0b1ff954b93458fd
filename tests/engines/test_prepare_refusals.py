"""What cannot be prepared, and what the error says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.engines.utils import PrepareBatch
from torch import nn

from monai_amat.attacks import BoundaryPGD, Restarts
from monai_amat.losses import PerSample
from monai_amat.margins import Absolute, AdaptiveMargins, PaperRule, Relative, SampleMargins
from tests.engines.preparing import (
    adversarial,
    batch,
    instance_net,
    noisy,
)


def test_losses_that_are_not_per_sample_are_refused() -> None:
    for make in (adversarial, lambda **settings: noisy(instance_net(), **settings)):
        with pytest.raises(TypeError, match=r"CrossEntropyLoss is not a PerSampleLoss.*PerSample\(loss\)"):
            make(loss=nn.CrossEntropyLoss())
        make(loss=PerSample(nn.MSELoss()))


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf")])
def test_impossible_radii_are_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="radius must be finite and not negative"):
        adversarial(radius=wrong)
    with pytest.raises(ValueError, match="epsilon must be finite and not negative"):
        noisy(instance_net(), epsilon=wrong)


@pytest.mark.parametrize("wrong", ["2.5", None, object()])
def test_a_radius_is_a_number_or_goes_by_id(wrong: Any) -> None:
    with pytest.raises(TypeError, match="radius must be a number or an object with one radius per sample ID"):
        adversarial(radius=wrong)


def test_numbers_of_any_kind_are_radii() -> None:
    expected = adversarial(radius=2)(batch())[0]
    for radius in (2.0, np.float32(2.0), np.int64(2)):
        assert torch.equal(adversarial(radius=radius)(batch())[0], expected)


def test_attacks_that_follow_a_boundary_need_one_and_are_not_for_evaluation() -> None:
    for attack in (BoundaryPGD(), Restarts(BoundaryPGD(), 2)):
        with pytest.raises(ValueError, match="follows the acceptance boundary; give acceptance="):
            adversarial(attack=attack)
    with pytest.raises(ValueError, match="BoundaryPGD stops at a boundary and cannot be used for evaluation"):
        noisy(instance_net(), attack=BoundaryPGD())


def test_thresholds_must_be_for_the_judged_terms() -> None:
    with pytest.raises(ValueError, match=r"for the terms \['dice'\], got DiceCELoss with \['total'\]"):
        adversarial(acceptance=Absolute({"dice": 1.0, "total": 1.0}))


def test_margins_need_ids() -> None:
    of = batch()
    prepare = adversarial(
        radius=AdaptiveMargins(SampleMargins(4, 1.0), acceptance=Relative(1.0), rule=PaperRule(step=1.0))
    )
    with pytest.raises(KeyError, match=r"no 'sample_id'.*IndexedDataset"):
        prepare({key: of[key] for key in ("image", "label")})
    with pytest.raises(KeyError, match="no 'sample_id'"):
        prepare((of["image"], of["label"]))
    with pytest.raises(ValueError, match="'sample_id' must hold one ID per sample, got 3 IDs for 4 samples"):
        prepare({**of, "sample_id": torch.arange(3)})
    with pytest.raises(IndexError, match=r"0 … 3, got 1 … 4"):
        prepare({**of, "sample_id": torch.arange(1, 5)})


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ((torch.zeros(2, 1, 8, 8), None), ValueError, r"must return \(inputs, targets"),
        (torch.zeros(2, 1, 8, 8), ValueError, r"must return \(inputs, targets"),
        ((torch.zeros(2, 1, 8, 8),) * 3, ValueError, r"must return \(inputs, targets"),
        (([torch.zeros(2)], torch.zeros(2)), TypeError, "one input tensor, got list"),
        ((torch.zeros(2, 1, 8, 8), torch.zeros(3, 1, 8, 8)), ValueError, r"first sizes are \[2, 3\]"),
        ((torch.zeros(0, 1, 8, 8), torch.zeros(0, 1, 8, 8)), ValueError, "the batch holds no sample"),
        ((torch.zeros(2, 1, 8, 8).long(), torch.zeros(2, 1, 8, 8)), TypeError, "floating-point inputs"),
    ],
)
def test_what_an_attack_cannot_use_is_named(given: Any, error: type[Exception], message: str) -> None:
    class Inner(PrepareBatch):
        def __call__(self, batchdata: Any, *_: Any, **__: Any) -> Any:
            return given

    for prepare in (adversarial(prepare_batch=Inner()), noisy(instance_net(), prepare_batch=Inner())):
        with pytest.raises(error, match=message):
            prepare({})


def test_as_many_seeds_as_samples() -> None:
    with pytest.raises(ValueError, match="seeds must be one per sample, 4 in all, got 3"):
        adversarial()({**batch(), "sample_seed": torch.arange(3)})
