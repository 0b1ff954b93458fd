"""Dice with cross-entropy against MONAI, torch and hand-worked numbers."""

from __future__ import annotations

import math
import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai import losses as monai_losses
from monai.data import MetaTensor
from monai.networks import one_hot
from monai.networks.nets import DynUNet
from torch import Tensor
from torch.nn import functional

from monai_amat.tasks.segmentation import DiceCELoss
from monai_amat.tasks.segmentation.loss import _checked
from tests.tasks.segmentation.segments import SIZES, each, make


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("smooth", [1e-5, 1.0])
@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("form", ["labels", "float labels", "uint8 labels", "one-hot", "integer one-hot"])
def test_softmax_equals_monai_on_batches_of_one(size: tuple[int, ...], smooth: float, channels: int, form: str) -> None:
    logits, labels = make(3, channels, size)
    target = {
        "labels": labels,
        "float labels": labels.float(),
        "uint8 labels": labels.byte(),
        "one-hot": one_hot(labels, channels),
        "integer one-hot": one_hot(labels, channels).long(),
    }[form]
    terms = DiceCELoss(smooth=smooth).terms(logits, target)
    dice = monai_losses.DiceLoss(
        include_background=False, to_onehot_y=True, softmax=True, smooth_nr=smooth, smooth_dr=smooth
    )
    torch.testing.assert_close(terms["dice"], each(dice, logits, labels))
    ce = functional.cross_entropy(logits, labels[:, 0], reduction="none").flatten(1).mean(1)
    torch.testing.assert_close(terms["ce"], ce)
    both = monai_losses.DiceCELoss(
        include_background=False, to_onehot_y=True, softmax=True, smooth_nr=smooth, smooth_dr=smooth
    )
    torch.testing.assert_close(DiceCELoss(smooth=smooth)(logits, target), each(both, logits, labels))


@pytest.mark.parametrize("size", SIZES)
def test_soft_targets_equal_monai_and_torch(size: tuple[int, ...]) -> None:
    logits, _ = make(3, 3, size)
    target = torch.softmax(make(3, 3, size, seed=1)[0], dim=1)
    terms = DiceCELoss().terms(logits, target)
    dice = monai_losses.DiceLoss(include_background=False, softmax=True)
    torch.testing.assert_close(terms["dice"], each(dice, logits, target))
    torch.testing.assert_close(terms["ce"], each(functional.cross_entropy, logits, target))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("smooth", [1e-5, 1.0])
def test_sigmoid_equals_monai_and_torch(size: tuple[int, ...], channels: int, smooth: float) -> None:
    logits, _ = make(3, channels, size)
    target = make(3, channels, size, seed=1)[0] > 0.5
    terms = DiceCELoss(activation="sigmoid", smooth=smooth).terms(logits, target)
    dice = monai_losses.DiceLoss(sigmoid=True, smooth_nr=smooth, smooth_dr=smooth)
    torch.testing.assert_close(terms["dice"], each(dice, logits, target.float()))
    bce = functional.binary_cross_entropy_with_logits(logits, target.float(), reduction="none")
    torch.testing.assert_close(terms["ce"], bce.flatten(1).mean(1))


def test_weights_scale_the_terms() -> None:
    logits, labels = make(2, 3, (5, 5))
    terms = DiceCELoss().terms(logits, labels)
    weighted = DiceCELoss(weights={"dice": 2.0, "ce": 0.5})(logits, labels)
    torch.testing.assert_close(weighted, 2 * terms["dice"] + 0.5 * terms["ce"])


