"""HalvedCriterion: the mean of an ultralytics criterion over the clean and the noisy half (equation 1)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from torch.utils._pytree import tree_map

__all__ = ["DOUBLED", "HalvedCriterion"]

DOUBLED = "amat_doubled"
"""Key of a batch whose second half is the noisy images, in the order of the first."""


class HalvedCriterion:
    """Ultralytics' criterion for a doubled batch `[x ; x̃]`.

    The criterion normalises over its batch and multiplies by the number of images, which would double the gradient of
    a doubled batch. This class calls the criterion once per half and returns the mean of both; with x̃ = x that is the
    loss of x alone, to the digit. A batch without the key `DOUBLED` is given to the criterion unchanged.

    Args:
        criterion: `criterion(preds, batch) -> (loss, items)`.

    Example:
        >>> import torch
        >>> theirs = lambda preds, batch: (preds["value"].mean() * len(preds["value"]), preds["value"].sum())
        >>> batch = {"batch_idx": torch.zeros(0), "cls": torch.zeros(0, 1), "bboxes": torch.zeros(0, 4), DOUBLED: True}
        >>> HalvedCriterion(theirs)({"value": torch.tensor([1.0, 2.0, 3.0, 6.0])}, batch)
        (tensor(6.), tensor(6.))
    """

    def __init__(self, criterion: Callable[[Any, Mapping[str, Any]], tuple[Any, Any]]) -> None:
        self.criterion = criterion

    def __call__(self, preds: Any, batch: Mapping[str, Any]) -> tuple[Any, Any]:
        """Loss and its items."""
        if not batch.get(DOUBLED):
            return self.criterion(preds, batch)
        # Both halves have the same ground truth, which the batch contains twice.
        truth = {name: batch[name][: len(batch[name]) // 2] for name in ("batch_idx", "cls", "bboxes")}
        halves = [self.criterion(tree_map(part, preds), truth) for part in (_first, _second)]
        mean: tuple[Any, Any] = tree_map(lambda clean, noisy: (clean + noisy) / 2, *halves)
        return mean

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A copy of the inner criterion: ultralytics saves it with the model, to be loaded without this package."""
        return copy.deepcopy(self.criterion, memo)


def _first(leaf: Any) -> Any:
    return leaf[: len(leaf) // 2]


def _second(leaf: Any) -> Any:
    return leaf[len(leaf) // 2 :]
