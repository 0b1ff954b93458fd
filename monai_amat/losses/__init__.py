"""Losses with one value per sample: the contract, an adapter for any loss, and losses for attacks.

The losses that a network is trained with belong to their task, for example `monai_amat.tasks.segmentation.DiceCELoss`.
"""

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
