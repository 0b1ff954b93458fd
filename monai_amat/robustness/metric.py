"""What a robustness run asks of a metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd
from torch import Tensor

__all__ = ["RobustnessMetric"]


class RobustnessMetric(Protocol):
    """Raw numbers of every sample, and what any set of samples amounts to.

    `DiceIndices` is one.
    """

    def columns(self, pred: Any, target: Any) -> Mapping[str, Tensor | Sequence[str]]:
        """Numbers `(B,)` of a batch by column name, such as counts that add up over samples, or a text a sample.

        Args:
            pred: what the loss's `prediction` makes of the network's output.
            target: the truth, as the evaluator's `prepare_batch` gives it.

        Returns:
            the columns; NaN stands for what a sample has not got.
        """

    def summary(self, frame: pd.DataFrame, weights: np.ndarray | None = None) -> dict[str, Any]:
        """Figures over the rows of `frame`, the headline first.

        Args:
            frame: rows with the columns of `columns`.
            weights: `(*R, rows)`, how often each row counts; once by default. What the bootstrap resamples are.

        Returns:
            a float for each name, or with weights an array `(*R)`; NaN where nothing counts.
        """
