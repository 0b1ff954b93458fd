"""Attack losses: their formulas by hand, softmax and sigmoid, saturated logits and wrong pixels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from monai_amat.losses.attack import (
    AttackCrossEntropy,
    CosPGDLoss,
    JensenShannon,
    MarginRatio,
    PixelLoss,
    SegPGDLoss,
    SphericalLoss,
    class_weights,
)

SETTINGS: dict[str, Any] = {
    "ce": lambda **kw: AttackCrossEntropy(**kw),
    "balanced": lambda **kw: AttackCrossEntropy(balanced=True, **kw),
    "masked": lambda **kw: AttackCrossEntropy(masked=True, **kw),
    "masked balanced": lambda **kw: AttackCrossEntropy(balanced=True, masked=True, **kw),
    "jsd": lambda **kw: JensenShannon(**kw),
    "spherical": lambda **kw: SphericalLoss(**kw),
    "segpgd": lambda **kw: SegPGDLoss(progress=0.4, **kw),
    "cospgd": lambda **kw: CosPGDLoss(**kw),
    "margin": lambda **kw: MarginRatio(**kw),
}
every_loss = pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in SETTINGS.items()])


def of_a_pixel(name: str, z: np.ndarray, y: int, weight: float, rms: float | None = None) -> float:
    """The loss of one pixel with logits z, straight from the formulas."""
    p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
    right = int(z.argmax()) == y
    ce = -math.log(p[y])
    ordered = np.sort(z)[::-1]
    others = max(z[c] for c in range(len(z)) if c != y)
    return {
        "ce": ce,
        "balanced": weight * ce,
        "masked": right * ce,
        "masked balanced": weight * right * ce,
        "jsd": math.log(2) + 0.5 * (p[y] * math.log(p[y]) - (1 + p[y]) * math.log(1 + p[y])),
        "spherical": -right * z[y] / (np.linalg.norm(z) if rms is None else rms),
        "segpgd": (0.8 if right else 0.2) * ce,
        "cospgd": p[y] / np.linalg.norm(p) * ce,
        "margin": -(z[y] - others) / (ordered[0] - ordered[2]) if len(z) > 2 else math.nan,
    }[name]


@pytest.mark.parametrize("name", SETTINGS)
def test_softmax_is_the_formula_pixel_by_pixel(name: str) -> None:
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 2, 5, generator=draw, dtype=torch.float64) * 2
    labels = torch.randint(0, 3, (3, 1, 2, 5), generator=draw)  # class 3 is in no sample
    labels[2] = 1
    expected = []
    for sample in range(3):
        truth = labels[sample].flatten().tolist()
        present = sorted(set(truth))
        values = [
            of_a_pixel(name, z, y, len(truth) / (len(present) * truth.count(y)))
            for z, y in zip(logits[sample].flatten(1).T.numpy(), truth, strict=True)
        ]
        expected.append(np.mean(values))
    loss = SETTINGS[name]()
    found = loss(logits, labels)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)
    one_hot = torch.nn.functional.one_hot(labels[:, 0], 4).movedim(-1, 1).double()
    torch.testing.assert_close(loss(logits, one_hot), found)
    torch.testing.assert_close(loss([logits, torch.zeros(3, 4, 1, 1)], labels), found)
    torch.testing.assert_close(loss(torch.stack([logits, logits * 0], dim=1), labels), found)


@pytest.mark.parametrize("name", [name for name in SETTINGS if name != "margin"])
def test_sigmoid_decides_each_channel_on_its_own(name: str) -> None:
    draw = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 3, 4, generator=draw, dtype=torch.float64) * 2
    truth = (torch.rand(2, 3, 4, generator=draw) < 0.3).double()
    expected = []
    for sample in range(2):
        z, y = logits[sample].flatten().numpy(), truth[sample].flatten().long().tolist()
        rms = math.sqrt(np.mean((z / 2) ** 2))
        values = [
            of_a_pixel(name, np.array([-v / 2, v / 2]), c, len(y) / (len(set(y)) * y.count(c)), rms)
            for v, c in zip(z, y, strict=True)
        ]
        expected.append(np.mean(values))
    found = SETTINGS[name](activation="sigmoid")(logits, truth)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


@every_loss
def test_classifiers_and_half_precision(make: Any) -> None:
    logits, labels = torch.randn(4, 3, generator=torch.Generator().manual_seed(2)), torch.tensor([0, 1, 2, 0])
    loss = make()
    found = loss(logits, labels)
    torch.testing.assert_close(loss(logits, labels[:, None]), found)
    torch.testing.assert_close(loss(logits[..., None, None], labels[:, None, None, None]), found)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = loss(logits.bfloat16(), labels)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, loss(logits.bfloat16().float(), labels))


@every_loss
def test_samples_are_independent_and_extreme_logits_stay_finite(make: Any) -> None:
    logits = torch.randn(3, 3, 4, 4, generator=torch.Generator().manual_seed(3))
    logits[1] *= 1e6
    logits[2] = 0.0
    labels = torch.randint(0, 3, (3, 1, 4, 4), generator=torch.Generator().manual_seed(4))
    loss = make()
    logits.requires_grad_(True)
    together = loss(logits, labels)
    together.sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(together).all()
    assert torch.isfinite(logits.grad).all()
    for i in range(3):
        torch.testing.assert_close(loss(logits[i : i + 1], labels[i : i + 1])[0], together[i])


def gradient(loss: PixelLoss, logits: Tensor, labels: Tensor) -> Tensor:
    leaf = logits.clone().requires_grad_(True)
    loss(leaf, labels).sum().backward()
    assert leaf.grad is not None
    return leaf.grad


@pytest.mark.parametrize("name", ["masked", "masked balanced", "spherical"])
def test_wrong_pixels_have_no_gradient_under_a_mask(name: str) -> None:
    logits = torch.tensor([[[[3.0, 3.0]], [[1.0, 4.0]], [[0.0, 0.0]]]])  # right, wrong
    slope = gradient(SETTINGS[name](), logits, torch.zeros(1, 1, 1, 2, dtype=torch.int64))
    assert slope[..., 0].abs().sum() > 0
    assert slope[..., 1].abs().sum() == 0


def test_bounded_losses_have_no_gradient_on_wrong_pixels_but_cross_entropy_has() -> None:
    logits, labels = torch.tensor([[-9.0, 9.0]]), torch.tensor([0])
    assert gradient(AttackCrossEntropy(), logits, labels).norm() > 1
    for loss in (JensenShannon(), CosPGDLoss()):
        assert gradient(loss, logits, labels).norm() < 1e-3


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_the_spherical_loss_has_a_gradient_at_saturated_logits(activation: Any) -> None:
    logits = torch.randn(1, 3, 6, generator=torch.Generator().manual_seed(5))
    labels = logits.argmax(1, keepdim=True) if activation == "softmax" else (logits > 0).float()
    spherical = SphericalLoss(activation=activation)
    small, large = (gradient(spherical, factor * logits, labels) * factor for factor in (1.0, 1e4))
    torch.testing.assert_close(large, small, rtol=1e-4, atol=1e-7)
    assert gradient(AttackCrossEntropy(activation=activation), 1e4 * logits, labels).abs().max() < 1e-12


def test_classes_of_a_sample_weigh_the_same() -> None:
    truth = torch.tensor([[0, 0, 0, 0, 2, 2], [1, 1, 1, 1, 1, 1]])
    weights = class_weights(truth, 4)
    torch.testing.assert_close(weights.mean(1), torch.ones(2))
    assert weights[0, :4].sum().item() == pytest.approx(weights[0, 4:].sum().item())


def test_segpgd_moves_its_weight_from_correct_to_all_pixels() -> None:
    logits, labels = torch.tensor([[[3.0, 3.0], [1.0, 4.0]]]), torch.tensor([[[0, 0]]])
    right, wrong = (-torch.log_softmax(logits[..., i], 1)[0, 0].item() for i in (0, 1))
    for progress in (0.0, 0.5, 1.0):
        share = progress / 2
        expected = ((1 - share) * right + share * wrong) / 2
        assert SegPGDLoss().at(progress)(logits, labels).item() == pytest.approx(expected, rel=1e-5)


def test_shapes_and_labels_that_do_not_match_are_refused() -> None:
    loss = AttackCrossEntropy()
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.1, got 0\.\.2"):
        loss(torch.zeros(1, 2, 3), torch.tensor([[[0, 1, 2]]]))
    with pytest.raises(ValueError, match=r"label map .*logits \(2, 3, 4\), truth \(2, 1, 5\)"):
        loss(torch.zeros(2, 3, 4), torch.zeros(2, 1, 5))
    with pytest.raises(ValueError, match=r"at least 2 channels, got .*; use activation='sigmoid'"):
        loss(torch.zeros(2, 1, 4), torch.zeros(2, 1, 4))
    with pytest.raises(ValueError, match="with sigmoid, truth must have the shape of the logits, got"):
        AttackCrossEntropy(activation="sigmoid")(torch.zeros(2, 3, 4), torch.zeros(2, 1, 4))
    with pytest.raises(ValueError, match="activation must be one of"):
        AttackCrossEntropy(activation="relu")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="progress must lie in"):
        SegPGDLoss(progress=1.5)
    with pytest.raises(ValueError, match="at least 3 classes, got 2"):
        MarginRatio()(torch.zeros(1, 2), torch.zeros(1))
    with pytest.raises(ValueError, match="needs activation='softmax', got activation='sigmoid'"):
        MarginRatio(activation="sigmoid")