def test_present_against_all_worked_by_hand() -> None:
    # Uniform logits: p = 1/3 everywhere on 4 pixels, so a class has sum(p) = 4/3.
    logits = torch.zeros(3, 3, 2, 2)
    labels = torch.tensor([[[[0, 1], [1, 2]]], [[[0, 0], [1, 1]]], [[[0, 0], [0, 0]]]])
    one, two = 2 * (1 / 3) / (4 / 3 + 1), 2 * (2 / 3) / (4 / 3 + 2)  # Dice of a class of one pixel, of two pixels
    every = DiceCELoss(smooth=1e-12).terms(logits, labels)["dice"]
    torch.testing.assert_close(every, torch.tensor([1 - (two + one) / 2, 1 - two / 2, 1.0]))
    terms = DiceCELoss(smooth=1e-12, dice_over="present").terms(logits, labels)
    torch.testing.assert_close(terms["dice"], torch.tensor([1 - (two + one) / 2, 1 - two, 0.0]))
    torch.testing.assert_close(terms["ce"], torch.full((3,), math.log(3)))


def test_present_sends_no_dice_gradient_into_absent_classes() -> None:
    # Sigmoid channels are independent, so an absent one may only be moved by the cross-entropy.
    logits = torch.randn(1, 2, 4, 4, requires_grad=True)
    target = torch.zeros(1, 2, 4, 4)
    target[:, 0, :2] = 1
    DiceCELoss(activation="sigmoid", dice_over="present").terms(logits, target)["dice"].sum().backward()
    assert logits.grad is not None
    assert logits.grad[0, 0].abs().min() > 0
    assert logits.grad[0, 1].abs().max() == 0


@pytest.mark.parametrize("container", [list, tuple])
@pytest.mark.parametrize("size", SIZES)
def test_stacked_heads_equal_listed_heads_and_the_formula(container: type, size: tuple[int, ...]) -> None:
    heads = [make(3, 3, size, seed=i)[0] for i in range(3)]
    labels = make(3, 3, size, seed=9)[1]
    loss, single = DiceCELoss(), DiceCELoss()
    expected = (4 * single(heads[0], labels) + 2 * single(heads[1], labels) + single(heads[2], labels)) / 7
    torch.testing.assert_close(loss(container(heads), labels), expected)
    assert torch.equal(loss(torch.stack(heads, dim=1), labels), loss(container(heads), labels))


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_low_heads_meet_the_target_at_their_resolution(activation: Any) -> None:
    # Every 2x2 block is constant, so nearest neighbour must give the blocks' labels, whichever corner it takes.
    small = make(2, 3, (4, 3), seed=3)[1]
    coarse = small if activation == "softmax" else one_hot(small, 3)
    full = coarse.repeat_interleave(2, -1).repeat_interleave(2, -2)
    heads = [make(2, 3, (8, 6), seed=1)[0], make(2, 3, (4, 3), seed=2)[0]]
    loss = DiceCELoss(activation=activation)
    expected = (2 * loss(heads[0], full) + loss(heads[1], coarse)) / 3
    torch.testing.assert_close(loss(heads, full), expected)


def test_deep_supervision_equals_monais_on_odd_sizes() -> None:
    heads = [make(1, 3, size, seed=i)[0] for i, size in enumerate([(9, 7), (5, 4), (3, 2)])]
    labels = make(1, 3, (9, 7), seed=5)[1].float()
    inner = monai_losses.DiceCELoss(include_background=False, to_onehot_y=True, softmax=True)
    expected = monai_losses.DeepSupervisionLoss(inner)(heads, labels) / 1.75  # MONAI's weights are not normalised
    torch.testing.assert_close(DiceCELoss()(heads, labels), expected[None])


def test_head_weights_are_normalised_and_unused_for_one_tensor() -> None:
    heads = [make(2, 3, (6, 6), seed=i)[0] for i in range(2)]
    labels = make(2, 3, (6, 6), seed=5)[1]
    loss = DiceCELoss(head_weights=[3, 1])
    plain = DiceCELoss()
    torch.testing.assert_close(loss(heads, labels), 0.75 * plain(heads[0], labels) + 0.25 * plain(heads[1], labels))
    assert torch.equal(loss(heads[0], labels), plain(heads[0], labels))
    with pytest.raises(ValueError, match="one weight per head, 3, got 2"):
        loss([*heads, heads[0]], labels)


