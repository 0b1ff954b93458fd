"""Landmarks of cephalograms: data, network, loss, metrics, pictures, files."""

from monai_amat.tasks.landmarks.data.cephalograms import load_cephalograms
from monai_amat.tasks.landmarks.data.files import LANDMARK_NAMES
from monai_amat.tasks.landmarks.data.radiographs import list_radiographs
from monai_amat.tasks.landmarks.decoding import decode_landmarks
from monai_amat.tasks.landmarks.drawing import draw_landmarks
from monai_amat.tasks.landmarks.loss import HeatmapBCE, HeatmapDice, HeatmapOffsetLoss, HeatmapTerm
from monai_amat.tasks.landmarks.metric import RadialErrors, radial_error
from monai_amat.tasks.landmarks.metric_handlers import (
    MeanRadialErrorHandler,
    RadialErrorMetric,
    SuccessfulDetectionRateHandler,
)
from monai_amat.tasks.landmarks.network import MultiTaskUNet
from monai_amat.tasks.landmarks.phantom import write_cephalogram_phantom
from monai_amat.tasks.landmarks.pictures import (
    LandmarkExample,
    LandmarkExamples,
    make_landmark_examples,
    plot_landmark_examples,
)
from monai_amat.tasks.landmarks.transforms.cephalogram import LoadCephalogram, LoadCephalogramd
from monai_amat.tasks.landmarks.transforms.maps import LandmarkMapsd, landmark_maps
from monai_amat.tasks.landmarks.transforms.points import (
    LandmarksToImaged,
    pixel_spacing,
    points_to_image,
    points_to_native,
)
from monai_amat.tasks.landmarks.transforms.predicted import PredictedLandmarksd
from monai_amat.tasks.landmarks.vgg19 import VGG19Encoder, load_vgg19
from monai_amat.tasks.landmarks.writer import LandmarkFilesHandler

__all__ = [
    "LANDMARK_NAMES",
    "HeatmapBCE",
    "HeatmapDice",
    "HeatmapOffsetLoss",
    "HeatmapTerm",
    "LandmarkExample",
    "LandmarkExamples",
    "LandmarkFilesHandler",
    "LandmarkMapsd",
    "LandmarksToImaged",
    "LoadCephalogram",
    "LoadCephalogramd",
    "MeanRadialErrorHandler",
    "MultiTaskUNet",
    "PredictedLandmarksd",
    "RadialErrorMetric",
    "RadialErrors",
    "SuccessfulDetectionRateHandler",
    "VGG19Encoder",
    "decode_landmarks",
    "draw_landmarks",
    "landmark_maps",
    "list_radiographs",
    "load_cephalograms",
    "load_vgg19",
    "make_landmark_examples",
    "pixel_spacing",
    "plot_landmark_examples",
    "points_to_image",
    "points_to_native",
    "radial_error",
    "write_cephalogram_phantom",
]
