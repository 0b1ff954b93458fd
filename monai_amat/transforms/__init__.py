"""Dictionary transforms."""

from monai_amat.transforms.adversarial_noise import AdversarialNoised
from monai_amat.transforms.box_affine import RandAffineBoxesd
from monai_amat.transforms.box_flip import RandFlipBoxesd
from monai_amat.transforms.box_targets import BoxTargetsd
from monai_amat.transforms.cephalogram import LoadCephalogram, LoadCephalogramd
from monai_amat.transforms.colour_jitter import RandColourJitterd
from monai_amat.transforms.landmark_maps import LandmarkMapsd, landmark_maps
from monai_amat.transforms.landmark_points import LandmarksToImaged, pixel_spacing, points_to_image, points_to_native
from monai_amat.transforms.letterbox import Letterboxd, boxes_to_native
from monai_amat.transforms.native_boxes import BoxesToNatived
from monai_amat.transforms.plane_spacing import PlaneSpacingd
from monai_amat.transforms.predicted_landmarks import PredictedLandmarksd
from monai_amat.transforms.rgb_image import LoadRGBImage, LoadRGBImaged
from monai_amat.transforms.slice_plane import SlicePlaned

__all__ = [
    "AdversarialNoised",
    "BoxTargetsd",
    "BoxesToNatived",
    "LandmarkMapsd",
    "LandmarksToImaged",
    "Letterboxd",
    "LoadCephalogram",
    "LoadCephalogramd",
    "LoadRGBImage",
    "LoadRGBImaged",
    "PlaneSpacingd",
    "PredictedLandmarksd",
    "RandAffineBoxesd",
    "RandColourJitterd",
    "RandFlipBoxesd",
    "SlicePlaned",
    "boxes_to_native",
    "landmark_maps",
    "pixel_spacing",
    "points_to_image",
    "points_to_native",
]
