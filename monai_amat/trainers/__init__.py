"""Adversarial training with adaptive margins inside the training loops of other packages."""

from monai_amat.trainers.detection import AMATDetectionTrainer
from monai_amat.trainers.settings import AMATSettings

__all__ = ["AMATDetectionTrainer", "AMATSettings"]