def test_prediction_is_the_full_resolution_head() -> None:
    heads = [make(2, 3, (6, 6), seed=i)[0] for i in range(2)]
    labels = make(2, 3, (6, 6))[1]
    loss = DiceCELoss()
    assert loss.prediction(heads[0], labels) is heads[0]
    assert loss.prediction(heads, labels) is heads[0]
    assert torch.equal(loss.prediction(torch.stack(heads, 1), labels), heads[0])


def test_dynunet_in_train_and_eval_mode() -> None:
    network = DynUNet(2, 1, 3, [3, 3, 3], [1, 2, 2], [2, 2], [4, 6, 8], deep_supervision=True, deep_supr_num=1)
    image, labels = torch.randn(2, 1, 16, 16), make(2, 3, (16, 16))[1]
    loss = DiceCELoss()
    pred = network(image)
    assert pred.shape == (2, 2, 3, 16, 16)
    value = loss(pred, labels)
    value.mean().backward()
    assert value.shape == (2,)
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in network.parameters())
    # Instance norm behaves alike in both modes, so the full-resolution head is the evaluated network's output.
    torch.testing.assert_close(loss.prediction(pred, labels), network.eval()(image))


batches = st.fixed_dictionaries(
    {
        "batch": st.integers(2, 4),
        "channels": st.integers(2, 4),
        "size": st.lists(st.integers(2, 4), min_size=2, max_size=3).map(tuple),
        "seed": st.integers(0, 999),
    }
)
kinds = st.fixed_dictionaries(
    {"activation": st.sampled_from(["softmax", "sigmoid"]), "dice_over": st.sampled_from(["all", "present"])}
)


def case(activation: Any, batch: int, channels: int, size: tuple[int, ...], seed: int) -> tuple[Tensor, Tensor]:
    """Logits and a target that suits the activation."""
    logits, labels = make(batch, channels, size, seed)
    return logits, labels if activation == "softmax" else one_hot(labels, channels)


@given(batches, kinds, st.integers(1, 3))
def test_a_sample_never_depends_on_another(shape: dict[str, Any], kind: dict[str, Any], heads: int) -> None:
    logits, target = case(kind["activation"], **shape)
    pred = torch.stack([logits * (h + 1) for h in range(heads)], 1).requires_grad_()
    values = DiceCELoss(**kind)(pred, target)
    for i in range(shape["batch"]):
        (gradient,) = torch.autograd.grad(values[i], pred, retain_graph=True)
        others = [j for j in range(shape["batch"]) if j != i]
        assert gradient[i].abs().max() > 0
        assert gradient[others].abs().max() == 0


@given(batches, kinds, st.randoms(use_true_random=False))
def test_permuting_the_batch_permutes_the_losses(
    shape: dict[str, Any], kind: dict[str, Any], shuffler: random.Random
) -> None:
    logits, target = case(kind["activation"], **shape)
    order = shuffler.sample(range(shape["batch"]), shape["batch"])
    loss = DiceCELoss(**kind)
    torch.testing.assert_close(loss(logits[order], target[order]), loss(logits, target)[order])


@given(batches, kinds)
def test_terms_lie_in_their_range(shape: dict[str, Any], kind: dict[str, Any]) -> None:
    terms = DiceCELoss(**kind).terms(*case(kind["activation"], **shape))
    assert bool((terms["dice"] >= -1e-6).all()) and bool((terms["dice"] <= 1 + 1e-6).all())
    assert bool((terms["ce"] >= 0).all())


