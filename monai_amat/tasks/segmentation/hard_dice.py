"""Hard Dice of each sample: the score by which the authors' nnU-Net code accepts noisy samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from monai_amat.tasks.segmentation.overlap import Prediction, dice, dice_counts, foreground_classes

__all__ = ["HardDice"]


@dataclass(frozen=True, kw_only=True)
class HardDice:
    """`metric(pred, target) -> (B,)`: Dice of the thresholded prediction, in [0, 1].

    It is the metric of the acceptance `MetricAtLeast`. The authors compare the best class of a sample with the mean of
    the clean network (Heart .91, Hippocampus .81, Prostate .86).

    Args:
        num_classes: output channels of the network; the background among them with `softmax`.
        prediction: what the channels are.
        over: the best foreground class of the sample, as the authors do, or the mean over its classes.

    A class that is neither in the truth nor predicted has no Dice. A sample without any other class counts as 1, since
    its prediction is right.

    Raises:
        ValueError: for an unknown `over`, or when no channel is left for a foreground class.

    Example:
        >>> pred = torch.tensor([[[[0.0, 0.0]], [[1.0, 1.0]]]])  # class 1 everywhere
        >>> HardDice(num_classes=2)(pred, torch.tensor([[[[1, 0]]]]))
        tensor([0.6667])
    """

    num_classes: int
    prediction: Prediction = "softmax"
    over: Literal["max", "mean"] = "max"

    def __post_init__(self) -> None:
        foreground_classes(self.num_classes, self.prediction)
        if self.over not in ("max", "mean"):
            raise ValueError(f"over must be 'max' or 'mean', got {self.over!r}")

    def __call__(self, pred: Tensor, target: Tensor) -> Tensor:
        """Dice of each sample, `(B,)` float32.

        Raises:
            ValueError: when prediction and target do not fit.
        """
        classes = foreground_classes(self.num_classes, self.prediction)
        scores = dice(dice_counts(pred, target, classes, prediction=self.prediction)).float()
        undefined = scores.isnan()
        chosen = scores.masked_fill(undefined, -1.0).amax(dim=1) if self.over == "max" else scores.nanmean(dim=1)
        return torch.where(undefined.all(dim=1), 1.0, chosen)
