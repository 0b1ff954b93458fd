"""Foreground oversampling of nnU-Net as one fixed sampling weight per slice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from monai_amat.checks import check_within

__all__ = ["oversampled_weights"]


def oversampled_weights(items: Sequence[Mapping[str, Any]], fraction: float = 0.33) -> list[float]:
    r"""Compute the probability with which nnU-Net (version 1, as in the paper) draws each slice.

    With probability `1 - fraction` nnU-Net draws a case, then one of its slices, both uniformly. With probability
    `fraction` it draws a case, one of its foreground classes, then one of the slices of the case that hold this class,
    all uniformly. With N cases, $S$ slices in the case, its classes $K$, and $n_k$ slices with class k,

    $$
    w_s = \frac{1 - fraction}{N S} + \frac{fraction}{N |K|} \\sum_{k \\in K} \frac{[s \text{ holds } k]}{n_k} .
    $$

    Slices of a case without foreground are drawn uniformly in both ways. nnU-Net fixes the number of forced slices in
    each batch; with weights the share holds in expectation, and the weight of a slice does not depend on its batch.

    Args:
        items: slices from `load_slices`; `case` and `label` are used.
        fraction: share of draws that must hold foreground, from 0 to 1.

    Returns:
        One weight per slice, in the order of `items`; the sum is 1.

    Raises:
        ValueError: if there are no items, or `fraction` is out of range.

    Example:
        >>> import torch
        >>> labels = [torch.tensor([[[0, 0]]]), torch.tensor([[[0, 1]]]), torch.tensor([[[1, 1]]])]
        >>> oversampled_weights([{"case": "a", "label": label} for label in labels], fraction=0.6)  # 0.4/3, +0.3, +0.3
        [0.1333..., 0.4333..., 0.4333...]
    """
    if not items:
        raise ValueError("items must hold at least one slice, got none")
    check_within("fraction", fraction, 0, 1)
    rows = defaultdict(list)
    for index, item in enumerate(items):
        rows[item["case"]].append(index)
    weights = np.empty(len(items))
    for of_case in rows.values():
        uniform = np.full(len(of_case), 1 / len(of_case))
        holds = _classes([np.asarray(items[index]["label"]) for index in of_case])
        forced = (holds / holds.sum(axis=0)).mean(axis=1) if holds.size else uniform
        weights[of_case] = ((1 - fraction) * uniform + fraction * forced) / len(rows)
    return weights.tolist()


def _classes(labels: list[np.ndarray]) -> np.ndarray:
    """Presence of each foreground class of the case in each slice, `(slices, classes)` bool."""
    present = [np.bincount(label.astype(np.int64).ravel())[1:] > 0 for label in labels]
    table = np.zeros((len(labels), max(map(len, present))), dtype=bool)
    for row, found in zip(table, present, strict=True):
        row[: len(found)] = found
    return table[:, table.any(axis=0)]
