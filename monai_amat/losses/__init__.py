"""Losses with one value a sample: the contract, segmentation, landmarks, detection, and an adapter for any other."""

from __future__ import annotations

from .base import PerSampleLoss
from .generic import PerSample
from .landmark import HeatmapBCE, HeatmapDice, HeatmapOffsetLoss, HeatmapTerm
from .segmentation import DiceCELoss

__all__ = [
    "DiceCELoss",
    "HeatmapBCE",
    "HeatmapDice",
    "HeatmapOffsetLoss",
    "HeatmapTerm",
    "PerSample",
    "PerSampleLoss",
]
