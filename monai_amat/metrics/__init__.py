"""Metrics: the paper's Dice indices, radial errors, average IoU and mAP, for MONAI evaluators and robustness runs."""

from monai_amat.metrics.average_iou import AverageIoU
from monai_amat.metrics.detection_handlers import AverageIoUHandler, MeanAveragePrecisionHandler
from monai_amat.metrics.detection_indices import DetectionIndices
from monai_amat.metrics.dice_index import AverageDiceIndex, TotalVoxelDiceIndex
from monai_amat.metrics.dice_indices import DiceIndices
from monai_amat.metrics.handlers import AverageDiceIndexHandler, TotalVoxelDiceIndexHandler
from monai_amat.metrics.hard_dice import HardDice
from monai_amat.metrics.landmark_decoding import decode_landmarks
from monai_amat.metrics.mean_average_precision import MeanAveragePrecision
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
    "AverageIoU",
    "AverageIoUHandler",
    "DetectionIndices",
    "DiceIndex",
    "DiceIndices",
    "HardDice",
    "MeanAveragePrecision",
    "MeanAveragePrecisionHandler",
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
