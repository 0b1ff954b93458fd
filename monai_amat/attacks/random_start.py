"""The random start of an attack: objects that compute the radius of the start from the radius of the ball."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from monai_amat.checks import check_positive

__all__ = ["FullStart", "InnerStart", "RandomStart"]


class RandomStart(Protocol):
    """Start radius `(B,)` from the attack's radius `(B,)`."""

    def __call__(self, radius: Tensor) -> Tensor:
        """Return the half-width of the cube from which the start is drawn."""


@dataclass(frozen=True)
class FullStart:
    """Start anywhere in the ball: the authors' choice for SAT and for evaluation.

    Example:
        >>> import torch
        >>> FullStart()(torch.tensor([5.0]))
        tensor([5.])
    """

    def __call__(self, radius: Tensor) -> Tensor:
        """Return the radius itself."""
        return radius


@dataclass(frozen=True)
class InnerStart:
    """Start inside the margin that was accepted before: `max(E − Δ, Δ)`, the authors' choice for AMAT.

    Args:
        step: Δ, the expansion step of the margins, in the units of the image; positive.

    Raises:
        ValueError: if the step is not positive and finite.

    Example:
        >>> import torch
        >>> InnerStart(2.5)(torch.tensor([2.5, 10.0]))
        tensor([2.5000, 7.5000])
    """

    step: float

    def __post_init__(self) -> None:
        check_positive("step (Δ of the margin rule)", self.step)

    def __call__(self, radius: Tensor) -> Tensor:
        """Return `max(radius − step, step)`; the attack projects the start onto its own ball."""
        return (radius - self.step).clamp_min(self.step)
