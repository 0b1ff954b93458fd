"""Radiographs from image files: grey values in array order, with an affine from stored to native pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from PIL import Image

__all__ = ["LoadCephalogram", "LoadCephalogramd", "stored_to_native"]

# What Pillow turns into grey values by the luma formula, which leaves a grey picture in colour as it is.
_EIGHT_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")


def stored_to_native(stored: Sequence[int], native: Sequence[int]) -> torch.Tensor:
    """Affine `(4, 4)` from the pixels of a stored image to those it had before it was resized.

    Pixel centres are at integers, so a pixel stored at a third of the size sits in the middle of three native ones:
    `native = 3·(i + 0.5) - 0.5`.

    Args:
        stored: `(H, W)` of the file.
        native: `(H, W)` of the image it was made from.

    Example:
        >>> stored_to_native((800, 645), (2400, 1935)) @ torch.tensor([0.0, 10.0, 0.0, 1.0], dtype=torch.float64)
        tensor([ 1., 31.,  0.,  1.], dtype=torch.float64)
    """
    affine = torch.eye(4, dtype=torch.float64)  # MONAI's form of any affine, for images of two dimensions too
    for axis, (have, had) in enumerate(zip(stored, native, strict=True)):
        affine[axis, axis] = had / have
        affine[axis, -1] = (had / have - 1) / 2
    return affine


class LoadCephalogram(Transform):
    """Read a radiograph as MONAI's spatial transforms want it.

    BMP, JPEG, PNG, and whatever else Pillow reads. Colour becomes grey; 16-bit values are divided by 257, so that
    their full range becomes 0 to 255. Array order is kept: axis 0 is y, axis 1 is x (MONAI's own reader of such files
    has x first). The orientation that a camera writes into a file is not applied.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (6, 8), (90, 90, 90)).save(f"{folder}/001.bmp")
        ...     image = LoadCephalogram()(f"{folder}/001.bmp", native_size=(24, 18))
        >>> tuple(image.shape), image.dtype, float(image.amax()), float(image.affine[0, 0])
        ((1, 8, 6), torch.float32, 90.0, 3.0)
    """

    def __call__(self, path: str | Path, native_size: Sequence[int] | None = None) -> MetaTensor:
        """Read one file.

        Args:
            path: of the image.
            native_size: `(H, W)` that the image had before it was reduced; its own size by default.

        Returns:
            `(1, H, W)` float32, 0 to 255; its affine maps stored pixels to native ones.

        Raises:
            FileNotFoundError: no such file.
            ValueError: naming the file, where it cannot be read or holds no 8- or 16-bit picture.
        """
        grey = _read(Path(path))
        affine = stored_to_native(grey.shape, grey.shape if native_size is None else [int(n) for n in native_size])
        meta = {"filename_or_obj": str(path), "original_channel_dim": "no_channel", "spatial_shape": grey.shape}
        return MetaTensor(torch.from_numpy(grey)[None], affine=affine, meta=meta)


class LoadCephalogramd(MapTransform):
    """Dictionary form of `LoadCephalogram`: the path under each key becomes the image.

    Args:
        keys: paths.
        size_key: where an item carries the native size `(H, W)`, as those of
            `load_cephalograms` do; an item without it is stored at native size.
        allow_missing_keys: skip keys that an item does not have.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("L", (6, 8)).save(f"{folder}/001.png")
        ...     item = LoadCephalogramd("image")({"image": f"{folder}/001.png"})
        >>> tuple(item["image"].shape)
        (1, 8, 6)
    """

    def __init__(
        self, keys: KeysCollection = "image", size_key: str = "native_size", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.size_key = size_key
        self.load = LoadCephalogram()

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Read the images of one item; see `LoadCephalogram.__call__`."""
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.load(item[key], item.get(self.size_key))
        return item


def _read(path: Path) -> np.ndarray:
    """Grey values `(H, W)` float32, 0 to 255."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such image file.")
    try:
        with Image.open(path) as image:
            image.load()
            mode = image.mode
            values = np.asarray(image.convert("L") if mode in _EIGHT_BIT else image)
    # Pillow reports a broken file in as many ways as its formats' readers break.
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{path}: cannot be read as an image, corrupt or truncated ({type(error).__name__}: {error}); "
            "fetch the file again."
        ) from error
    if mode in _EIGHT_BIT:
        return values.astype(np.float32)
    # Some versions of Pillow widen 16 bits to the 32 of mode I.
    if mode.startswith("I") and values.ndim == 2 and values.min() >= 0 and values.max() <= 65535:
        return values.astype(np.float32) / 257
    raise ValueError(
        f"{path}: expected a grey or colour picture of 8 or 16 bits, found Pillow's mode {mode!r}; convert the file."
    )