def test_a_broken_neighbour_changes_nothing() -> None:
    logits, labels = make(3, 3, (5, 5))
    before = DiceCELoss()(logits, labels)
    logits[1] = math.nan
    after = DiceCELoss()(logits, labels)
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    assert bool(after[1].isnan())


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_a_perfect_prediction_scores_zero(activation: Any) -> None:
    truth = one_hot(make(2, 3, (5, 5))[1], 3)
    assert DiceCELoss(activation=activation)(200 * (truth - 0.5), truth).abs().max() < 1e-5


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("dice_over", ["all", "present"])
def test_gradcheck(activation: Any, dice_over: Any) -> None:
    logits, labels = make(2, 3, (3, 2), dtype=torch.float64)
    target = labels if activation == "softmax" else one_hot(labels, 3)
    loss = DiceCELoss(activation=activation, dice_over=dice_over, smooth=0.1)
    heads = torch.stack([logits, -logits], 1).requires_grad_()
    assert loss(heads, target).dtype == torch.float64
    assert torch.autograd.gradcheck(lambda pred: loss(pred, target), heads)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype, activation: Any) -> None:
    logits, labels = make(2, 3, (32, 32))
    target = labels if activation == "softmax" else one_hot(labels, 3)
    half = logits.to(dtype)
    loss = DiceCELoss(activation=activation)
    with torch.autocast("cpu", dtype=dtype):
        terms = loss.terms(half, target.to(dtype))
        value = loss(half, target)
    assert {term.dtype for term in terms.values()} == {torch.float32}
    # What the loss adds to the rounding of the logits themselves is that of float32.
    assert torch.equal(value, loss(half.float(), target))


def test_autocast_around_the_network_too() -> None:
    convolution = torch.nn.Conv2d(1, 3, 3, padding=1)
    labels = make(2, 3, (8, 8))[1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pred = convolution(torch.randn(2, 1, 8, 8))
        value = DiceCELoss()(pred, labels)
    assert (pred.dtype, value.dtype) == (torch.bfloat16, torch.float32)
    value.mean().backward()
    assert convolution.weight.grad is not None
    assert convolution.weight.grad.abs().max() > 0


def test_metatensors_give_plain_tensors() -> None:
    logits, labels = make(2, 3, (6, 6))
    meta = MetaTensor(logits).requires_grad_()
    value = DiceCELoss()(meta, MetaTensor(labels))
    assert type(value) is torch.Tensor
    assert torch.equal(value, DiceCELoss()(logits, labels))
    value.sum().backward()
    assert meta.grad is not None
    assert meta.grad.abs().max() > 0


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_an_empty_batch_gives_no_values(activation: Any) -> None:
    target = torch.zeros(0, 1 if activation == "softmax" else 3, 4, 4)
    assert DiceCELoss(activation=activation)(torch.zeros(0, 3, 4, 4), target).shape == (0,)


def test_on_an_accelerator_an_impossible_label_makes_its_sample_nan_instead_of_waiting() -> None:
    logits, labels = make(3, 3, (4, 4))
    truth, valid = one_hot(labels, 3), torch.ones(3, 1, 4, 4, dtype=torch.bool)
    valid[1, 0, 2, 3] = False
    elsewhere: Any = SimpleNamespace(device=torch.device("cuda"))
    values = DiceCELoss()(logits, labels)
    dice, ce = DiceCELoss()._dice_ce(logits, _checked(truth, valid, elsewhere, "be labels"))
    assert torch.equal((dice + ce)[[0, 2]], values[[0, 2]])
    assert bool((dice + ce)[1].isnan())


@pytest.mark.gpu
def test_cuda_agrees_with_the_cpu_deterministically() -> None:
    logits, labels = make(3, 3, (9, 7))
    pred, wrong = torch.stack([logits, 2 * logits], 1).cuda().requires_grad_(), labels.clone()
    wrong[1, 0, 0, 0] = 3
    torch.use_deterministic_algorithms(True)
    try:
        value = DiceCELoss()(pred, labels.cuda())
        value.sum().backward()
        broken = DiceCELoss()(pred, wrong.cuda())
    finally:
        torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(value.cpu(), DiceCELoss()(pred.detach().cpu(), labels))
    assert broken.isnan().tolist() == [False, True, False]
