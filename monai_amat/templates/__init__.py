"""Bundles that are written from a data set: what segmentation bundles share, and the settings in which they differ."""

from monai_amat.templates.new import new_bundle
from monai_amat.templates.planned import planned_settings
from monai_amat.templates.settings import SegmentationSettings, paper_settings
from monai_amat.templates.write import segmentation_files, write_bundle

__all__ = [
    "SegmentationSettings",
    "new_bundle",
    "paper_settings",
    "planned_settings",
    "segmentation_files",
    "write_bundle",
]
