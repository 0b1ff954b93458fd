"""Losses with one value per sample: the contract, segmentation, landmarks, detection, and an adapter for any other."""

from monai_amat.losses.attack import (
    AttackCrossEntropy,
    CosPGDLoss,
    JensenShannon,
    MarginRatio,
    PixelLoss,
    SegPGDLoss,
    SphericalLoss,
)
from monai_amat.losses.base import PerSampleLoss
from monai_amat.losses.generic import PerSample

__all__ = [
    "AttackCrossEntropy",
    "CosPGDLoss",
    "JensenShannon",
    "MarginRatio",
    "PerSample",
    "PerSampleLoss",
    "PixelLoss",
    "SegPGDLoss",
    "SphericalLoss",
]
