"""Randomness as a function: every draw follows from integers that name it, so that nothing random needs saving."""

from __future__ import annotations

from operator import index
from typing import SupportsIndex

import torch

_MASK = (1 << 64) - 1


def _splitmix64(value: int) -> int:
    """The splitmix64 finaliser: a bijection on 64 bits whose every output bit depends on every input bit."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def fold(seed: SupportsIndex, *parts: SupportsIndex) -> int:
    """Mix integers into one seed; the same integers give the same seed on every machine, rank and worker.

    Args:
        seed: the run's seed, an integer of any kind.
        parts: what the draw is for, in a fixed order, for example epoch, sample ID and visit.

    Returns:
        an integer in `[0, 2**63)`, so that it fits an int64 tensor.

    Raises:
        TypeError: for a value that is not an integer.

    Example:
        >>> fold(0, 1, 2) == fold(0, 1, 2), fold(0, 1, 2) == fold(0, 2, 1)
        (True, False)
    """
    # As Python's own integers: those of numpy and torch overflow or wrap under the mask.
    state = _splitmix64(index(seed) & _MASK)
    for part in parts:
        state = _splitmix64(state ^ (index(part) & _MASK))
    return state >> 1


def generator(seed: int) -> torch.Generator:
    """A fresh CPU generator; draws are made on the CPU so that every device sees the same numbers.

    Example:
        >>> a, b = generator(7), generator(7)
        >>> bool((torch.rand(3, generator=a) == torch.rand(3, generator=b)).all())
        True
    """
    return torch.Generator().manual_seed(seed)
