"""Landmarks of cephalograms: data, network, loss, metrics, pictures, files."""

from monai_amat.tasks.landmarks.attack_loss import CappedDistance, HeatmapLikelihood, TargetedLikelihood
from monai_amat.tasks.landmarks.data.cephalograms import load_cephalograms
from monai_amat.tasks.landmarks.data.files import LANDMARK_NAMES
from monai_amat.tasks.landmarks.data.listed import load_landmark_list
from monai_amat.tasks.landmarks.data.radiographs import list_radiographs
from monai_amat.tasks.landmarks.drawing import draw_landmarks
from monai_amat.tasks.landmarks.loss import HeatmapBCE, HeatmapDice, HeatmapOffsetLoss, HeatmapTerm
from monai_amat.tasks.landmarks.metric import RadialErrorMetric
from monai_amat.tasks.landmarks.network.decoding import decode_landmarks, landmark_confidence
from monai_amat.tasks.landmarks.network.multi_task_unet import MultiTaskUNet
from monai_amat.tasks.landmarks.phantom.cephalograms import write_cephalogram_phantom
from monai_amat.tasks.landmarks.pictures import (
    LandmarkExample,
    LandmarkExamples,
    make_landmark_examples,
    plot_landmark_examples,
)
from monai_amat.tasks.landmarks.suite import landmark_suite
from monai_amat.tasks.landmarks.transforms.cephalogram import LoadCephalogramd
from monai_amat.tasks.landmarks.transforms.maps import LandmarkMapsd
from monai_amat.tasks.landmarks.transforms.points import LandmarksToImaged
from monai_amat.tasks.landmarks.transforms.predicted import PredictedLandmarksd
from monai_amat.tasks.landmarks.writer import LandmarkFilesHandler

__all__ = [
    "LANDMARK_NAMES",
    "CappedDistance",
    "HeatmapBCE",
    "HeatmapDice",
    "HeatmapLikelihood",
    "HeatmapOffsetLoss",
    "HeatmapTerm",
    "LandmarkExample",
    "LandmarkExamples",
    "LandmarkFilesHandler",
    "LandmarkMapsd",
    "LandmarksToImaged",
    "LoadCephalogramd",
    "MultiTaskUNet",
    "PredictedLandmarksd",
    "RadialErrorMetric",
    "TargetedLikelihood",
    "decode_landmarks",
    "draw_landmarks",
    "landmark_confidence",
    "landmark_suite",
    "list_radiographs",
    "load_cephalograms",
    "load_landmark_list",
    "make_landmark_examples",
    "plot_landmark_examples",
    "write_cephalogram_phantom",
]
