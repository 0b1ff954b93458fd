"""Detections from the frame of a network to the pixels of the stored image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from torch import Tensor

from monai_amat.tasks.detection.transforms.letterbox import boxes_to_native

__all__ = ["BoxesToNatived"]


class BoxesToNatived(MapTransform):
    """Invert `Letterboxd` on boxes, cut them at the edge of the image, and drop boxes outside of it.

    Args:
        keys: detections `(n, 4 or more)`, x1 y1 x2 y2 first, in pixels of the frame.
        letterbox_key: gain, left and top padding `(3,)`.
        size_key: `(H, W)` of the image.
        allow_missing_keys: skip keys that an item does not have.

    Raises:
        KeyError: if an item was not letterboxed.

    Example:
        >>> item = {
        ...     "pred": torch.tensor([[10.0, 30.0, 110.0, 90.0, 0.9, 2.0], [10.0, 2.0, 20.0, 30.0, 0.8, 0.0]]),
        ...     "letterbox": torch.tensor([0.5, 0.0, 40.0]),
        ...     "native_size": torch.tensor([480, 640]),
        ... }
        >>> BoxesToNatived("pred")(item)["pred"][:, :4]  # the second lay in the padding
        tensor([[ 20.,   0., 220., 100.]])
    """

    def __init__(
        self,
        keys: KeysCollection,
        letterbox_key: str = "letterbox",
        size_key: str = "native_size",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.letterbox_key = letterbox_key
        self.size_key = size_key

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Return the item with its boxes in native pixels."""
        item = dict(data)
        for key in (self.letterbox_key, self.size_key):
            if key not in item:
                raise KeyError(
                    f"BoxesToNatived needs {key!r}, which Letterboxd adds, got an item with {sorted(map(str, item))}"
                )
        letterbox, size = (
            torch.as_tensor(item[key]).as_subclass(Tensor).cpu() for key in (self.letterbox_key, self.size_key)
        )
        for key in self.key_iterator(item):
            boxes = boxes_to_native(torch.as_tensor(item[key]).as_subclass(Tensor), letterbox, size)
            item[key] = boxes[(boxes[:, 2:4] > boxes[:, :2]).all(dim=1)]
        return item
