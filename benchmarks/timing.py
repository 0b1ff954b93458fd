"""Interleaved timing: what is compared runs in turn, so that a busy machine slows all of it alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

__all__ = ["Spread", "interleave", "ratios", "spread"]


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of some measurements.

    Args:
        median: the middle value.
        low: the lower quartile.
        high: the upper quartile.
    """

    median: float
    low: float
    high: float

    def text(self, digits: int = 3, factor: float = 1.0) -> str:
        """`median [low, high]`, each times `factor`.

        Example:
            >>> Spread(0.0102, 0.01, 0.012).text(1, factor=1000)
            '10.2 [10.0, 12.0]'
        """
        median, low, high = (f"{value * factor:.{digits}f}" for value in (self.median, self.low, self.high))
        return f"{median} [{low}, {high}]"


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles, linear between neighbouring values.

    Raises:
        ValueError: for no values.

    Example:
        >>> spread([1.0, 2.0, 3.0, 4.0, 5.0])
        Spread(median=3.0, low=2.0, high=4.0)
    """
    if not len(values):
        raise ValueError("nothing was measured: give at least one round")
    low, median, high = np.quantile(np.asarray(values, dtype=np.float64), [0.25, 0.5, 0.75]).tolist()
    return Spread(median, low, high)


def interleave(
    contenders: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    warmup: int = 1,
    before: Callable[[], object] | None = None,
    device: torch.device | None = None,
) -> dict[str, list[float]]:
    """Time every contender once a round; every other round goes backwards.

    Two contenders run in the order a, b, b, a, …: whatever drifts slowly (temperature, frequency, other work) weighs on
    both alike, and so does standing next to oneself. Compare rounds, not totals: `ratios`.

    Args:
        contenders: what to call, by name.
        rounds: how often.
        warmup: calls of each beforehand that are not timed.
        before: called untimed at the start of each round.
        device: where the work is done; a GPU is waited for before the clock is read.

    Returns:
        seconds per round, by name.

    Raises:
        ValueError: for fewer than one round.

    Example:
        >>> order = []
        >>> seconds = interleave({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2, warmup=0)
        >>> "".join(order), len(seconds["a"])
        ('abba', 2)
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    for _ in range(warmup):
        for call in contenders.values():
            call()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        if before is not None:
            before()
        for name in list(contenders) if number % 2 == 0 else list(contenders)[::-1]:
            _wait(device)
            started = time.perf_counter()
            contenders[name]()
            _wait(device)
            seconds[name].append(time.perf_counter() - started)
    return seconds


def ratios(seconds: Mapping[str, Sequence[float]], name: str, base: str) -> Spread:
    """Seconds of `name` over those of `base`, round by round.

    Example:
        >>> ratios({"a": [1.0, 10.0, 2.0], "b": [2.0, 20.0, 2.0]}, "b", "a").median
        2.0
    """
    return spread([one / other for one, other in zip(seconds[name], seconds[base], strict=True)])


def _wait(device: torch.device | None) -> None:
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
