"""Which slices a run works on."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from monai_amat.seeding import fold, generator

__all__ = ["balanced_subset"]


def balanced_subset(slices: list[dict[str, Any]], count: int | None, *, seed: int = 0) -> list[dict[str, Any]]:
    """As many foreground slices of every volume as possible, `count` in all; all slices for None.

    Strong attacks are slow, and slices of one volume are alike: a few of each volume say more than all of some. Where
    fewer than `count` slices have foreground all of those are taken, with a warning.

    Args:
        slices: items of `load_slices`.
        count: how many to keep.
        seed: decides which.

    Returns:
        The chosen slices in their old order.

    Raises:
        ValueError: when `count` is not positive, or no slice has foreground.

    Example:
        >>> items = [{"case": case, "slice": i, "classes": "1"} for case in "ab" for i in range(9)]
        >>> [item["case"] for item in balanced_subset(items, 4)]
        ['a', 'a', 'b', 'b']
    """
    if count is None:
        return slices
    with_foreground = [i for i, item in enumerate(slices) if item["classes"]]
    if count < 1 or not with_foreground:
        raise ValueError(f"a subset of {count} slices was asked for, but {len(with_foreground)} have foreground")
    if count > len(with_foreground):
        warnings.warn(
            f"a subset of {count} slices was asked for, but {len(with_foreground)} have foreground: all of those are "
            "taken.",
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
