"""Examples: the sample that is chosen, what is made of it, and the picture."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import torch
from torch import nn

from monai_amat.attacks import ProjectedGradientDescent
from monai_amat.robustness import attack_each
from monai_amat.robustness.figure import magnification
from monai_amat.tasks.segmentation import DiceCELoss, choose_sample, make_examples, plot_examples


def batch(size: int = 2) -> dict[str, torch.Tensor]:
    label = torch.zeros(size, 1, 20, 14, dtype=torch.int64)
    label[:, :, 4:12, 2:8] = 1
    label[:, :, 12:18, 4:12] = 2
    image = label.float() + 0.2 * torch.randn(label.shape, generator=torch.Generator().manual_seed(0))
    return {"image": image, "label": label, "sample_seed": torch.arange(size)}


class Threshold(nn.Module):
    """Knows the grey values of the classes."""

    def __init__(self, sharpness: float) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.tensor([0.0, 1.0, 2.0]).view(1, 3, 1, 1))
        self.sharpness = sharpness

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -self.sharpness * (x - self.centres) ** 2


def examples(**changes: Any) -> Any:
    arguments: dict[str, Any] = {
        "loss": DiceCELoss(),
        "attack": ProjectedGradientDescent(steps=5, rel_step=0.4),
        "epsilon": 6.0,
    }
    networks = {"STD": Threshold(9.0), "AMAT": Threshold(3.0)}
    return make_examples(attack_each(networks, batch(), **arguments | changes), num_classes=3)


def test_the_sample_with_every_class_and_most_foreground_is_chosen() -> None:
    labels = [torch.zeros(1, 4, 4, dtype=torch.int64) for _ in range(4)]
    labels[0][:] = 1
    labels[1][0, 0, :2] = torch.tensor([1, 2])
    labels[2][0, 0, :3] = torch.tensor([1, 2, 2])
    assert choose_sample(labels, num_classes=3) == 2
    assert choose_sample(labels[:1], num_classes=3) == 0
    assert choose_sample([torch.zeros_like(labels[0])] * 2, num_classes=3) == 0  # what is found there is worth a look
    with pytest.raises(ValueError, match="there is no sample to show"):
        choose_sample([], num_classes=3)


def test_examples_hold_the_attacked_sample() -> None:
    data, found = batch(), examples()
    assert [example.arm for example in found] == ["STD", "AMAT"]
    for example in found:
        np.testing.assert_array_equal(example.clean, data["image"][0, 0])
        assert np.linalg.norm(example.noisy - example.clean) == pytest.approx(6.0, rel=1e-4)
        np.testing.assert_array_equal(example.truth[1], data["label"][0, 0] == 2)
        assert example.truth.shape == example.clean_pred.shape == example.noisy_pred.shape == (2, 20, 14)
        assert example.noisy_dice < example.clean_dice - 0.1
    assert examples(epsilon=0.0)[0].noisy_dice == examples(epsilon=0.0)[0].clean_dice


def test_volumes_are_refused() -> None:
    data = {"image": torch.zeros(1, 1, 4, 4, 4), "label": torch.zeros(1, 1, 4, 4, 4, dtype=torch.int64)}
    network = nn.Conv3d(1, 3, 1)
    attack = ProjectedGradientDescent(steps=1)
    with pytest.raises(ValueError, match=r"images \(B, channels, H, W\)"):
        next(attack_each({"STD": network}, data, loss=DiceCELoss(), attack=attack, epsilon=1.0))


def test_the_grid_is_drawn_with_a_row_an_arm(tmp_path: Path) -> None:
    found = examples()
    plot_examples(found, tmp_path / "two.png", class_names=["anterior", "posterior"])
    plot_examples(found[:1], tmp_path / "one.png")
    two, one = (matplotlib.image.imread(tmp_path / f"{name}.png") for name in ("two", "one"))
    assert two.shape[0] > 1.6 * one.shape[0]
    assert two.shape[1] == one.shape[1] > 1000
    colourful = (two[..., :3].max(axis=2) - two[..., :3].min(axis=2)) > 0.2
    assert colourful.sum() > 500
    blank = dataclasses.replace(found[0], noisy_pred=np.zeros_like(found[0].noisy_pred), noisy_dice=float("nan"))
    plot_examples([blank], tmp_path / "blank.png")
    with pytest.raises(ValueError, match="2 foreground classes need as many class_names"):
        plot_examples(found, tmp_path / "none.png", class_names=["anterior"])
    with pytest.raises(ValueError, match="no example"):
        plot_examples([], tmp_path / "none.png")


@pytest.mark.parametrize(
    ("largest", "factor"), [(0.0, 1), (5.0, 1), (0.9, 1), (0.4, 2), (0.1, 10), (0.03, 20), (0.0125, 50)]
)
def test_noise_is_magnified_as_far_as_the_window_allows(largest: float, factor: float) -> None:
    assert magnification(largest, half=1.0) == pytest.approx(factor)
