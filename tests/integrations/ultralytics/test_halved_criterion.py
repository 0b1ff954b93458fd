from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from monai_amat.integrations.ultralytics.halved_criterion import DOUBLED, HalvedCriterion


class Theirs:
    """Normalises over the batch and multiplies by the number of images."""

    def __init__(self, as_dict: bool = True) -> None:
        self.as_dict = as_dict
        self.seen: list[int] = []

    def __call__(self, preds: Any, batch: Any) -> tuple[Tensor, Any]:
        values = preds["value"]
        self.seen.append(len(batch["cls"]))
        loss = torch.stack([values.square().sum() / values.abs().sum() + batch["bboxes"].sum(), values.mean()])
        return loss * len(values), dict(zip(("a", "b"), loss.detach(), strict=True)) if self.as_dict else loss.detach()


def batch(**more: Any) -> dict[str, Any]:
    boxes = torch.arange(8.0).reshape(2, 4)
    twice = {"batch_idx": torch.tensor([0.0, 1, 2, 3]), "cls": torch.zeros(4, 1), "bboxes": torch.cat([boxes, boxes])}
    return {**twice, **more}


@pytest.mark.parametrize("as_dict", [True, False])
def test_the_loss_is_the_mean_of_the_halves(as_dict: bool) -> None:
    values = torch.rand(4, 3)
    criterion = Theirs(as_dict)
    loss, items = HalvedCriterion(criterion)({"value": values}, batch(**{DOUBLED: True}))
    assert criterion.seen == [2, 2]
    truth = {"cls": torch.zeros(2, 1), "bboxes": torch.arange(8.0).reshape(2, 4)}
    (first, first_items), (second, second_items) = (
        criterion({"value": half}, truth) for half in (values[:2], values[2:])
    )
    torch.testing.assert_close(loss, (first + second) / 2)
    if as_dict:
        torch.testing.assert_close(items, {name: (first_items[name] + second_items[name]) / 2 for name in first_items})
    else:
        torch.testing.assert_close(items, (first_items + second_items) / 2)


def test_without_noise_the_gradient_is_theirs_to_the_digit() -> None:
    single = torch.rand(2, 3, requires_grad=True)
    truth = {"cls": torch.zeros(2, 1), "bboxes": torch.arange(8.0).reshape(2, 4)}
    (expected,) = torch.autograd.grad(Theirs()({"value": single}, truth)[0].sum(), single)
    loss, _ = HalvedCriterion(Theirs())({"value": torch.cat([single, single])}, batch(**{DOUBLED: True}))
    (found,) = torch.autograd.grad(loss.sum(), single)
    assert torch.equal(found, expected)


def test_any_other_batch_goes_through() -> None:
    criterion = Theirs()
    loss, _ = HalvedCriterion(criterion)({"value": torch.ones(4, 3)}, batch())
    assert criterion.seen == [4]
    torch.testing.assert_close(loss, criterion({"value": torch.ones(4, 3)}, batch())[0])


def test_a_copy_is_a_copy_of_theirs() -> None:
    inner = Theirs()
    holder: dict[str, Any] = {"criterion": HalvedCriterion(inner)}
    twin = copy.deepcopy(holder)["criterion"]
    assert type(twin) is Theirs
    assert twin is not inner
