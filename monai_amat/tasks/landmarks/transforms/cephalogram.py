"""Radiographs from files: grey values in array order, with an affine from stored to native pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform

from monai_amat.data.pictures import read_grey

__all__ = ["LoadCephalogram", "LoadCephalogramd", "stored_to_native"]


def stored_to_native(stored: Sequence[int], native: Sequence[int]) -> torch.Tensor:
    """Compute the affine `(4, 4)` from the pixels of a stored image to its native pixels, before it was resized.

    Pixel centres are at integers, so a pixel stored at a third of the size lies in the middle of three native pixels:
    `native = 3·(i + 0.5) - 0.5`.

    Args:
        stored: `(H, W)` of the file.
        native: `(H, W)` of the native image.

    Example:
        >>> stored_to_native((800, 645), (2400, 1935)) @ torch.tensor([0.0, 10.0, 0.0, 1.0], dtype=torch.float64)
        tensor([ 1., 31.,  0.,  1.], dtype=torch.float64)
    """
    affine = torch.eye(4, dtype=torch.float64)  # MONAI uses this size for images of two dimensions too
    for axis, (have, had) in enumerate(zip(stored, native, strict=True)):
        affine[axis, axis] = had / have
        affine[axis, -1] = (had / have - 1) / 2
    return affine


class LoadCephalogram(Transform):
    """Read a radiograph as the spatial transforms of MONAI need it.

    Formats are those of Pillow (BMP, JPEG, PNG, TIFF, …), and DICOM if pydicom is installed. Colour becomes grey;
    values of 16 bits are divided by 257, so that their full range becomes 0 to 255. If they fill 14, 12, 10 or 8 bits
    only, the range of these bits becomes 0 to 255. The EXIF orientation is applied, so that the image is as a viewer
    shows it. Array order is kept: axis 0 is y, axis 1 is x (the reader of MONAI has x first).

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (6, 8), (90, 90, 90)).save(f"{folder}/001.bmp")
        ...     image = LoadCephalogram()(f"{folder}/001.bmp", native_size=(24, 18))
        >>> tuple(image.shape), image.dtype, float(image.amax()), float(image.affine[0, 0])
        ((1, 8, 6), torch.float32, 90.0, 3.0)
    """

    def __call__(self, path: str | Path, native_size: Sequence[int] | None = None) -> MetaTensor:
        """Read one file.

        Args:
            path: path of the image.
            native_size: `(H, W)` of the image before it was reduced; by default the stored size.

        Returns:
            `(1, H, W)` float32, 0 to 255; its affine maps stored pixels to native ones.

        Raises:
            FileNotFoundError: if the file does not exist.
            ValueError: naming the file, if it cannot be read or does not hold a picture of 8 or 16 bits.
        """
        grey = read_grey(path)
        affine = stored_to_native(grey.shape, grey.shape if native_size is None else [int(n) for n in native_size])
        meta = {"filename_or_obj": str(path), "original_channel_dim": "no_channel", "spatial_shape": grey.shape}
        return MetaTensor(torch.from_numpy(grey)[None], affine=affine, meta=meta)


class LoadCephalogramd(MapTransform):
    """Dictionary form of `LoadCephalogram`: the path under each key becomes the image.

    Args:
        keys: paths.
        size_key: key of the native size `(H, W)`, as in items of `load_cephalograms`; an item without this key is
            stored at native size.
        allow_missing_keys: skip keys that an item does not have.

    Example:
        >>> import tempfile
        >>> from PIL import Image
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
