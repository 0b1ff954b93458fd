"""nnU-Net's foreground oversampling as one fixed sampling weight a slice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["oversampled_weights"]


def oversampled_weights(items: Sequence[Mapping[str, Any]], fraction: float = 0.33) -> list[float]:
    """Probability with which nnU-Net (version 1, the paper's) would draw each slice.

    With probability `1 - fraction`: a case, then one of its slices, both uniformly. With probability `fraction`:
    a case, one of its foreground classes, then one of the `n(k)` slices of the case that hold this class `k`, all
    three uniformly::

        w(s) = (1 - fraction) / (cases * slices of the case)
             + fraction / cases * mean over the case's classes k of [s holds k] / n(k)

    A case without foreground is drawn uniformly in both. nnU-Net fixes the forced share of each batch; as weights the
    share holds in expectation, and a slice's weight does not depend on the batch it falls into.

    Args:
        items: slices as `load_slices` returns them: `case` and `label` are read.
        fraction: share of draws that must hold foreground, from 0 (cases equally often) to 1.

    Returns:
        One weight a slice, in the order of `items`; they sum to 1.

    Raises:
        ValueError: no items, or `fraction` outside 0 to 1.

    Example:
        >>> import torch
        >>> labels = [torch.tensor([[[0, 0]]]), torch.tensor([[[0, 1]]]), torch.tensor([[[1, 1]]])]
        >>> oversampled_weights([{"case": "a", "label": label} for label in labels], fraction=0.6)  # 0.4/3, +0.3, +0.3
        [0.1333..., 0.4333..., 0.4333...]
    """
    if not items:
        raise ValueError("there are no slices to weigh: expected at least one item.")
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction must be from 0 to 1, found {fraction}.")
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
    """Whether each slice holds each foreground class of the case, `(slices, classes)` bool."""
    present = [np.bincount(label.astype(np.int64).ravel())[1:] > 0 for label in labels]
    table = np.zeros((len(labels), max(map(len, present))), dtype=bool)
    for row, found in zip(table, present, strict=True):
        row[: len(found)] = found
    return table[:, table.any(axis=0)]
