"""Losses with one value a sample: the contract, Dice with cross-entropy, and an adapter for any other loss."""

from __future__ import annotations

from .base import PerSampleLoss
from .generic import PerSample
from .segmentation import DiceCELoss

__all__ = ["DiceCELoss", "PerSample", "PerSampleLoss"]
