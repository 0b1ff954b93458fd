"""Checks of values that many parts take: numbers in their range, and one value per sample."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

__all__ = ["check_not_negative", "check_per_sample", "check_positive", "check_within"]


def check_positive(name: str, value: float) -> None:
    """Refuse a number that is not positive and finite.

    Args:
        name: what the number is, for the message.
        value: the number.

    Raises:
        ValueError: when it is zero, negative or not finite.

    Example:
        >>> check_positive("step (Δ)", 0.0)
        Traceback (most recent call last):
        ...
        ValueError: step (Δ) must be positive and finite, got 0.0
    """
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {value}")


def check_not_negative(name: str, value: float) -> None:
    """Refuse a number that is negative or not finite.

    Args:
        name: what the number is, for the message.
        value: the number.

    Raises:
        ValueError: when it is negative or not finite.

    Example:
        >>> check_not_negative("radius", -1.0)
        Traceback (most recent call last):
        ...
        ValueError: radius must be finite and not negative, got -1.0
    """
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be finite and not negative, got {value}")


def check_within(name: str, value: float, low: float, high: float = math.inf, *, without: float | None = None) -> None:
    """Refuse a number outside `[low, high]`.

    Args:
        name: what the number is, for the message.
        value: the number.
        low: least value.
        high: largest value; none by default.
        without: the bound that is left out, `low` or `high`; None where both belong to the range.

    Raises:
        ValueError: when it is outside, or NaN.

    Example:
        >>> check_within("times", 0, 1)
        Traceback (most recent call last):
        ...
        ValueError: times must be at least 1, got 0
        >>> check_within("decay", 0.0, 0, 1, without=0)
        Traceback (most recent call last):
        ...
        ValueError: decay must lie in (0, 1], got 0.0
    """
    if not low <= value <= high or value == without:
        interval = f"{'(' if without == low else '['}{low}, {high}{')' if without == high else ']'}"
        wanted = f"be at least {low}" if high == math.inf else f"lie in {interval}"
        raise ValueError(f"{name} must {wanted}, got {value}")


def check_per_sample(values: Any, count: int, name: str) -> None:
    """Refuse what is not one value per sample.

    Args:
        values: the values.
        count: number of samples B.
        name: what the values are, for the message.

    Raises:
        TypeError: when they are not a tensor.
        ValueError: when their shape is not `(B,)`.

    Example:
        >>> check_per_sample(torch.zeros(3), 3, "loss term 'dice'")
        >>> check_per_sample(torch.tensor(0.5), 3, "loss term 'dice'")
        Traceback (most recent call last):
        ...
        ValueError: loss term 'dice' must hold one value per sample, shape (3,), got shape (); reduce ...
    """
    if not isinstance(values, Tensor):
        kind = type(values).__name__
        raise TypeError(f"{name} must be a tensor with one value per sample, shape ({count},), got {kind}")
    if values.shape != torch.Size([count]):
        raise ValueError(
            f"{name} must hold one value per sample, shape ({count},), got shape {tuple(values.shape)}; reduce over "
            "everything but the batch, for example with monai_amat.losses.PerSample around the loss"
        )
