"""Attacks in plain PyTorch: noise for inputs of any shape and range, each sample within its own radius."""

from monai_amat.attacks.base import Attack, AttackResult, Evaluation, Objective, check_attack
from monai_amat.attacks.boundary import BoundaryPGD
from monai_amat.attacks.norms import L2, Linf, Norm, NormSetting, get_norm
from monai_amat.attacks.pgd import ProjectedGradientDescent
from monai_amat.attacks.random_start import FullStart, InnerStart, RandomStart
from monai_amat.attacks.restarts import Restarts

__all__ = [
    "L2",
    "Attack",
    "AttackResult",
    "BoundaryPGD",
    "Evaluation",
    "FullStart",
    "InnerStart",
    "Linf",
    "Norm",
    "NormSetting",
    "Objective",
    "ProjectedGradientDescent",
    "RandomStart",
    "Restarts",
    "check_attack",
    "get_norm",
]
