"""Whether there are several processes, and which one this is."""

from __future__ import annotations

from torch import distributed as dist

__all__ = ["is_distributed", "rank"]


def is_distributed() -> bool:
    """Whether a process group is up.

    Example:
        >>> is_distributed(), rank()
        (False, 0)
    """
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's number; 0 where it is alone."""
    return dist.get_rank() if is_distributed() else 0
