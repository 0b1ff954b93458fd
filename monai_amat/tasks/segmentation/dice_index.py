"""ADI and TVDI as cumulative MONAI metrics: fed batch by batch, gathered across ranks, aggregated once."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import ignite.distributed as idist
import torch
from monai.metrics import CumulativeIterationMetric
from monai.utils import evenly_divisible_all_gather
from torch import Tensor

from monai_amat.tasks.segmentation.overlap import (
    DiceIndex,
    Prediction,
    Slices,
    average_dice,
    dice_counts,
    foreground_classes,
    total_dice,
)

__all__ = ["AverageDiceIndex", "DiceIndexMetric", "TotalVoxelDiceIndex"]


class DiceIndexMetric(CumulativeIterationMetric):
    """Keeps the voxel counts of every sample; what is made of them is up to `index`.

    Args:
        num_classes: output channels of the network; the background among them with `softmax`.
        prediction: what the channels are.
    """

    def __init__(self, *, num_classes: int, prediction: Prediction = "softmax") -> None:
        super().__init__()
        self.classes = foreground_classes(num_classes, prediction)
        self.prediction: Prediction = prediction

    @abstractmethod
    def index(self) -> DiceIndex:
        """The index over everything seen on all ranks since the last `reset`."""

    def aggregate(self, *args: Any, **kwargs: Any) -> Tensor:
        """The index as a scalar float64 tensor."""
        return self.index().mean

    def counts(self) -> Tensor:
        """Counts `(N, C, 3)` of all ranks, int64.

        Raises:
            ValueError: when no rank has seen a sample.
        """
        counts = self.get_buffer()
        if not isinstance(counts, Tensor) or not len(counts):
            raise ValueError(f"{type(self).__name__} has seen no sample yet; call it on a batch before aggregating")
        return counts.cpu()

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, **kwargs: Any) -> Tensor:
        if y is None:
            raise ValueError(f"{type(self).__name__} needs the truth beside the prediction")
        return dice_counts(y_pred, y, self.classes, prediction=self.prediction)

    def _sync(self) -> None:
        if self._buffers is None and not self._synced:
            # A rank whose shard is empty must still take part, or the others wait for it for ever.
            empty = torch.zeros(0, self.classes, 3, dtype=torch.int64, device=idist.device())
            self._synced_tensors = [evenly_divisible_all_gather(empty, concat=True)]
            self._synced = True
        super()._sync()


class AverageDiceIndex(DiceIndexMetric):
    """ADI (equation 2), see `average_dice`.

    Args:
        num_classes: output channels of the network; the background among them with `softmax`.
        prediction: what the channels are.
        slices: samples that count: those with `any` foreground, or, the authors' choice, with `every` class.

    Predictions are logits (or one-hot) `(B, num_classes, *spatial)`, truths label maps or one-hot, as batches or
    as lists of channel-first tensors.

    Example:
        >>> metric = AverageDiceIndex(num_classes=2)
        >>> _ = metric(torch.tensor([[[3.0, 1.0], [0.0, 2.0]]]), torch.tensor([[[1, 1]]]))
        >>> round(metric.aggregate().item(), 4)
        0.6667
    """

    def __init__(self, *, num_classes: int, prediction: Prediction = "softmax", slices: Slices = "any") -> None:
        super().__init__(num_classes=num_classes, prediction=prediction)
        if slices not in ("any", "every"):
            raise ValueError(f"slices must be 'any' or 'every', got {slices!r}")
        self.slices: Slices = slices

    def index(self) -> DiceIndex:
        """ADI over all samples that count; NaN where none does."""
        return average_dice(self.counts(), slices=self.slices)


class TotalVoxelDiceIndex(DiceIndexMetric):
    """TVDI, see `total_dice`: what nnU-Net reports as Dice.

    Args:
        num_classes: output channels of the network; the background among them with `softmax`.
        prediction: what the channels are.

    Example:
        >>> metric = TotalVoxelDiceIndex(num_classes=2)
        >>> _ = metric(torch.tensor([[[3.0, 1.0], [0.0, 2.0]]]), torch.tensor([[[1, 1]]]))
        >>> round(metric.aggregate().item(), 4)
        0.6667
    """

    def index(self) -> DiceIndex:
        """TVDI over all samples."""
        return total_dice(self.counts())
