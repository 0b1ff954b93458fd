"""Ignite handlers for MONAI's engines."""

from monai_amat.handlers.adaptive_margin import AdaptiveMarginHandler
from monai_amat.handlers.adversarial_output import IMAGE_NOISY, PRED_NOISY, AdversarialOutputHandler
from monai_amat.handlers.best_metric import BestMetric, keep_apart
from monai_amat.handlers.epoch_seed import EpochSeedHandler
from monai_amat.handlers.export import ExportHandler
from monai_amat.handlers.gradient_clip import GradientClipHandler
from monai_amat.handlers.group import GroupHandler
from monai_amat.handlers.margin_stats import MarginStatsHandler
from monai_amat.handlers.metric import Metric, MetricHandler
from monai_amat.handlers.non_finite_guard import NonFiniteGuardHandler
from monai_amat.handlers.progress import ProgressHandler
from monai_amat.handlers.resume import ResumeHandler
from monai_amat.handlers.shuffle_margins import ShuffleMarginsHandler
from monai_amat.handlers.thresholds import ThresholdHandler

__all__ = [
    "IMAGE_NOISY",
    "PRED_NOISY",
    "AdaptiveMarginHandler",
    "AdversarialOutputHandler",
    "BestMetric",
    "EpochSeedHandler",
    "ExportHandler",
    "GradientClipHandler",
    "GroupHandler",
    "MarginStatsHandler",
    "Metric",
    "MetricHandler",
    "NonFiniteGuardHandler",
    "ProgressHandler",
    "ResumeHandler",
    "ShuffleMarginsHandler",
    "ThresholdHandler",
    "keep_apart",
]
