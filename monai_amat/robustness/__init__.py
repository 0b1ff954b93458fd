"""Robustness: a network under attack at rising noise, from single samples to tables and pictures."""

from monai_amat.robustness.attacked import Attacked, attack_each
from monai_amat.robustness.comparison import compare, merge_rows, write_comparison
from monai_amat.robustness.curve import RobustnessCurve
from monai_amat.robustness.differences import differences
from monai_amat.robustness.margin_plots import TrainedMargins, plot_margins
from monai_amat.robustness.plots import plot_curves
from monai_amat.robustness.probes import Probe, standard_probes
from monai_amat.robustness.report import Report, table_text
from monai_amat.robustness.resampling import Interval, bootstrap, by_repetition
from monai_amat.robustness.strength import AttackStrength
from monai_amat.robustness.suite import SampleFigure, SuiteName, attack_suite
from monai_amat.robustness.summary import AVERAGE, summarise

__all__ = [
    "AVERAGE",
    "AttackStrength",
    "Attacked",
    "Interval",
    "Probe",
    "Report",
    "RobustnessCurve",
    "SampleFigure",
    "SuiteName",
    "TrainedMargins",
    "attack_each",
    "attack_suite",
    "bootstrap",
    "by_repetition",
    "compare",
    "differences",
    "merge_rows",
    "plot_curves",
    "plot_margins",
    "standard_probes",
    "summarise",
    "table_text",
    "write_comparison",
]
