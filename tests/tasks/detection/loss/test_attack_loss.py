"""Attack losses of detectors: values worked out by hand, images without objects, and the networks they fit."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from monai_amat.losses.base import PerSampleLoss
from monai_amat.tasks.detection import (
    AppearingLoss,
    ClassicYOLOv5,
    MatchedConfidence,
    VanishingLoss,
    WrongClassLoss,
    YOLOv5,
)


def as_it_is(pred: Tensor) -> Tensor:
    return pred


EVERY = [loss(as_it_is) for loss in (MatchedConfidence, VanishingLoss, AppearingLoss, WrongClassLoss)]
every_loss = pytest.mark.parametrize("loss", EVERY, ids=lambda loss: type(loss).__name__)

# Boxes as x1 y1 x2 y2 with scores of two classes: on object 0 well and less well, on object 1 half, beside them.
FOUND = [
    ((0, 0, 10, 10), (0.6, 0.3)),
    ((0, 0, 10, 8), (0.9, 0.1)),
    ((20, 20, 30, 25), (0.2, 0.4)),
    ((50, 50, 60, 60), (0.05, 0.25)),
    ((70, 70, 75, 75), (0.15, 0.1)),
]
TRUE = [(0, 0, 0, 10, 10), (1, 20, 20, 30, 30)]


def batch() -> tuple[Tensor, Tensor]:
    """The image above, and one without objects, padded."""
    columns = [[(a + c) / 2, (b + d) / 2, c - a, d - b, *scores] for (a, b, c, d), scores in FOUND]
    pred = torch.tensor(columns, dtype=torch.float64).T.expand(2, -1, -1).clone()
    padding = torch.tensor([-1.0, 0, 0, 0, 0])
    return pred, torch.stack([torch.tensor(TRUE, dtype=torch.float64), padding.double().expand(2, 5)])


def test_values_by_hand() -> None:
    pred, target = batch()
    # Largest score times IoU: object 0 has .6 · 1 and .9 · .8, object 1 .4 · .5; without objects the largest score.
    assert MatchedConfidence(as_it_is)(pred, target).tolist() == pytest.approx([1 - (0.72 + 0.2) / 2, 0.9])
    # Boxes of IoU .5 or more: the best score for the object's class.
    vanishing = -(math.log(0.9) + math.log(0.4)) / 2
    assert VanishingLoss(as_it_is)(pred, target).tolist() == pytest.approx([vanishing, 0.0])
    # Elsewhere: the last two boxes; without objects all boxes count.
    assert AppearingLoss(as_it_is, count=2)(pred, target).tolist() == pytest.approx([0.2, 0.75])
    # At the boxes of largest score times IoU: .1 − .9 and .2 − .4.
    assert WrongClassLoss(as_it_is)(pred, target).tolist() == pytest.approx([(-0.8 - 0.2) / 2, 0.0])


@every_loss
def test_a_sample_stands_alone_and_gradients_are_finite(loss: PerSampleLoss) -> None:
    pred, target = batch()
    pred = torch.cat([pred, 0 * pred]).requires_grad_(True)
    target = torch.cat([target, target])
    together = loss(pred, target)
    (slope,) = torch.autograd.grad(together.sum(), pred)
    assert torch.isfinite(slope).all()
    assert torch.isfinite(together).all()
    for i in range(4):
        torch.testing.assert_close(loss(pred[i : i + 1], target[i : i + 1])[0], together[i])
    empty = loss(pred, target[:, :0])
    assert empty.shape == (4,)
    torch.testing.assert_close(empty[1], together[1])


def test_it_fits_the_networks() -> None:
    network = YOLOv5(classes=2, size="n").eval()
    image = torch.zeros(1, 3, 64, 64, requires_grad=True)
    target = torch.tensor([[[0.0, 8, 8, 40, 40]]])
    for loss in (kind(network) for kind in (MatchedConfidence, VanishingLoss, AppearingLoss, WrongClassLoss)):
        raw = network.raw(image)
        (slope,) = torch.autograd.grad(loss(raw, target).sum(), image)
        assert slope.abs().sum() > 0
        assert loss.prediction(raw, target).shape == (1, 6, 84)

    class Classic(nn.Module):
        def forward(self, image: Tensor) -> Any:
            scale = image.mean((1, 2, 3)).sigmoid().view(-1, 1, 1)
            return scale * torch.full((len(image), 4, 7), 8.0), [torch.ones(len(image), 1, 2, 2, 7)]

    classic = ClassicYOLOv5(Classic()).eval()
    matched = MatchedConfidence(lambda pred: pred["decoded"])
    (slope,) = torch.autograd.grad(matched(classic.raw(image), torch.tensor([[[0.0, 0, 0, 8, 8]]])).sum(), image)
    assert slope.abs().sum() > 0


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(TypeError, match="a network with parts, or a function that decodes"):
        MatchedConfidence(nn.Identity())
    with pytest.raises(ValueError, match="at least 2 classes, got 1"):
        WrongClassLoss(as_it_is)(torch.ones(1, 5, 3), torch.zeros(1, 1, 5))
    with pytest.raises(ValueError, match="count must be at least 1"):
        AppearingLoss(as_it_is, count=0)
