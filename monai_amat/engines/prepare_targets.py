"""Batches whose truth is more than one tensor: the targets of a landmark network, as a dictionary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.engines.utils import PrepareBatch
from torch import Tensor

__all__ = ["PrepareBatchTargets"]


class PrepareBatchTargets(PrepareBatch):
    """Give an engine `(image, {key: batch[key], …})`, on its device.

    Loss and metrics then take from the dictionary what they need; it is doubled, selected and trimmed like any other
    target. For MONAI's own engines, and as the inner `prepare_batch` of
    `PrepareBatchAdversarial` and `PrepareBatchNoisy`.

    Args:
        targets: keys of the batch that make up the target, each a tensor with the sample at dim 0.
        image_key: key of the network's input.

    Raises:
        ValueError: without any target.
        KeyError: on a batch that lacks one of the keys.
        TypeError: on a batch that is not a dictionary, or where one of the keys holds no tensor.

    Example:
        >>> batch = {"image": torch.zeros(2, 3, 4, 4), "maps": torch.ones(2, 3, 4, 4), "case": ["001", "002"]}
        >>> image, target = PrepareBatchTargets(targets=["maps"])(batch)
        >>> image.shape, list(target)
        (torch.Size([2, 3, 4, 4]), ['maps'])
    """

    def __init__(self, *, targets: Sequence[str] = ("maps", "landmarks", "spacing"), image_key: str = "image") -> None:
        self.targets = (targets,) if isinstance(targets, str) else tuple(targets)
        self.image_key = image_key
        if not self.targets:
            raise ValueError("targets must name at least one key of the batch")

    def __call__(
        self, batchdata: Any, device: str | torch.device | None = None, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Image and targets of a batch; the signature is that of MONAI's `PrepareBatch`.

        `kwargs` (a `dtype` or `memory_format` from the engine's `to_kwargs`) are for the image alone: points
        have no memory format, and half precision would move them by up to half a pixel.
        """
        if not isinstance(batchdata, Mapping):
            raise TypeError(f"PrepareBatchTargets needs batches that are dictionaries, got {type(batchdata).__name__}")
        for key in (self.image_key, *self.targets):
            if key not in batchdata:
                raise KeyError(
                    f"the batch has no '{key}'; its keys are {sorted(map(str, batchdata))}: correct image_key or "
                    "targets, or add the transform that makes it"
                )
            if not isinstance(batchdata[key], Tensor):
                raise TypeError(f"'{key}' must be a tensor (B, …), got {type(batchdata[key]).__name__}")
        image = batchdata[self.image_key].to(device=device, non_blocking=non_blocking, **kwargs)
        return image, {key: batchdata[key].to(device=device, non_blocking=non_blocking) for key in self.targets}
