"""Padded boxes, the target of a detection loss: checked, trimmed, and separated from padding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from monai_amat.losses.base import full_precision

__all__ = ["PaddedBoxes", "padded_boxes"]


@dataclass(frozen=True)
class PaddedBoxes:
    """True boxes of a batch, at most M per image.

    Args:
        labels: `(B, M)` int64, 0 for padding.
        corners: `(B, M, 4)` x1 y1 x2 y2 in pixels, 0 for padding.
        real: `(B, M)` bool, False for padding.
    """

    labels: Tensor
    corners: Tensor
    real: Tensor


def padded_boxes(target: Any, batch: int, classes: int) -> PaddedBoxes:
    """Read the boxes of a target, without the columns that are padding in every image.

    Args:
        target: `(B, max_boxes, 5)`, rows of class, x1, y1, x2, y2 in pixels; class -1 for padding; or a mapping that
            holds this tensor under `"targets"`.
        batch: number of images B.
        classes: number of classes.

    Raises:
        KeyError: if a mapping has no `"targets"`.
        TypeError: if the target is not a tensor.
        ValueError: if the shape is another, or a class is out of range.

    Example:
        >>> target = torch.tensor([[[1.0, 2, 3, 4, 5], [-1, 0, 0, 0, 0], [-1, 0, 0, 0, 0]]])
        >>> boxes = padded_boxes(target, batch=1, classes=2)
        >>> boxes.labels.tolist(), boxes.corners.tolist()
        ([[1]], [[[2.0, 3.0, 4.0, 5.0]]])
    """
    if isinstance(target, Mapping):
        if "targets" not in target:
            raise KeyError(f"a detection loss needs 'targets' in the target, got {sorted(map(str, target))}")
        target = target["targets"]
    if not isinstance(target, Tensor):
        raise TypeError(f"target must be a tensor (B, max_boxes, 5), got {type(target).__name__}")
    if target.ndim != 3 or target.shape[2] != 5 or target.shape[0] != batch:
        raise ValueError(
            f"target must be ({batch}, max_boxes, 5), rows of class, x1, y1, x2, y2 in pixels and class -1 for "
            f"padding, got {tuple(target.shape)}"
        )
    rows = full_precision(target.detach())
    labels = rows[..., 0]
    real = labels >= 0
    columns, highest = 0, -1.0
    if target.shape[0] and target.shape[1]:
        numbers = torch.arange(1, target.shape[1] + 1, device=rows.device)
        # Both in one transfer, because each one waits for the device.
        columns, highest = torch.stack([(real * numbers).amax().to(labels.dtype), labels.amax()]).tolist()
    if highest >= classes:
        wrong = (labels >= classes).any(1).nonzero().flatten().tolist()
        raise ValueError(
            f"target must hold classes from 0 to {classes - 1}, got {highest:g} in samples {wrong} of the batch; "
            "give the data the list of classes that the network has"
        )
    rows, real = rows[:, : int(columns)], real[:, : int(columns)]
    labels = torch.where(real, rows[..., 0], 0.0).long()
    return PaddedBoxes(labels, torch.where(real.unsqueeze(-1), rows[..., 1:], 0.0), real)
