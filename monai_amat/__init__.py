"""Adversarial robustness for medical imaging in MONAI: attacks, adversarial training and robustness curves.

The names that most users need are here: `from monai_amat import PrepareBatchAdversarial`. The rest is in its room, for
example `monai_amat.attacks` or `monai_amat.tasks.segmentation`. Both are imported when they are first used, so that
`import monai_amat` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from monai_amat.attacks import (
        AutoProjectedGradientDescent,
        BoundaryPGD,
        InnerStart,
        ProjectedGradientDescent,
        Restarts,
        ShrinkingRadius,
        Square,
        WorstOf,
    )
    from monai_amat.data import IndexedDataset, SeededSampler
    from monai_amat.engines import (
        AdversarialNoised,
        PrepareBatchAdversarial,
        PrepareBatchNoisy,
        frozen,
        load_weights,
        save_weights,
    )
    from monai_amat.handlers import (
        AdaptiveMarginHandler,
        AdversarialOutputHandler,
        EpochSeedHandler,
        ExportHandler,
        MarginStatsHandler,
        MetricHandler,
        NonFiniteGuardHandler,
        ResumeHandler,
        ThresholdHandler,
    )
    from monai_amat.losses import PerSample, PerSampleLoss
    from monai_amat.margins import (
        Absolute,
        AdaptiveMargins,
        BoundaryRule,
        MetricAtLeast,
        PaperRule,
        PathRule,
        Relative,
        RunningThresholds,
        SampleMargins,
        Thresholds,
    )
    from monai_amat.robustness import AttackStrength, RobustnessCurve
    from monai_amat.tasks.detection import DetectionLoss, DetectionMetric
    from monai_amat.tasks.landmarks import HeatmapOffsetLoss, RadialErrorMetric
    from monai_amat.tasks.segmentation import DiceCELoss, DiceIndexMetric

__version__ = "0.1.0"

_ROOMS = (
    *(
        "attacks",
        "data",
        "engines",
        "handlers",
        "integrations",
        "losses",
        "margins",
        "robustness",
        "study",
        "tasks",
        "templates",
    ),
)
_HOME = {
    "Absolute": "margins",
    "AdaptiveMarginHandler": "handlers",
    "AdaptiveMargins": "margins",
    "AdversarialNoised": "engines",
    "AdversarialOutputHandler": "handlers",
    "AttackStrength": "robustness",
    "AutoProjectedGradientDescent": "attacks",
    "BoundaryPGD": "attacks",
    "BoundaryRule": "margins",
    "DetectionLoss": "tasks.detection",
    "DetectionMetric": "tasks.detection",
    "DiceCELoss": "tasks.segmentation",
    "DiceIndexMetric": "tasks.segmentation",
    "EpochSeedHandler": "handlers",
    "ExportHandler": "handlers",
    "HeatmapOffsetLoss": "tasks.landmarks",
    "IndexedDataset": "data",
    "InnerStart": "attacks",
    "MarginStatsHandler": "handlers",
    "MetricAtLeast": "margins",
    "MetricHandler": "handlers",
    "NonFiniteGuardHandler": "handlers",
    "PaperRule": "margins",
    "PathRule": "margins",
    "PerSample": "losses",
    "PerSampleLoss": "losses",
    "PrepareBatchAdversarial": "engines",
    "PrepareBatchNoisy": "engines",
    "ProjectedGradientDescent": "attacks",
    "RadialErrorMetric": "tasks.landmarks",
    "Relative": "margins",
    "Restarts": "attacks",
    "ResumeHandler": "handlers",
    "RobustnessCurve": "robustness",
    "RunningThresholds": "margins",
    "SampleMargins": "margins",
    "SeededSampler": "data",
    "ShrinkingRadius": "attacks",
    "Square": "attacks",
    "ThresholdHandler": "handlers",
    "Thresholds": "margins",
    "WorstOf": "attacks",
    "frozen": "engines",
    "load_weights": "engines",
    "save_weights": "engines",
}

__all__ = ["__version__", *_ROOMS, *_HOME]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
