"""Robustness: a network under attack at rising noise, from single samples to tables and pictures."""

from monai_amat.robustness.attacked import Attacked, attack_each
from monai_amat.robustness.comparison import compare, merge_rows, write_comparison
from monai_amat.robustness.curve import RobustnessCurve
from monai_amat.robustness.detection_drawing import draw_boxes
from monai_amat.robustness.detection_files import DetectionFilesHandler
from monai_amat.robustness.detection_pictures import (
    DetectionExample,
    DetectionExamples,
    make_detection_examples,
    plot_detection_examples,
)
from monai_amat.robustness.differences import differences
from monai_amat.robustness.landmark_drawing import draw_landmarks
from monai_amat.robustness.landmark_pictures import (
    LandmarkExample,
    LandmarkExamples,
    make_landmark_examples,
    plot_landmark_examples,
)
from monai_amat.robustness.margin_plots import TrainedMargins, plot_margins
from monai_amat.robustness.metric import RobustnessMetric
from monai_amat.robustness.pictures import (
    Example,
    SegmentationExamples,
    choose_sample,
    make_examples,
    plot_examples,
)
from monai_amat.robustness.plots import plot_curves
from monai_amat.robustness.probes import Probe, standard_probes
from monai_amat.robustness.report import Report, table_text
from monai_amat.robustness.resampling import Interval, bootstrap, by_repetition
from monai_amat.robustness.strength import AttackStrength
from monai_amat.robustness.summary import AVERAGE, summarise

__all__ = [
    "AVERAGE",
    "AttackStrength",
    "Attacked",
    "DetectionExample",
    "DetectionExamples",
    "DetectionFilesHandler",
    "Example",
    "Interval",
    "LandmarkExample",
    "LandmarkExamples",
    "Probe",
    "Report",
    "RobustnessCurve",
    "RobustnessMetric",
    "SegmentationExamples",
    "TrainedMargins",
    "attack_each",
    "bootstrap",
    "by_repetition",
    "choose_sample",
    "compare",
    "differences",
    "draw_boxes",
    "draw_landmarks",
    "make_detection_examples",
    "make_examples",
    "make_landmark_examples",
    "merge_rows",
    "plot_curves",
    "plot_detection_examples",
    "plot_examples",
    "plot_landmark_examples",
    "plot_margins",
    "standard_probes",
    "summarise",
    "table_text",
    "write_comparison",
]
