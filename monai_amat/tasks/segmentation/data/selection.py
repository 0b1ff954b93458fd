"""Selection of the slices that a run uses."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from monai_amat.seeding import fold, generator

__all__ = ["balanced_subset"]


def balanced_subset(slices: list[dict[str, Any]], count: int | None, *, seed: int = 0) -> list[dict[str, Any]]:
    """Choose `count` foreground slices, as evenly from all volumes as possible; all slices if `count` is None.

    Strong attacks are slow and slices of one volume are similar, so a few slices of each volume are more informative
    than all slices of some. If fewer than `count` slices have foreground, all of these are used, with a warning.

    Args:
        slices: items of `load_slices`.
        count: number of slices to keep.
        seed: seed of the choice.

    Returns:
        The chosen slices in their original order.

    Raises:
        ValueError: if `count` is not positive, or no slice has foreground.

    Example:
        >>> items = [{"case": case, "slice": i, "classes": "1"} for case in "ab" for i in range(9)]
        >>> [item["case"] for item in balanced_subset(items, 4)]
        ['a', 'a', 'b', 'b']
    """
    if count is None:
        return slices
    with_foreground = [i for i, item in enumerate(slices) if item["classes"]]
    if count < 1 or not with_foreground:
        raise ValueError(
            f"a subset needs count >= 1 and slices with foreground, got count={count} and {len(with_foreground)} "
            "such slices"
        )
    if count > len(with_foreground):
        warnings.warn(
            f"expected {count} slices with foreground, got {len(with_foreground)}; all of these are used",
            stacklevel=2,
        )
    by_case: dict[str, list[int]] = {}
    for i in with_foreground:
        by_case.setdefault(slices[i]["case"], []).append(i)
    order = []
    for number, members in enumerate(by_case.values()):
        drawn = torch.randperm(len(members), generator=generator(fold(seed, number))).tolist()
        order += [(turn, members[place]) for turn, place in enumerate(drawn)]
    return [slices[i] for i in sorted(i for _, i in sorted(order)[:count])]
