"""Colour images from files, channel first, from 0 to 1."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from PIL import Image

__all__ = ["LoadRGBImage", "LoadRGBImaged"]

# What Pillow turns into colours without loss of range.
_EIGHT_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")


class LoadRGBImage(Transform):
    """Read an image as a detector wants it.

    JPEG, PNG, BMP, and whatever else Pillow reads with 8 bits a channel. Grey becomes colour, transparency is left out.
    Array order is kept: axis 1 is y, axis 2 is x (MONAI's own reader of such files has x first). The orientation that a
    camera writes into a file is not applied, as boxes are drawn on what is stored.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (6, 8), (255, 51, 0)).save(f"{folder}/smear.png")
        ...     image = LoadRGBImage()(f"{folder}/smear.png")
        >>> tuple(image.shape), image.dtype, image[:, 0, 0]
        ((3, 8, 6), torch.float32, tensor([1.0000, 0.2000, 0.0000]))
    """

    def __call__(self, path: str | Path) -> torch.Tensor:
        """Read one file.

        Args:
            path: of the image.

        Returns:
            `(3, H, W)` float32, red, green, blue from 0 to 1.

        Raises:
            FileNotFoundError: no such file.
            ValueError: naming the file, where it cannot be read or is no picture of 8 bits.
        """
        file = Path(path)
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no such image file.")
        try:
            with Image.open(file) as image:
                image.load()
                mode = image.mode
                values = np.array(image.convert("RGB")) if mode in _EIGHT_BIT else None
        # Pillow reports a broken file in as many ways as its formats' readers break.
        except (OSError, SyntaxError, ValueError, EOFError, IndexError, Image.DecompressionBombError) as error:
            raise ValueError(
                f"{file}: cannot be read as an image, corrupt or truncated ({type(error).__name__}: {error}); "
                "fetch the file again."
            ) from error
        if values is None:
            raise ValueError(
                f"{file}: expected a grey or colour picture of 8 bits, found Pillow's mode {mode!r}; convert the file."
            )
        return torch.from_numpy(values).permute(2, 0, 1).float() / 255


class LoadRGBImaged(MapTransform):
    """Dictionary form of `LoadRGBImage`: the path under each key becomes the image.

    Args:
        keys: paths.
        allow_missing_keys: skip keys that an item does not have.

    Example:
        >>> import tempfile
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
