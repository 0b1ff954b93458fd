"""How ξ follows from the clean losses V: mean, mean + k·std (section 2.2) or Huber's robust estimates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Huber", "MeanStd", "ThresholdStatistic"]

_CLIP = 1.5
# Mean square of a standard normal number clipped to ±1.5.
_NORMAL = (
    math.erf(_CLIP / math.sqrt(2))
    - _CLIP * math.sqrt(2 / math.pi) * math.exp(-(_CLIP**2) / 2)
    + _CLIP**2 * math.erfc(_CLIP / math.sqrt(2))
)


class ThresholdStatistic(Protocol):
    """One number from the clean losses `(n,)` of one term."""

    def __call__(self, values: NDArray[np.float64]) -> float:
        """ξ of one term."""


@dataclass(frozen=True)
class MeanStd:
    """`mean(V) + k·std(V)`; the paper uses k = 0 for segmentation, k = 2 for landmarks and detection.

    Example:
        >>> MeanStd(2.0)(np.array([1.0, 3.0]))
        4.0
    """

    k: float = 0.0

    def __call__(self, values: NDArray[np.float64]) -> float:
        """The standard deviation is that of the population, as in numpy and the authors' code."""
        return float(values.mean() + self.k * values.std())


@dataclass(frozen=True)
class Huber:
    r"""Huber's location plus k times Huber's scale, robust to a few outliers: the authors' choice for landmarks.

    Proposal 2 (Huber 1981, section 6.4): the location m and the scale s for which $z = (v - m)/s$, clipped to ±1.5,
    has mean 0 and the mean square of a clipped standard normal number. For normal losses, as section 2.2 assumes,
    location and scale are therefore mean and standard deviation.

    Example:
        >>> round(Huber(k=0.0)(np.array([1.0, 1.1, 0.9, 1.0, 1.05, 0.95, 50.0])), 1)
        1.0
    """

    k: float = 2.0

    def __call__(self, values: NDArray[np.float64]) -> float:
        """Solve both equations by fixed-point iteration from the median and the standard deviation."""
        location, scale = float(np.median(values)), float(values.std())
        tolerance = 1e-10 * scale
        for _ in range(1000):
            clipped = np.clip(values - location, -_CLIP * scale, _CLIP * scale)
            shift, spread = float(clipped.mean()), math.sqrt(float(np.square(clipped).mean()) / _NORMAL)
            moved = max(abs(shift), abs(spread - scale))
            location, scale = location + shift, spread
            if moved <= tolerance:
                break
        return location + self.k * scale
