"""Colour images from files, channel first, from 0 to 1."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform

from monai_amat.data.pictures import read_colour

__all__ = ["LoadRGBImage", "LoadRGBImaged"]


class LoadRGBImage(Transform):
    """Read an image as a detector needs it.

    Formats are those that Pillow reads with 8 bits per channel (JPEG, PNG, BMP, TIFF, …). Grey becomes colour,
    transparency is ignored. The EXIF orientation is applied, so that the image is as a viewer shows it. Array order is
    kept: axis 1 is y, axis 2 is x (the reader of MONAI has x first).

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (6, 8), (255, 51, 0)).save(f"{folder}/smear.png")
        ...     image = LoadRGBImage()(f"{folder}/smear.png")
        >>> tuple(image.shape), image.dtype, image[:, 0, 0]
        ((3, 8, 6), torch.float32, tensor([1.0000, 0.2000, 0.0000]))
    """

    def __call__(self, path: str | Path) -> torch.Tensor:
        """Read one file.

        Args:
            path: path of the image.

        Returns:
            `(3, H, W)` float32, red, green, blue from 0 to 1.

        Raises:
            FileNotFoundError: if the file does not exist.
            ValueError: naming the file, if it cannot be read or does not have 8 bits per channel.
        """
        return torch.from_numpy(read_colour(path)).permute(2, 0, 1).float() / 255


class LoadRGBImaged(MapTransform):
    """Dictionary form of `LoadRGBImage`: the path under each key becomes the image.

    Args:
        keys: paths.
        allow_missing_keys: skip keys that an item does not have.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("L", (6, 8)).save(f"{folder}/smear.png")
        ...     item = LoadRGBImaged("image")({"image": f"{folder}/smear.png", "case": "smear"})
        >>> tuple(item["image"].shape), item["case"]
        ((3, 8, 6), 'smear')
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.load = LoadRGBImage()

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Read the images of one item; see `LoadRGBImage.__call__`."""
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.load(item[key])
        return item
