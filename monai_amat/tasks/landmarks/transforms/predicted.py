"""Predictions of a landmark network as points in native pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from torch import Tensor

from monai_amat.tasks.landmarks.transforms.points import points_to_native

__all__ = ["PredictedLandmarksd"]


class PredictedLandmarksd(MapTransform):
    """Decode predicted maps and convert the points to native pixels.

    Use it in the postprocessing of an evaluator, which runs per sample.

    Args:
        keys: predicted maps `(C, H, W)`, which become landmarks `(L, 2)`, (y, x) in native pixels.
        decode: function from a batch of maps to landmarks `(B, L, 2)` in their pixels, such as
            `functools.partial(decode_landmarks, radius=10.0)`; NaN for a landmark that is not found.
        confidence: function from a batch of maps to one confidence per landmark `(B, L)`, such as
            `functools.partial(landmark_confidence, radius=10.0)`; None for none.
        confidence_key: key of the confidence `(L,)`.
        reference_key: the input of the network, with the size of the maps, whose affine maps its pixels to native ones.
        allow_missing_keys: return an item without prediction unchanged.

    Raises:
        KeyError: if an item has no image.
        TypeError: if the image has no metadata.
        ValueError: if maps and image differ in size.

    Example:
        >>> import torch
        >>> affine = torch.diag(torch.tensor([3.0, 3.0, 1.0, 1.0]))
        >>> item = {"image": MetaTensor(torch.zeros(1, 8, 8), affine=affine), "pred": torch.zeros(3, 8, 8)}
        >>> middle = lambda maps: torch.full((len(maps), 1, 2), 3.5)
        >>> PredictedLandmarksd("pred", decode=middle)(item)["pred"]
        tensor([[10.5000, 10.5000]])
    """

    def __init__(
        self,
        keys: KeysCollection = "pred",
        *,
        decode: Callable[[Tensor], Tensor],
        confidence: Callable[[Tensor], Tensor] | None = None,
        confidence_key: str = "confidence",
        reference_key: str = "image",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.decode = decode
        self.confidence = confidence
        self.confidence_key = confidence_key
        self.reference_key = reference_key

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Return the item with points instead of maps."""
        item = dict(data)
        for key in self.key_iterator(item):
            if self.reference_key not in item:
                raise KeyError(
                    f"PredictedLandmarksd needs '{self.reference_key}', got an item with {sorted(map(str, item))}"
                )
            image, maps = item[self.reference_key], item[key]
            if not isinstance(image, MetaTensor):
                raise TypeError(
                    f"'{self.reference_key}' must be a MetaTensor, whose affine gives the place of its pixels, got "
                    f"{type(image).__name__}; load it with LoadCephalogramd and keep monai.data.set_track_meta(True)"
                )
            if maps.shape[1:] != image.shape[1:]:
                raise ValueError(
                    f"'{key}' and '{self.reference_key}' must have one size, got {tuple(maps.shape)} and "
                    f"{tuple(image.shape)}; give the input of the network as reference_key"
                )
            plain = maps.as_subclass(Tensor)[None]
            points = self.decode(plain)[0]
            if self.confidence is not None:
                item[self.confidence_key] = self.confidence(plain)[0]
            item[key] = points_to_native(points, image.affine)
        return item
