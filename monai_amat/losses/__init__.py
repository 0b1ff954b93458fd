"""Losses with one value a sample: the contract, segmentation, landmarks, detection, and an adapter for any other."""

from __future__ import annotations

from .base import PerSampleLoss
from .classic_detection import ClassicYOLOv5Loss
from .detection import DetectionLoss
from .generic import PerSample
from .landmark import HeatmapBCE, HeatmapDice, HeatmapOffsetLoss, HeatmapTerm
from .segmentation import DiceCELoss

__all__ = [
    "ClassicYOLOv5Loss",
    "DetectionLoss",
    "DiceCELoss",
    "HeatmapBCE",
    "HeatmapDice",
    "HeatmapOffsetLoss",
    "HeatmapTerm",
    "PerSample",
    "PerSampleLoss",
]
