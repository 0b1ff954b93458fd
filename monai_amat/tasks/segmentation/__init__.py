"""Segmentation of Decathlon-style volumes, slice by slice: data, network, loss, metrics, pictures, files."""

from monai_amat.tasks.segmentation.attack_loss import SmoothDiceIndex
from monai_amat.tasks.segmentation.data.decathlon import Decathlon
from monai_amat.tasks.segmentation.data.fit import check_fit
from monai_amat.tasks.segmentation.data.pending import check_volumes, pending_volumes
from monai_amat.tasks.segmentation.data.sampling_weights import oversampled_weights
from monai_amat.tasks.segmentation.data.selection import balanced_subset
from monai_amat.tasks.segmentation.data.slices import load_slices
from monai_amat.tasks.segmentation.data.split import Split, split_cases
from monai_amat.tasks.segmentation.data.volume import check_header, check_volume
from monai_amat.tasks.segmentation.data.volumes import list_volumes
from monai_amat.tasks.segmentation.hard_dice import HardDice
from monai_amat.tasks.segmentation.loss import DiceCELoss
from monai_amat.tasks.segmentation.metric import DiceIndexMetric
from monai_amat.tasks.segmentation.network import nnunet_2d, nnunet_features, nnunet_poolings
from monai_amat.tasks.segmentation.phantom import write_phantom
from monai_amat.tasks.segmentation.pictures import (
    Example,
    SegmentationExamples,
    choose_sample,
    make_examples,
    plot_examples,
)
from monai_amat.tasks.segmentation.planning.nnunet_plans import read_plans
from monai_amat.tasks.segmentation.planning.noise import per_value, suggest_noise
from monai_amat.tasks.segmentation.planning.plan import Plan2D, make_plan
from monai_amat.tasks.segmentation.planning.properties import DatasetProperties, read_dataset_properties
from monai_amat.tasks.segmentation.suite import segmentation_suite
from monai_amat.tasks.segmentation.transforms.plane_spacing import PlaneSpacingd
from monai_amat.tasks.segmentation.transforms.slice_plane import SlicePlaned
from monai_amat.tasks.segmentation.writer import LabelMapFilesHandler

__all__ = [
    "DatasetProperties",
    "Decathlon",
    "DiceCELoss",
    "DiceIndexMetric",
    "Example",
    "HardDice",
    "LabelMapFilesHandler",
    "Plan2D",
    "PlaneSpacingd",
    "SegmentationExamples",
    "SlicePlaned",
    "SmoothDiceIndex",
    "Split",
    "balanced_subset",
    "check_fit",
    "check_header",
    "check_volume",
    "check_volumes",
    "choose_sample",
    "list_volumes",
    "load_slices",
    "make_examples",
    "make_plan",
    "nnunet_2d",
    "nnunet_features",
    "nnunet_poolings",
    "oversampled_weights",
    "pending_volumes",
    "per_value",
    "plot_examples",
    "read_dataset_properties",
    "read_plans",
    "segmentation_suite",
    "split_cases",
    "suggest_noise",
    "write_phantom",
]
