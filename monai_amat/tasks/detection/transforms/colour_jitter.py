"""Changes of hue, saturation and brightness of a colour image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from monai.transforms import RandomizableTransform

from monai_amat.checks import check_within
from monai_amat.tasks.detection.transforms.boxes import image_of

__all__ = ["RandColourJitterd"]

# The television standard YIQ: brightness first, then the colour plane, in which the hue is an angle.
_TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


class RandColourJitterd(RandomizableTransform):
    """Rotate the hue, and scale saturation and brightness, by random amounts; values are clamped to 0 and 1.

    All three are one matrix on red, green and blue: a rotation and a scaling of the colour plane in YIQ. The defaults
    are the strengths of the HSV jitter of YOLOv5. MONAI has no transform for colours; its `RandScaleIntensityd` and
    `RandAdjustContrastd` treat the three channels alike.

    Args:
        hue: largest change of hue, as a fraction of a full turn, from 0 to 0.5.
        saturation: largest relative change of saturation, from 0 to 1.
        brightness: largest relative change of brightness, from 0 to 1.
        prob: probability of the transform.
        image_key: the image `(3, H, W)`, from 0 to 1.

    Raises:
        ValueError: if a setting is out of range, or an image does not have three channels.

    Example:
        >>> grey = {"image": torch.full((3, 1, 1), 0.5)}
        >>> RandColourJitterd(brightness=0.0, prob=1.0)(grey)["image"].flatten()  # grey has no colour to change
        tensor([0.5000, 0.5000, 0.5000])
    """

    def __init__(
        self,
        hue: float = 0.015,
        saturation: float = 0.7,
        brightness: float = 0.4,
        prob: float = 1.0,
        image_key: str = "image",
    ) -> None:
        RandomizableTransform.__init__(self, prob)
        for name, value, most in (("hue", hue, 0.5), ("saturation", saturation, 1), ("brightness", brightness, 1)):
            check_within(name, value, 0, most)
        self.hue = hue
        self.saturation = saturation
        self.brightness = brightness
        self.image_key = image_key
        self._matrix = torch.eye(3)

    def randomize(self, data: Any = None) -> None:
        """Draw the colour matrix of one item."""
        super().randomize(data)
        if self._do_transform:
            angle = 2 * math.pi * float(self.R.uniform(-self.hue, self.hue))
            saturation = 1 + float(self.R.uniform(-self.saturation, self.saturation))
            brightness = 1 + float(self.R.uniform(-self.brightness, self.brightness))
            cosine, sine = saturation * math.cos(angle), saturation * math.sin(angle)
            change = torch.tensor([[1.0, 0.0, 0.0], [0.0, cosine, -sine], [0.0, sine, cosine]])
            self._matrix = brightness * torch.linalg.inv(_TO_YIQ) @ change @ _TO_YIQ

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Change the colours of the image, or return the item unchanged."""
        item = dict(data)
        self.randomize()
        if not self._do_transform:
            return item
        image = image_of(item, self.image_key)
        if len(image) != 3:
            raise ValueError(f"'{self.image_key}' must be red, green and blue (3, H, W), got {tuple(image.shape)}")
        item[self.image_key] = torch.einsum("ij,jhw->ihw", self._matrix.to(image), image).clamp(0, 1)
        return item
