"""Adversarial training with adaptive margins inside the training loop of ultralytics."""

from monai_amat.integrations.ultralytics.settings import AMATSettings
from monai_amat.integrations.ultralytics.trainer import AMATDetectionTrainer

__all__ = [
    "AMATDetectionTrainer",
    "AMATSettings",
]
