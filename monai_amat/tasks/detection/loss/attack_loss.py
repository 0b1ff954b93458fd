"""Losses for attacks on detectors of any kind: confidence of true objects, vanishing, appearing, wrong class."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from monai_amat.checks import check_within
from monai_amat.losses.base import PerSampleLoss, full_precision
from monai_amat.tasks.detection.loss.padded_boxes import padded_boxes

__all__ = ["AppearingLoss", "DetectionAttackLoss", "MatchedConfidence", "VanishingLoss", "WrongClassLoss"]

Decoded = Callable[[Any], Tensor]
"""From the network's output to `(B, 4 + classes, N)`: centre x, y, width, height in pixels and scores in 0..1, with a
gradient, as `YOLOv5` gives it in evaluation mode."""

_SAME = 0.5  # boxes of at least this IoU are the same object
_LEAST = 1e-9


@dataclass(frozen=True)
class Candidates:
    """Boxes and scores of a batch beside its M true objects.

    Args:
        scores: `(B, N, classes)` in 0..1.
        labels: `(B, M)` int64, classes of the true objects.
        real: `(B, M)` bool, False for padding.
        overlap: `(B, M, N)`, IoU of each true object with each predicted box, without a gradient.
    """

    scores: Tensor
    labels: Tensor
    real: Tensor
    overlap: Tensor

    @property
    def true_scores(self) -> Tensor:
        """The scores of every box for the class of each true object, `(B, M, N)`."""
        classes = self.labels.unsqueeze(1).expand(-1, self.scores.shape[1], -1)
        return self.scores.gather(2, classes).transpose(1, 2)

    @property
    def answers(self) -> Tensor:
        """The box that stands for each true object, the one of largest score times IoU, `(B, M)`."""
        return (self.true_scores.detach() * self.overlap).argmax(2)

    def over_objects(self, values: Tensor) -> Tensor:
        """The mean over the true objects of each image, `(B,)`; 0 where there are none."""
        return torch.where(self.real, values, 0.0).sum(1) / self.real.sum(1).clamp(min=1)

    def elsewhere(self) -> Tensor:
        """The best score of each box that overlaps no true object by an IoU of .5, `(B, N)`, 0 for others."""
        near = (self.overlap * self.real.unsqueeze(2) >= _SAME).any(1)
        return torch.where(near, 0.0, self.scores.amax(2))


class DetectionAttackLoss(PerSampleLoss):
    """The base: what the network found beside what is there.

    Args:
        network: a network with `parts` (`YOLOv5`), or a function from the network's output to `(B, 4 + classes, N)`:
            centre x and y, width, height in pixels, and scores in 0..1, with a gradient. For a `ClassicYOLOv5` under
            `RawOutputsInferer` that is `lambda pred: pred["decoded"]`.

    Raises:
        TypeError: for neither.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        parts = getattr(network, "parts", None)
        decode = getattr(parts, "decoded", None) if parts is not None else network
        if (isinstance(network, torch.nn.Module) and parts is None) or not callable(decode):
            raise TypeError(
                f"an attack loss of detection needs a network with parts, or a function that decodes its output, got "
                f"{type(network).__name__}"
            )
        self._decode: Decoded = decode

    def terms(self, pred: Any, target: Any) -> dict[str, Tensor]:
        """The loss of each image, `{"detection": (B,)}`.

        Args:
            pred: the network's output.
            target: `(B, max_boxes, 5)`, rows of class, x1, y1, x2, y2 in pixels; class -1 for padding.

        Raises:
            ValueError: if prediction and target do not fit.
        """
        decoded = full_precision(self._decode(pred))
        with torch.autocast(decoded.device.type, enabled=False):
            middle, size, scores = decoded.transpose(1, 2).split([2, 2, decoded.shape[1] - 4], dim=-1)
            truth = padded_boxes(target, len(decoded), scores.shape[2])
            found = torch.cat([middle - size / 2, middle + size / 2], dim=-1).detach()
            labels, corners = truth.labels.to(decoded.device), truth.corners.to(found)
            candidates = Candidates(scores, labels, truth.real.to(decoded.device), overlaps(corners, found))
            return {"detection": self.of(candidates)}

    def prediction(self, pred: Any, target: Any) -> Tensor:
        """Decoded boxes and scores `(B, 4 + classes, N)`."""
        return self._decode(pred).detach()

    @abstractmethod
    def of(self, candidates: Candidates) -> Tensor:
        """The loss of each image, `(B,)`."""


