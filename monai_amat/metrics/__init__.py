"""Metrics: the paper's Dice indices, for MONAI evaluators and for robustness runs."""

from monai_amat.metrics.dice_index import AverageDiceIndex, TotalVoxelDiceIndex
from monai_amat.metrics.dice_indices import DiceIndices
from monai_amat.metrics.handlers import AverageDiceIndexHandler, TotalVoxelDiceIndexHandler
from monai_amat.metrics.hard_dice import HardDice
from monai_amat.metrics.overlap import DiceIndex, average_dice, dice, dice_counts, foreground, total_dice

__all__ = [
    "AverageDiceIndex",
    "AverageDiceIndexHandler",
    "DiceIndex",
    "DiceIndices",
    "HardDice",
    "TotalVoxelDiceIndex",
    "TotalVoxelDiceIndexHandler",
    "average_dice",
    "dice",
    "dice_counts",
    "foreground",
    "total_dice",
]
