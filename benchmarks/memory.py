"""Memory that some work takes, measured in a process of its own."""

from __future__ import annotations

import multiprocessing
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

__all__ = ["Memory", "megabytes", "memory_of"]

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Memory:
    """Bytes of a process around some work.

    Args:
        before: resident once everything was prepared.
        held: resident after it, over `before`, while its result was kept.
        peak: highest while it ran, over `before`.
        gpu: highest that PyTorch had allocated on the GPU, in all; 0 without one.
    """

    before: int
    held: int
    peak: int
    gpu: int

    @property
    def total(self) -> int:
        """The process at its highest."""
        return self.before + self.peak


def megabytes(size: int) -> str:
    """Bytes as text in MB (10⁶ bytes).

    Example:
        >>> megabytes(40_000_000)
        '40.0'
    """
    return f"{size / 1e6:.1f}"


def memory_of(prepare: Callable[..., Callable[[], object]], *arguments: Any) -> Memory:
    """What the work that `prepare(*arguments)` returns takes, done once in a fresh process.

    Args:
        prepare: a function of a module, so that the new process finds it; makes all that does not count.
        arguments: for it; they are pickled.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        return pool.submit(_measure, prepare, arguments).result()


def _measure(prepare: Callable[..., Callable[[], object]], arguments: tuple[Any, ...]) -> Memory:
    work = prepare(*arguments)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    if _RESET.exists():
        _RESET.write_text("5", encoding="ascii")  # the peak of preparing is not the work's
    before = _resident()
    result = work()
    held, peak = _resident(), _peak()
    gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    del result
    return Memory(before, held - before, peak - before, gpu)


def _resident() -> int:
    return _status("VmRSS")


def _peak() -> int:
    # Not ru_maxrss where there is another way: a process inherits the highest of the one that started it.
    if _STATUS.exists():
        return _status("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _status(name: str) -> int:
    if not _STATUS.exists():
        return _peak()
    lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
