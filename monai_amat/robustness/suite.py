"""Suites: several attacks on several losses, of which the worst for each sample counts, and the paper's single one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from monai_amat.attacks import (
    Attack,
    AutoProjectedGradientDescent,
    Member,
    Norm,
    ProjectedGradientDescent,
    WorstOf,
)
from monai_amat.handlers.metric import Metric, figures_of_each, metric_rows
from monai_amat.losses.base import PerSampleLoss

__all__ = ["SampleFigure", "SuiteName", "attack_suite"]

SuiteName = Literal["worst", "paper"]


@dataclass(frozen=True)
class SampleFigure:
    """The headline figure of each sample alone, as an attack suite needs it: `figure(pred, target) -> (B,)`.

    Args:
        metric: the metric that is reported.

    Example:
        >>> from monai_amat.tasks.segmentation import DiceIndexMetric
        >>> figure = SampleFigure(DiceIndexMetric(num_classes=2))
        >>> figure(torch.tensor([[[3.0, 1.0], [0.0, 2.0]]]), torch.tensor([[[1, 1]]]))
        tensor([0.6667], dtype=torch.float64)
    """

    metric: Metric

    def __call__(self, pred: Any, target: Any) -> Tensor:
        """The figure, `(B,)` float64; NaN where a sample has none."""
        figures = figures_of_each(self.metric, metric_rows(self.metric, pred, target))
        return torch.from_numpy(next(iter(figures.values())))


def attack_suite(
    name: SuiteName = "worst",
    *,
    metric: Metric,
    losses: Mapping[str, PerSampleLoss],
    steps: int = 20,
    norm: float | str | Norm = 2,
    clip_range: tuple[float, float] | None = None,
    amp: torch.dtype | None = None,
    done_at: float | None = None,
) -> Attack:
    """The attack of an evaluation, by name.

    - `worst`: for each sample the worst figure under Auto-PGD on the loss of the evaluation and on each of `losses`,
      among which should be a smooth form of the metric itself.
    - `paper`: 100 steps of projected gradient descent on the loss of the evaluation, of 5/100 of the radius each, from
      a random start, last iterate: what the paper's figures are made with.

    Args:
        name: which suite.
        metric: the metric that is reported; its headline figure decides.
        losses: further losses by name.
        steps: gradient steps of each Auto-PGD; `paper` takes 100.
        norm: 2, `inf` or a `Norm`.
        clip_range: lowest and highest value of a noisy image; None where the range is open.
        amp: type in which autocast runs the network.
        done_at: figure at which a sample is left out of the further attacks, such as 0 for scores.

    Raises:
        ValueError: for another name.

    Example:
        >>> from monai_amat.tasks.segmentation import DiceIndexMetric, SmoothDiceIndex
        >>> metric = DiceIndexMetric(num_classes=3)
        >>> attack_suite(metric=metric, losses={"smooth-adi": SmoothDiceIndex()}).names
        ('loss', 'smooth-adi')
    """
    if name not in get_args(SuiteName):
        raise ValueError(f"the suite must be one of {get_args(SuiteName)}, got {name!r}")
    if name == "paper":
        return ProjectedGradientDescent(steps=100, rel_step=0.05, norm=norm, clip_range=clip_range, amp=amp)
    attack = AutoProjectedGradientDescent(steps=steps, norm=norm, clip_range=clip_range, amp=amp)
    members = {"loss": Member(attack), **{title: Member(attack, loss) for title, loss in losses.items()}}
    return WorstOf(
        attacks=members,
        metric=SampleFigure(metric),
        higher_is_better=metric.higher_is_better(),
        done_at=done_at,
    )
