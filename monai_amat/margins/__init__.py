"""The state of Algorithm 1: margins, the rules that change them, thresholds and acceptance."""

from monai_amat.margins.acceptance import Absolute, Acceptance, Measurement, MetricAtLeast, Relative
from monai_amat.margins.adaptive import AdaptiveMargins, Visits
from monai_amat.margins.margins import SampleMargins
from monai_amat.margins.rules import BoundaryRule, MarginRule, PaperRule, PathRule
from monai_amat.margins.schedules import LinearRadius, RadiusSchedule, RadiusSource, UniformRadius
from monai_amat.margins.statistics import Huber, MeanStd, ThresholdStatistic
from monai_amat.margins.thresholds import RunningThresholds, Thresholds

__all__ = [
    "Absolute",
    "Acceptance",
    "AdaptiveMargins",
    "BoundaryRule",
    "Huber",
    "LinearRadius",
    "MarginRule",
    "MeanStd",
    "Measurement",
    "MetricAtLeast",
    "PaperRule",
    "PathRule",
    "RadiusSchedule",
    "RadiusSource",
    "Relative",
    "RunningThresholds",
    "SampleMargins",
    "ThresholdStatistic",
    "Thresholds",
    "UniformRadius",
    "Visits",
]
