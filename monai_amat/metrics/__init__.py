"""Metrics: the paper's Dice indices, radial errors, average IoU and mAP, for MONAI evaluators and robustness runs."""

from monai_amat.metrics.dice_index import AverageDiceIndex, TotalVoxelDiceIndex
from monai_amat.metrics.dice_indices import DiceIndices
from monai_amat.metrics.handlers import AverageDiceIndexHandler, TotalVoxelDiceIndexHandler
from monai_amat.metrics.hard_dice import HardDice
from monai_amat.metrics.landmark_decoding import decode_landmarks
from monai_amat.metrics.overlap import DiceIndex, average_dice, dice, dice_counts, foreground, total_dice
from monai_amat.metrics.radial_error import RadialErrors, radial_error
from monai_amat.metrics.radial_error_handlers import (
    MeanRadialErrorHandler,
    RadialErrorMetric,
    SuccessfulDetectionRateHandler,
)

__all__ = [
    "AverageDiceIndex",
    "AverageDiceIndexHandler",
    "DiceIndex",
    "DiceIndices",
    "HardDice",
    "MeanRadialErrorHandler",
    "RadialErrorMetric",
    "RadialErrors",
    "SuccessfulDetectionRateHandler",
    "TotalVoxelDiceIndex",
    "TotalVoxelDiceIndexHandler",
    "average_dice",
    "decode_landmarks",
    "dice",
    "dice_counts",
    "foreground",
    "radial_error",
    "total_dice",
]
