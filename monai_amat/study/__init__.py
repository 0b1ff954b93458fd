"""Whole studies from one command: arms, resumable steps, the comparison, the quickstart."""

from monai_amat.study.arms import Arm, Bundle
from monai_amat.study.compare import Study
from monai_amat.study.costs import training_costs
from monai_amat.study.next_step import next_step
from monai_amat.study.overlay import write_overlay
from monai_amat.study.plan import StudyPlan
from monai_amat.study.quickstart import quickstart
from monai_amat.study.schedule import run_steps
from monai_amat.study.steps import Step, StepError

__all__ = [
    "Arm",
    "Bundle",
    "Step",
    "StepError",
    "Study",
    "StudyPlan",
    "next_step",
    "quickstart",
    "run_steps",
    "training_costs",
    "write_overlay",
]
