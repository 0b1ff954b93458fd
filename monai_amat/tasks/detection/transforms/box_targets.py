"""Boxes as a padded tensor, which batches can collate and attacks can carry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.transforms import Transform

from monai_amat.checks import check_within
from monai_amat.tasks.detection.transforms.boxes import boxes_of, case_of

__all__ = ["BoxTargetsd"]


class BoxTargetsd(Transform):
    """Turn boxes and labels into `targets`: the last step of a pipeline.

    Args:
        max_boxes: rows of the tensor; no image of the data may have more boxes.
        box_key: boxes `(N, 4)`; removed from the item, because their number varies.
        label_key: labels `(N,)`; removed as well.
        target_key: key of the output `(max_boxes, 5)` float32: rows `class x1 y1 x2 y2`, padded by `-1 0 0 0 0`.

    Raises:
        ValueError: if `max_boxes` is below 1, or an item (named by its `case`) has more boxes, another number of
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
        check_within("max_boxes", max_boxes, 1)
        self.max_boxes = max_boxes
        self.box_key = box_key
        self.label_key = label_key
        self.target_key = target_key

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Return the item with its targets."""
        item = dict(data)
        boxes = boxes_of(item, self.box_key)
        labels = torch.as_tensor(item[self.label_key]).as_subclass(torch.Tensor)
        case = case_of(item)
        if labels.shape != boxes.shape[:1]:
            raise ValueError(
                f"'{self.label_key}' of {case} must be one per box, ({len(boxes)},), got shape {tuple(labels.shape)}"
            )
        if len(boxes) > self.max_boxes:
            raise ValueError(
                f"{case}: expected at most max_boxes={self.max_boxes} boxes, got {len(boxes)}; set max_boxes to the "
                "largest number of boxes in any image"
            )
        targets = torch.zeros(self.max_boxes, 5)
        targets[:, 0] = -1
        targets[: len(boxes), 0] = labels.float()
        targets[: len(boxes), 1:] = boxes
        del item[self.box_key], item[self.label_key]
        item[self.target_key] = targets
        return item
