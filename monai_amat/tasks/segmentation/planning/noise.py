"""First noise levels for a data set without earlier studies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from monai_amat.checks import check_within

__all__ = ["NoiseLevels", "per_value", "suggest_noise"]

# The largest evaluation levels of the paper are 0.05 (Heart), 0.21 (Hippocampus) and 0.09 (Prostate) standard
# deviations per value; this is their geometric mean.
_LARGEST = 0.1
# A radius that must destroy every prediction: about as large as 200 over a slice of the hippocampus.
_HUGE = 4.2


@dataclass(frozen=True)
class NoiseLevels:
    """Noise levels of a bundle: L2 norms over an image, in standard deviations of its grey values.

    Attributes:
        evaluation: levels of the curve, from 0.
        epsilon: ε of SAT.
        delta: Δ, start value and step of the margins.
        max_margin: upper bound of the margins.
        huge: level that must destroy every prediction.
    """

    evaluation: tuple[float, ...]
    epsilon: float
    delta: float
    max_margin: float
    huge: float


def suggest_noise(patch_size: Sequence[int], channels: int) -> NoiseLevels:
    """Suggest levels for images of a size that the paper does not have.

    The largest level is 0.1 standard deviations per value, the geometric mean of the three tasks in the paper (between
    which it varies by a factor of four), times √values; SAT has half of it, Δ a quarter, and the bound of the margins
    is 1.5 times as large. These are first levels: use others if the curve of the clean network does not fall, or falls
    to zero at once.

    Args:
        patch_size: `(H, W)` of the attacked images.
        channels: number of image channels; all of them have noise.

    Raises:
        ValueError: if a size is not positive.

    Example:
        >>> suggest_noise((320, 256), 1)
        NoiseLevels(evaluation=(0.0, 7.5, 15.0, 30.0), epsilon=15.0, delta=7.5, max_margin=45.0, huge=1000.0)
    """
    for size in patch_size:
        check_within("each of patch_size", size, 1)
    check_within("channels", channels, 1)
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
    """Compute the root mean square per value of noise with a given L2 norm over an image.

    Example:
        >>> round(per_value(5.0, (56, 40), 1), 3)
        0.106
    """
    return norm / math.sqrt(math.prod(patch_size) * channels)


def _round(value: float) -> float:
    """Round to one digit, or to half digits below five: 1, 1.5, 2, … 4.5, 5, 6, … 10."""
    power = 10.0 ** math.floor(math.log10(value))
    leading = value / power
    return power * (round(2 * leading) / 2 if leading < 5 else round(leading))
