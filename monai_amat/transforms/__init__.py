"""Dictionary transforms."""

from monai_amat.transforms.adversarial_noise import AdversarialNoised
from monai_amat.transforms.slice_plane import SlicePlaned

__all__ = ["AdversarialNoised", "SlicePlaned"]
