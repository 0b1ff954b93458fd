"""Bundles that are written from a data set: what segmentation bundles share, and the settings in which they differ."""

from monai_amat.templates.check import check_configuration, check_run
from monai_amat.templates.new import new_bundle
from monai_amat.templates.planned import planned_settings
from monai_amat.templates.settings import SegmentationSettings, paper_settings
from monai_amat.templates.write import BUNDLES, bundle_files, segmentation_files, write_bundle, write_bundles

__all__ = [
    "BUNDLES",
    "SegmentationSettings",
    "bundle_files",
    "check_configuration",
    "check_run",
    "new_bundle",
    "paper_settings",
    "planned_settings",
    "segmentation_files",
    "write_bundle",
    "write_bundles",
]
