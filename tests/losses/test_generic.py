"""Any loss made per-sample."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai import losses as monai_losses
from monai.data import MetaTensor
from monai.networks import one_hot
from torch import Tensor, nn
from torch.nn import functional

from monai_amat.losses import PerSample
from monai_amat.tasks.segmentation import DiceCELoss


def make(batch: int = 3, channels: int = 3, size: tuple[int, ...] = (6, 5), seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits and a label map."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, channels, *size, generator=generator)
    return logits, torch.randint(0, channels, (batch, 1, *size), generator=generator)


@pytest.mark.parametrize("size", [(6, 5), (4, 3, 5)])
def test_monais_dice_ce_equals_ours(size: tuple[int, ...]) -> None:
    logits, labels = make(size=size)
    wrapped = PerSample(monai_losses.DiceCELoss(include_background=False, to_onehot_y=True, softmax=True))
    torch.testing.assert_close(wrapped(logits, labels), DiceCELoss()(logits, labels))


def test_deep_supervision_loss_equals_ours() -> None:
    heads = [make(size=size, seed=i)[0] for i, size in enumerate([(8, 8), (4, 4)])]
    labels = make(size=(8, 8), seed=7)[1].float()
    inner = monai_losses.DiceCELoss(include_background=False, to_onehot_y=True, softmax=True)
    wrapped = PerSample(monai_losses.DeepSupervisionLoss(inner))
    torch.testing.assert_close(wrapped(heads, labels) / 1.5, DiceCELoss()(heads, labels))
    assert wrapped.prediction(heads, labels) is heads[0]
    assert wrapped.prediction(heads[0], labels) is heads[0]


def test_prediction_is_pred_for_other_losses() -> None:
    pred = [torch.zeros(2, 1), torch.zeros(2, 1)]
    assert PerSample(nn.MSELoss()).prediction(pred, None) is pred


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_torch_cross_entropy(reduction: str) -> None:
    logits, labels = make()
    expected = functional.cross_entropy(logits, labels[:, 0], reduction="none").flatten(1).mean(1)
    wrapped = PerSample(nn.CrossEntropyLoss(reduction=reduction), name="ce")
    torch.testing.assert_close(wrapped.terms(logits, labels[:, 0])["ce"], expected)


def test_unreduced_monai_dice_is_averaged() -> None:
    logits, labels = make()
    target = one_hot(labels, 3)
    none, mean = (PerSample(monai_losses.DiceLoss(softmax=True, reduction=how)) for how in ("none", "mean"))
    torch.testing.assert_close(none(logits, target), mean(logits, target))


def test_trees_and_plain_functions() -> None:
    def loss(pred: Any, target: Any) -> Tensor:
        return (pred["a"] - target[0]).abs().mean() + 10 * (pred["b"] - target[1]).abs().mean()

    pred = {"a": torch.tensor([[1.0], [2.0]]), "b": torch.tensor([[0.0, 2.0], [3.0, 3.0]])}
    target = (torch.zeros(2, 1), torch.zeros(2, 2))
    torch.testing.assert_close(PerSample(loss)(pred, target), torch.tensor([11.0, 32.0]))


@given(st.integers(2, 4), st.integers(2, 3), st.integers(0, 99))
def test_a_sample_never_depends_on_another(batch: int, channels: int, seed: int) -> None:
    logits, labels = make(batch, channels, (3, 4), seed)
    logits.requires_grad_()
    values = PerSample(monai_losses.DiceLoss(to_onehot_y=True, softmax=True))(logits, labels)
    for i in range(batch):
        (gradient,) = torch.autograd.grad(values[i], logits, retain_graph=True)
        others = [j for j in range(batch) if j != i]
        assert gradient[i].abs().max() > 0
        assert gradient[others].abs().max() == 0


def test_order_of_the_batch() -> None:
    logits, labels = make(4)
    wrapped = PerSample(monai_losses.DiceLoss(to_onehot_y=True, softmax=True))
    order = [2, 0, 3, 1]
    assert torch.equal(wrapped(logits[order], labels[order]), wrapped(logits, labels)[order])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    def matmul_loss(pred: Any, target: Any) -> Tensor:
        return (pred @ pred.T).mean() + (pred - target).mean()

    pred, target = torch.randn(3, 7).to(dtype), torch.randn(3, 7).to(dtype)
    with torch.autocast("cpu", dtype=dtype):
        value = PerSample(matmul_loss)(pred, target)
    assert value.dtype == torch.float32
    assert torch.equal(value, PerSample(matmul_loss)(pred.float(), target.float()))


def test_double_stays_double() -> None:
    assert PerSample(nn.MSELoss())(torch.zeros(2, 3).double(), torch.zeros(2, 3).double()).dtype == torch.float64


def test_metatensors_give_plain_tensors() -> None:
    logits, labels = make()
    wrapped = PerSample(monai_losses.DiceLoss(to_onehot_y=True, softmax=True))
    value = wrapped(MetaTensor(logits), MetaTensor(labels))
    assert type(value) is torch.Tensor
    assert torch.equal(value, wrapped(logits, labels))


def test_an_empty_batch_gives_no_values() -> None:
    assert PerSample(nn.MSELoss())(torch.zeros(0, 2), torch.zeros(0, 2)).shape == (0,)


def test_the_loss_moves_with_its_wrapper() -> None:
    wrapped = PerSample(nn.BCEWithLogitsLoss(pos_weight=torch.ones(2)))
    assert wrapped.double().state_dict()["loss.pos_weight"].dtype == torch.float64


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda: monai_losses.DiceLoss(softmax=True, batch=True), r"DiceLoss\(batch=True\) pools the batch"),
        (lambda: monai_losses.TverskyLoss(softmax=True, batch=True), r"TverskyLoss\(batch=True\)"),
        (lambda: monai_losses.GeneralizedDiceLoss(softmax=True, batch=True), r"GeneralizedDiceLoss\(batch=True\)"),
        (
            lambda: monai_losses.DiceCELoss(softmax=True, batch=True),
            r"DiceCELoss has another meaning.*DiceLoss\(batch=True\)",
        ),
        (lambda: nn.CrossEntropyLoss(weight=torch.ones(3)), "class weights of CrossEntropyLoss"),
        (lambda: nn.NLLLoss(weight=torch.ones(3)), "class weights of NLLLoss"),
        (lambda: monai_losses.DiceCELoss(weight=torch.ones(3)), "class weights of CrossEntropyLoss"),
        (lambda: nn.CrossEntropyLoss(ignore_index=0), "NaN for a sample in which every label is ignore_index=0"),
        (lambda: nn.MSELoss(reduction="sum"), r"MSELoss\(reduction='sum'\)"),
        (lambda: monai_losses.BarlowTwinsLoss(), "BarlowTwinsLoss compares the samples"),
        (
            lambda: monai_losses.DeepSupervisionLoss(monai_losses.DiceLoss(softmax=True, batch=True)),
            r"DeepSupervisionLoss has another meaning.*DiceLoss\(batch=True\)",
        ),
    ],
)
def test_warns_where_the_meaning_changes(loss: Any, message: str) -> None:
    with pytest.warns(UserWarning, match=message):
        PerSample(loss())


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(),
        nn.CrossEntropyLoss(weight=torch.ones(3), reduction="none"),
        nn.BCEWithLogitsLoss(pos_weight=torch.ones(1)),
        monai_losses.DiceLoss(softmax=True, weight=[1.0, 2.0]),
        monai_losses.DiceCELoss(softmax=True),
        monai_losses.FocalLoss(weight=[1.0, 2.0]),
        functional.mse_loss,
    ],
)
def test_does_not_warn_if_the_meaning_is_the_same(loss: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PerSample(loss)


@pytest.mark.parametrize(
    "loss",
    [monai_losses.DiceLoss(softmax=True, weight=[1.0, 2.0, 3.0]), monai_losses.FocalLoss(weight=[1.0, 2.0, 3.0])],
)
def test_without_a_warning_the_mean_over_samples_is_the_batch_loss(loss: Any) -> None:
    logits, labels = make()
    target = one_hot(labels, 3)
    torch.testing.assert_close(PerSample(loss)(logits, target).mean(), loss(logits, target))


def test_batch_dice_really_differs() -> None:
    logits, labels = make()
    labels[0] = 0
    loss = monai_losses.DiceLoss(to_onehot_y=True, softmax=True, batch=True)
    with pytest.warns(UserWarning, match="batch=True"):
        wrapped = PerSample(loss)
    assert abs(wrapped(logits, labels).mean() - loss(logits, labels)) > 1e-3


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (DiceCELoss(), "use it directly"),
        (nn.MSELoss, r"got the class MSELoss; pass MSELoss\(\.\.\.\)$"),
        ("dice", "callable.*, got str$"),
        (None, "callable.*NoneType"),
    ],
)
def test_objects_that_are_not_losses_are_refused(loss: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        PerSample(loss)


@pytest.mark.parametrize("name", ["", "total"])
def test_bad_names(name: str) -> None:
    with pytest.raises(ValueError, match="name must be"):
        PerSample(nn.MSELoss(), name=name)


def test_bad_trees_and_results() -> None:
    broken: Any = lambda pred, target: 0.5  # noqa: E731
    wrapped = PerSample(nn.MSELoss())
    with pytest.raises(TypeError, match=r"pred\[1\]\['a'\] must be a tensor.*int"):
        wrapped([torch.zeros(2), {"a": 3}], torch.zeros(2))
    with pytest.raises(TypeError, match=r"target must be a tensor.*without dimensions"):
        wrapped(torch.zeros(2), torch.tensor(0.0))
    with pytest.raises(ValueError, match=r"same number of samples.*'pred': \(2, 3\), 'target': \(1, 3\)"):
        wrapped(torch.zeros(2, 3), torch.zeros(1, 3))
    with pytest.raises(TypeError, match="must return a tensor, got float"):
        PerSample(broken)(torch.zeros(2, 3), torch.zeros(2, 3))
