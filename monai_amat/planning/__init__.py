"""What a data set is like, and the 2-D nnU-Net and noise levels that suit it."""

from monai_amat.planning.fingerprint import Fingerprint, take_fingerprint
from monai_amat.planning.nnunet_plans import read_plans
from monai_amat.planning.noise import NoiseLevels, per_value, suggest_noise
from monai_amat.planning.plan import Plan2D, plan_2d

__all__ = [
    "Fingerprint",
    "NoiseLevels",
    "Plan2D",
    "per_value",
    "plan_2d",
    "read_plans",
    "suggest_noise",
    "take_fingerprint",
]
