"""Attacks in plain PyTorch: noise for inputs of any shape and range, each sample within its own radius."""

from monai_amat.attacks.apgd import AutoProjectedGradientDescent
from monai_amat.attacks.base import Attack, AttackResult, Evaluation, Objective, check_attack
from monai_amat.attacks.boundary import BoundaryPGD
from monai_amat.attacks.norms import L2, Linf, Norm, NormSetting, get_norm
from monai_amat.attacks.pgd import ProjectedGradientDescent
from monai_amat.attacks.random_start import FullStart, InnerStart, RandomStart
from monai_amat.attacks.restarts import Restarts
from monai_amat.attacks.shrinking_radius import ShrinkingRadius
from monai_amat.attacks.square import Square
from monai_amat.attacks.worst_of import Member, SampleMetric, SwitchableObjective, WorstOf

__all__ = [
    "L2",
    "Attack",
    "AttackResult",
    "AutoProjectedGradientDescent",
    "BoundaryPGD",
    "Evaluation",
    "FullStart",
    "InnerStart",
    "Linf",
    "Member",
    "Norm",
    "NormSetting",
    "Objective",
    "ProjectedGradientDescent",
    "RandomStart",
    "Restarts",
    "SampleMetric",
    "ShrinkingRadius",
    "Square",
    "SwitchableObjective",
    "WorstOf",
    "check_attack",
    "get_norm",
]
