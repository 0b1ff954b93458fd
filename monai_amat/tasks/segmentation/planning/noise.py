"""Noise levels to begin with, where nobody has studied a data set yet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["NoiseLevels", "per_value", "suggest_noise"]

# The paper's largest evaluation levels are 0.05 (Heart), 0.21 (Hippocampus) and 0.09 (Prostate) standard deviations a
# value; this is their geometric mean.
_LARGEST = 0.1
# A radius that must leave nothing: about what 200 is over a slice of the hippocampus.
_HUGE = 4.2


@dataclass(frozen=True)
class NoiseLevels:
    """Noise of a bundle: L2 norms over an image, in standard deviations of its grey values.

    Attributes:
        evaluation: levels of the curve, from 0.
        epsilon: of SAT, unless another is given.
        delta: Δ, first size and step of the margins.
        max_margin: their cap.
        huge: what must destroy every prediction.
    """

    evaluation: tuple[float, ...]
    epsilon: float
    delta: float
    max_margin: float
    huge: float


def suggest_noise(patch_size: Sequence[int], channels: int) -> NoiseLevels:
    """Levels for images of a size that the paper has none for.

    The largest level is 0.1 standard deviations a value, the geometric mean of the paper's three tasks (it varies by a
    factor of four among them), times √values; SAT has half of it, Δ a quarter, and margins are capped at half as much
    again. They are where to begin: a curve on which the clean network does not fall, or falls at once, asks for others.

    Args:
        patch_size: `(H, W)` of the images attacked.
        channels: image channels, all of which carry noise.

    Raises:
        ValueError: for sizes that are not positive.

    Example:
        >>> suggest_noise((320, 256), 1)
        NoiseLevels(evaluation=(0.0, 7.5, 15.0, 30.0), epsilon=15.0, delta=7.5, max_margin=45.0, huge=1000.0)
    """
    if min(*patch_size, channels) < 1:
        raise ValueError(f"sizes must be positive, found patch_size={tuple(patch_size)}, channels={channels}.")
    values = math.sqrt(math.prod(patch_size) * channels)
    largest = _round(_LARGEST * values)
    return NoiseLevels(
        evaluation=(0.0, largest / 4, largest / 2, largest),
        epsilon=largest / 2,
        delta=largest / 4,
        max_margin=1.5 * largest,
        huge=_round(_HUGE * values),
    )


def per_value(norm: float, patch_size: Sequence[int], channels: int) -> float:
    """Root mean square a value of noise with an L2 norm over an image.

    Example:
        >>> round(per_value(5.0, (56, 40), 1), 3)
        0.106
    """
    return norm / math.sqrt(math.prod(patch_size) * channels)


def _round(value: float) -> float:
    """To one digit, or to halves of it below five: 1, 1.5, 2, … 4.5, 5, 6, … 10."""
    power = 10.0 ** math.floor(math.log10(value))
    leading = value / power
    return power * (round(2 * leading) / 2 if leading < 5 else round(leading))
