"""Several processes: whether there are any, which one this is, and what they gather from one another."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from monai.utils.dist import evenly_divisible_all_gather
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.modules.batchnorm import _NormBase

from monai_amat.engines import unwrap

__all__ = [
    "check_same",
    "gather_named",
    "is_distributed",
    "rank",
    "refuse_separate_processes",
    "share_running_statistics",
]


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


def check_same(value: str, what: str, advice: str) -> None:
    """Refuse to go on where processes differ in something that they must share.

    Args:
        value: what this process has.
        what: what it is, for the message.
        advice: what to do about it.

    Raises:
        RuntimeError: on every process, when one has another value.
    """
    if not is_distributed():
        return
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    other = next((number for number, found in enumerate(values) if found != values[0]), None)
    if other is not None:
        raise RuntimeError(f"process 0 has {what} {values[0]}, but process {other} has {values[other]}; {advice}")


def share_running_statistics(network: nn.Module) -> None:
    """Give all processes the running statistics of process 0.

    Under DDP each process moves its own copy and takes over those of process 0 at the start of the next forward. What
    comes between, an attack on the network, would else depend on the process.

    Args:
        network: the network; DDP and compile wrappers are looked through.
    """
    if not is_distributed() or dist.get_world_size() == 1:
        return
    buffers = [
        buffer
        for module in unwrap(network).modules()
        if isinstance(module, _NormBase) and module.track_running_stats
        for buffer in module.buffers(recurse=False)
    ]
    for dtype in sorted({buffer.dtype for buffer in buffers}, key=str):  # one exchange per type
        chosen = [buffer for buffer in buffers if buffer.dtype == dtype]
        packed = torch.cat([buffer.reshape(-1) for buffer in chosen])
        dist.broadcast(packed, src=0)
        for buffer, shared in zip(chosen, packed.split([buffer.numel() for buffer in chosen]), strict=True):
            buffer.copy_(shared.reshape(buffer.shape))


def refuse_separate_processes(what: str) -> None:
    """Refuse work under torchrun without a process group, which every process would do in full.

    Args:
        what: name of the work, such as `evaluation`.

    Raises:
        RuntimeError: when the environment names several processes without a process group.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size > 1 and not is_distributed():
        raise RuntimeError(
            f"{what} was started as {size} processes without a process group: each would look at all samples and write "
            "the same files; start it without torchrun, or initialise torch.distributed and give each process its "
            "share of the samples"
        )
