"""Several processes: whether there are any, which one this is, and what they gather from one another."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from monai.utils.dist import evenly_divisible_all_gather
from torch import Tensor
from torch import distributed as dist

__all__ = ["gather_named", "is_distributed", "rank"]


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


def gather_named(values: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Values of the samples of all processes, in the order of the processes, by one exchange.

    Args:
        values: by name, each `(n,)`, of any type whose values double precision holds; n may differ between processes.
        device: where processes exchange tensors.

    Returns:
        by the same names and of the same types, on the CPU; the values themselves where there is one process.

    Example:
        >>> gather_named({"ids": torch.tensor([3, 1])}, torch.device("cpu"))
        {'ids': tensor([3, 1])}
    """
    if not is_distributed():
        return dict(values)
    packed = torch.stack([value.double() for value in values.values()], dim=1).to(device)
    gathered = evenly_divisible_all_gather(packed, concat=True).cpu().unbind(dim=1)
    return {name: column.to(value.dtype) for (name, value), column in zip(values.items(), gathered, strict=True)}
