"""Dictionary transforms."""

from monai_amat.transforms.adversarial_noise import AdversarialNoised
from monai_amat.transforms.cephalogram import LoadCephalogram, LoadCephalogramd
from monai_amat.transforms.landmark_maps import LandmarkMapsd, landmark_maps
from monai_amat.transforms.landmark_points import LandmarksToImaged, pixel_spacing, points_to_image, points_to_native
from monai_amat.transforms.slice_plane import SlicePlaned

__all__ = [
    "AdversarialNoised",
    "LandmarkMapsd",
    "LandmarksToImaged",
    "LoadCephalogram",
    "LoadCephalogramd",
    "SlicePlaned",
    "landmark_maps",
    "pixel_spacing",
    "points_to_image",
    "points_to_native",
]
