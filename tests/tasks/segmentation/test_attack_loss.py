"""The smooth average Dice index: its formula worked out apart, and the hard index in the limit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from monai_amat.attacks import AutoProjectedGradientDescent
from monai_amat.engines import BatchObjective
from monai_amat.tasks.segmentation import DiceCELoss, HardDice, SmoothDiceIndex


def sigma(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def by_hand(margins: np.ndarray, truth: np.ndarray, temperature: float) -> float:
    """The loss of one sample from margins and truth (K, V), in loops."""
    scores, absent = [], []
    for margin, true in zip(margins, truth, strict=True):
        p = np.array([sigma(value / temperature) for value in margin])
        if true.any():
            scores.append(2 * (p * true).sum() / (p.sum() + true.sum()))
        else:
            absent.append(sigma(margin.max()))
    return 1 - sum(scores) / (len(scores) + sum(absent)) if scores else float(np.mean(absent))


def drawn(activation: str) -> tuple[Tensor, Tensor]:
    """Logits and truths of four samples: all classes, one, another, none."""
    draw = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(4, 3, 3, 5, generator=draw, dtype=torch.float64)
    if activation == "sigmoid":
        truth = (torch.rand(4, 3, 3, 5, generator=draw) < 0.4).double()
        truth[1, 1:] = truth[2, :2] = truth[3] = 0
        return logits, truth
    labels = torch.randint(0, 3, (4, 1, 3, 5), generator=draw)
    labels[1] = labels[1].clamp(max=1)
    labels[2][labels[2] == 1] = 0
    labels[3] = 0
    return logits, labels


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_the_formula(activation: Any, temperature: float) -> None:
    logits, target = drawn(activation)
    loss = SmoothDiceIndex(activation=activation, temperature=temperature)
    expected = []
    for z, t in zip(logits.flatten(2).numpy(), target.flatten(2).numpy(), strict=True):
        if activation == "sigmoid":
            expected.append(by_hand(z, t, temperature))
            continue
        margins = np.array([[z[k, v] - max(z[j, v] for j in range(3) if j != k) for v in range(15)] for k in (1, 2)])
        expected.append(by_hand(margins, np.array([t[0] == k for k in (1, 2)]), temperature))
    np.testing.assert_allclose(loss(logits, target).numpy(), expected, rtol=1e-9)
    for i in range(4):
        torch.testing.assert_close(loss(logits[i : i + 1], target[i : i + 1]), loss(logits, target)[i : i + 1])


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_with_sure_logits_it_is_the_index_itself(activation: Any) -> None:
    logits, target = drawn(activation)
    hard = HardDice(num_classes=3, prediction=activation, over="mean")(logits, target)
    smooth = 1 - SmoothDiceIndex(activation=activation)(1e5 * logits, target)
    torch.testing.assert_close(smooth[:3].float(), hard[:3])
    # Nothing is there and something is predicted: the index of the sample is 0, whether it counts or not.
    assert hard[3] == 0


def test_heads_one_hot_truth_and_volumes() -> None:
    logits, labels = drawn("softmax")
    loss = SmoothDiceIndex()
    found = loss(logits, labels)
    one_hot = torch.nn.functional.one_hot(labels[:, 0], 3).movedim(-1, 1).double()
    torch.testing.assert_close(loss(logits, one_hot), found)
    torch.testing.assert_close(loss(torch.stack([logits, 0 * logits], 1), labels), found)
    torch.testing.assert_close(loss([logits, 0 * logits], labels), found)
    torch.testing.assert_close(loss(logits.unsqueeze(2), labels.unsqueeze(2)), found)


def test_one_pixel_of_an_absent_class_is_worth_climbing_to() -> None:
    """Soft Dice over all classes hardly sees it, and ADI halves."""
    logits = torch.tensor([[[0.0, 0.0, 0.0], [-6.0, 6.0, 6.0], [-4.0, -9.0, -9.0]]]).unsqueeze(2).requires_grad_(True)
    (slope,) = torch.autograd.grad(SmoothDiceIndex()(logits, torch.tensor([[[[0, 1, 1]]]])).sum(), logits)
    place = slope.abs().flatten().argmax().item()
    assert divmod(place, 3)[1] == 0
    assert slope[0, 2, 0, 0] > 0


def test_on_slices_with_one_class_its_attack_does_more_damage_to_the_index() -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.Tanh(), torch.nn.Conv2d(8, 3, 1))
    labels = torch.zeros(8, 1, 12, 12, dtype=torch.int64)
    labels[:, :, 3:9, 3:9] = 1
    labels[4:, :, 3:9, 3:9] = 2
    images = torch.where(labels == 1, 2.0, torch.where(labels == 2, -2.0, 0.0)) + 0.1 * torch.randn(8, 1, 12, 12)
    optimiser, loss = torch.optim.Adam(network.parameters(), 0.02), DiceCELoss()
    for _ in range(80):
        optimiser.zero_grad()
        loss(network(images), labels).mean().backward()
        optimiser.step()
    metric = HardDice(num_classes=3, over="mean")
    scores = []
    for raised in (loss, SmoothDiceIndex()):
        objective = BatchObjective(network=network, loss=raised, target=labels)
        noisy = AutoProjectedGradientDescent(steps=15)(objective, images, 1.5).noisy
        scores.append(metric(network(noisy), labels).mean().item())
    assert metric(network(images), labels).mean() > 0.95
    assert scores[1] < scores[0] - 0.1


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="activation must be"):
        SmoothDiceIndex(activation="tanh")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="temperature must be"):
        SmoothDiceIndex(temperature=0.0)
    with pytest.raises(ValueError, match="with sigmoid, truth must have the shape of the logits"):
        SmoothDiceIndex(activation="sigmoid")(torch.zeros(1, 2, 3, 3), torch.zeros(1, 1, 3, 3))
