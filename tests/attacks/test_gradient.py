"""The input gradient: exact in full precision, and in half precision exact up to a factor per sample."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from monai_amat.attacks.gradient import input_gradient


def leaf(*values: float, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor([[value, 2 * value] for value in values], dtype=dtype, requires_grad=True)


def test_full_precision_is_the_plain_gradient() -> None:
    noisy = leaf(1.0, 3.0)
    assert torch.equal(input_gradient(noisy.square().sum(1), noisy), 2 * noisy.detach())


def test_only_the_kept_samples_matter() -> None:
    for dtype in (torch.float32, torch.float16):
        noisy = leaf(1.0, 3.0, 5.0, dtype=dtype)
        loss = noisy.square().sum(1) * torch.tensor([1.0, math.nan, 1.0], dtype=dtype)
        gradient = input_gradient(loss, noisy, kept=torch.tensor([True, False, True]))
        torch.testing.assert_close(gradient / gradient[:, :1], torch.tensor([[1.0, 2.0]] * 2, dtype=dtype))


@pytest.mark.parametrize("companion", [1.0, 1e4, math.nan, math.inf])
def test_in_half_precision_another_sample_changes_nothing(companion: float) -> None:
    """2e-8 rounds to zero without a scale; another sample that overflows must not change that scale."""
    factor = torch.tensor([2e-8, companion])
    noisy = leaf(1.0, 1.0, dtype=torch.float16)
    together = input_gradient((noisy.float() * 1).sum(1) * factor, noisy)
    single = leaf(1.0, dtype=torch.float16)
    alone = input_gradient((single.float() * 1).sum(1) * factor[:1], single)
    assert alone.all()
    assert torch.equal(together[:1], alone)
    if math.isfinite(companion):
        assert torch.isfinite(together).all()
        assert together[1].all()


def test_a_finite_sample_costs_one_backward_and_a_loss_that_is_not_finite_costs_no_more() -> None:
    """No scale helps a loss of NaN, so none is tried."""
    for poison in (1.0, math.nan):
        noisy = leaf(1.0, 1.0, dtype=torch.float16)
        backwards: list[Tensor] = []
        halved = noisy / 2
        halved.register_hook(backwards.append)
        input_gradient(halved.sum(1) * torch.tensor([1.0, poison], dtype=torch.float16), noisy)
        assert len(backwards) == 1


def test_amp_alone_is_enough_to_scale() -> None:
    noisy = leaf(1.0)
    gradient = input_gradient(noisy.half().sum(1).float() * 1e-9, noisy, amp=torch.float16)
    assert gradient.all()


def test_a_loss_apart_from_the_input_is_refused() -> None:
    noisy, other = leaf(1.0), torch.ones(1, requires_grad=True)
    for loss in (other * 2, torch.ones(1)):
        for dtype in (torch.float32, torch.float16):
            with pytest.raises(ValueError, match="must be differentiable in the noisy input"):
                input_gradient(loss.to(dtype), noisy)
