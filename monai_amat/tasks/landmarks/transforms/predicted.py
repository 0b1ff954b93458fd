"""What a landmark network says, as points in native pixels."""

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
    """Decode predicted maps and take the points to the pixels that the image had before anything was done to it.

    For the postprocessing of an evaluator, after its batch is taken apart.

    Args:
        keys: predicted maps `(C, H, W)`, which become landmarks `(L, 2)`, (y, x) in native pixels.
        decode: landmarks `(B, L, 2)` of a batch of maps, in their pixels, such as
            `functools.partial(decode_landmarks, radius=10.0)`; NaN for one that is not found.
        reference_key: the image that the network was given, of the size of the maps, whose affine maps its pixels to
            native ones.
        allow_missing_keys: leave an item without prediction as it is.

    Raises:
        KeyError: on an item without image.
        TypeError: on an image without metadata.
        ValueError: on maps of another size than the image.

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
        reference_key: str = "image",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.decode = decode
        self.reference_key = reference_key

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """The item with points in the place of maps."""
        item = dict(data)
        for key in self.key_iterator(item):
            if self.reference_key not in item:
                raise KeyError(
                    f"PredictedLandmarksd needs '{self.reference_key}', but the item has {sorted(map(str, item))}"
                )
            image, maps = item[self.reference_key], item[key]
            if not isinstance(image, MetaTensor):
                raise TypeError(
                    f"'{self.reference_key}' is a {type(image).__name__} without an affine, so nobody knows where its "
                    "pixels lie: load it by LoadCephalogramd and leave monai.data.set_track_meta(True)"
                )
            if maps.shape[1:] != image.shape[1:]:
                raise ValueError(
                    f"'{key}' {tuple(maps.shape)} and '{self.reference_key}' {tuple(image.shape)} differ in size: give "
                    "the image that the network saw"
                )
            points = self.decode(maps.as_subclass(Tensor)[None])[0]
            item[key] = points_to_native(points, image.affine)
        return item