def overlaps(first: Tensor, second: Tensor) -> Tensor:
    """IoU of all pairs of boxes x1 y1 x2 y2, `(B, M, 4)` and `(B, N, 4)`: `(B, M, N)`.

    Example:
        >>> overlaps(torch.tensor([[[0.0, 0, 2, 2]]]), torch.tensor([[[0.0, 0, 2, 1], [5, 5, 6, 6]]]))
        tensor([[[0.5000, 0.0000]]])
    """
    low = torch.maximum(first[:, :, None, :2], second[:, None, :, :2])
    high = torch.minimum(first[:, :, None, 2:], second[:, None, :, 2:])
    common = (high - low).clamp_min(0).prod(-1)
    sizes = [(boxes[..., 2:] - boxes[..., :2]).clamp_min(0).prod(-1) for boxes in (first, second)]
    return common / (sizes[0][:, :, None] + sizes[1][:, None] - common).clamp_min(1e-9)


class MatchedConfidence(DetectionAttackLoss):
    """One minus the mean over true objects of the largest score times IoU: a smooth form of what mAP rewards.

    An image without objects has the largest score of all, a false alarm.

    Example:
        >>> pred = torch.tensor([[[5.0], [5.0], [10.0], [10.0], [0.75]]])  # one box of 10 × 10 pixels, one class
        >>> MatchedConfidence(lambda pred: pred)(pred, torch.tensor([[[0.0, 0, 0, 10, 10]]]))
        tensor([0.2500])
    """

    def of(self, candidates: Candidates) -> Tensor:
        """See the class."""
        if not candidates.labels.shape[1]:
            return candidates.scores.amax((1, 2))
        matched = (candidates.true_scores * candidates.overlap).amax(2)
        empty = ~candidates.real.any(1)
        return torch.where(empty, candidates.scores.amax((1, 2)), 1 - candidates.over_objects(matched))


class VanishingLoss(DetectionAttackLoss):
    """Minus the log of the score of each true object's box, mean over objects: true objects disappear.

    An image without objects has loss 0.

    Example:
        >>> pred = torch.tensor([[[5.0], [5.0], [10.0], [10.0], [0.75]]])
        >>> VanishingLoss(lambda pred: pred)(pred, torch.tensor([[[0.0, 0, 0, 10, 10]]]))
        tensor([0.2877])
    """

    def of(self, candidates: Candidates) -> Tensor:
        """See the class."""
        if not candidates.labels.shape[1]:
            return candidates.scores.sum((1, 2)) * 0
        # Every box that finds the object counts: where one falls, the next one stands for it.
        close = (candidates.overlap >= _SAME) | _only(candidates.answers, candidates.overlap)
        best = torch.where(close, candidates.true_scores, 0.0).amax(2)
        return candidates.over_objects(-best.clamp_min(_LEAST).log())


class AppearingLoss(DetectionAttackLoss):
    """Mean of the largest scores where nothing is: false objects appear.

    Args:
        network: see `DetectionAttackLoss`.
        count: how many of the highest scores count.

    Raises:
        ValueError: for a count below 1.

    Example:
        >>> pred = torch.tensor([[[5.0, 50], [5, 50], [10, 10], [10, 10], [0.75, 0.25]]])
        >>> AppearingLoss(lambda pred: pred, count=1)(pred, torch.tensor([[[0.0, 0, 0, 10, 10]]]))
        tensor([0.2500])
    """

    def __init__(self, network: Any, *, count: int = 20) -> None:
        super().__init__(network)
        check_within("count", count, 1)
        self.count = count

    def of(self, candidates: Candidates) -> Tensor:
        """See the class."""
        elsewhere = candidates.elsewhere()
        return elsewhere.topk(min(self.count, elsewhere.shape[1]), dim=1).values.mean(1)

    def extra_repr(self) -> str:
        """The settings."""
        return f"count={self.count}"


class WrongClassLoss(DetectionAttackLoss):
    """Best score of a wrong class minus that of the true one, at each true object's box, mean over objects.

    An image without objects has loss 0.

    Example:
        >>> pred = torch.tensor([[[5.0], [5.0], [10.0], [10.0], [0.75], [0.5]]])
        >>> WrongClassLoss(lambda pred: pred)(pred, torch.tensor([[[0.0, 0, 0, 10, 10]]]))
        tensor([-0.2500])
    """

    def of(self, candidates: Candidates) -> Tensor:
        """See the class.

        Raises:
            ValueError: for a single class.
        """
        classes = candidates.scores.shape[2]
        if classes < 2:
            raise ValueError("WrongClassLoss needs at least 2 classes, got 1; use VanishingLoss")
        if not candidates.labels.shape[1]:
            return candidates.scores.sum((1, 2)) * 0
        places = candidates.answers.unsqueeze(2).expand(-1, -1, classes)
        there = candidates.scores.gather(1, places)
        true = candidates.labels.unsqueeze(2) == torch.arange(classes, device=there.device)
        wrong = torch.where(true, -1.0, there).amax(2)
        return candidates.over_objects(wrong - torch.where(true, there, 0.0).sum(2))


def _only(places: Tensor, like: Tensor) -> Tensor:
    """True at one place of the last dimension."""
    return torch.arange(like.shape[2], device=like.device) == places.unsqueeze(2)
