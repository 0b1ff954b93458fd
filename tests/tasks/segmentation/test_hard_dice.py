"""Hard Dice a sample, by hand, and as a judge of noise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from monai_amat.margins import Measurement, MetricAtLeast
from monai_amat.tasks.segmentation import HardDice


def logits(labels: list[list[int]], classes: int = 3) -> Tensor:
    """Label rows as logits `(B, classes, 1, W)`."""
    return torch.nn.functional.one_hot(torch.tensor(labels), classes).movedim(-1, 1)[:, :, None].float() * 9


def truth(labels: list[list[int]]) -> Tensor:
    return torch.tensor(labels)[:, None, None]


# Rows: class 1 half right, class 2 right; nothing to find or found; class 2 missed; something where nothing is.
PRED = [[1, 1, 2, 0], [0, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]
TRUE = [[1, 0, 2, 0], [0, 0, 0, 0], [1, 0, 2, 2], [0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("over", "expected"), [("max", [1.0, 1.0, 1.0, 0.0]), ("mean", [(2 / 3 + 1) / 2, 1.0, 0.5, 0.0])]
)
def test_by_hand(over: str, expected: list[float]) -> None:
    metric = HardDice(num_classes=3, over=over)  # type: ignore[arg-type]
    assert metric(logits(PRED), truth(TRUE)).tolist() == pytest.approx(expected)


def test_as_acceptance() -> None:
    accept = MetricAtLeast(HardDice(num_classes=3, over="mean"), 0.6)
    assert accept(Measurement({}, logits(PRED), truth(TRUE)), None).tolist() == [True, True, False, False]


def test_bad_settings() -> None:
    with pytest.raises(ValueError, match="over must be"):
        HardDice(num_classes=3, over="median")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no foreground class"):
        HardDice(num_classes=1)
