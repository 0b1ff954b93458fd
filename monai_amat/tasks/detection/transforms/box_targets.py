"""Boxes as a padded tensor, which batches collate and attacks can carry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.transforms import Transform

from monai_amat.tasks.detection.transforms.boxes import boxes_of, case_of

__all__ = ["BoxTargetsd"]


class BoxTargetsd(Transform):
    """Turn boxes and labels into `targets`: the last step of a pipeline.

    Args:
        max_boxes: rows of the tensor; none of the data's images may hold more boxes.
        box_key: boxes `(N, 4)`; taken out of the item, since their number varies.
        label_key: labels `(N,)`; taken out as well.
        target_key: where `(max_boxes, 5)` float32 goes: rows `class x1 y1 x2 y2`, padded by `-1 0 0 0 0`.

    Raises:
        ValueError: for `max_boxes` below 1; on an item, named by its `case`, with more boxes, another number of
            labels, or a box without area.

    Example:
        >>> item = {"boxes": torch.tensor([[1.0, 2.0, 5.0, 6.0]]), "labels": torch.tensor([2])}
        >>> BoxTargetsd(max_boxes=2)(item)["targets"]
        tensor([[ 2.,  1.,  2.,  5.,  6.],
                [-1.,  0.,  0.,  0.,  0.]])
    """

    def __init__(
        self, max_boxes: int, box_key: str = "boxes", label_key: str = "labels", target_key: str = "targets"
    ) -> None:
        if max_boxes < 1:
            raise ValueError(f"max_boxes must be at least 1, found {max_boxes}.")
        self.max_boxes = max_boxes
        self.box_key = box_key
        self.label_key = label_key
        self.target_key = target_key

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """The item with its targets."""
        item = dict(data)
        boxes = boxes_of(item, self.box_key)
        labels = torch.as_tensor(item[self.label_key]).as_subclass(torch.Tensor)
        case = case_of(item)
        if labels.shape != boxes.shape[:1]:
            raise ValueError(
                f"'{self.label_key}' of {case} must be one a box, ({len(boxes)},), found shape {tuple(labels.shape)}."
            )
        if len(boxes) > self.max_boxes:
            raise ValueError(
                f"{case} has {len(boxes)} boxes, but max_boxes is {self.max_boxes}: raise it to the largest number of "
                "boxes of any image, none may be left out."
            )
        targets = torch.zeros(self.max_boxes, 5)
        targets[:, 0] = -1
        targets[: len(boxes), 0] = labels.float()
        targets[: len(boxes), 1:] = boxes
        del item[self.box_key], item[self.label_key]
        item[self.target_key] = targets
        return item
