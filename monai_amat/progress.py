"""Progress of long work: a bar on a terminal, and one line at the end of each part everywhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from time import perf_counter
from types import TracebackType
from typing import Any, Self, TypeVar

from tqdm import tqdm

__all__ = ["BAR_VARIABLE", "Progress", "track"]

T = TypeVar("T")

BAR_VARIABLE = "MONAI_AMAT_BAR"
"""Environment variable: `1` draws bars although the error stream is no terminal, `0` draws none on a terminal."""


class Progress:
    """Counts finished units of one part of the work, such as an epoch or a noise level.

    On a terminal a bar shows the count while the part runs and disappears at its end. At the end one line is written
    to the error stream, also where that is a file: `<title>: <count> <units> in <seconds> s`. A part that ends with an
    exception writes no line.

    Args:
        total: how many units the part has.
        title: name of the part.
        units: name of the units, in the plural.
        show: False shows nothing.

    Example:
        >>> with Progress(2, title="epoch 1/3", units="batches", show=False) as progress:
        ...     progress.update()
        >>> progress.count
        1
    """

    def __init__(self, total: int, *, title: str, units: str = "batches", show: bool = True) -> None:
        self.total = total
        self.title = title
        self.units = units
        self.show = show
        self.count = 0
        self._bar: tqdm[Any] | None = None
        self._started = perf_counter()

    def __enter__(self) -> Self:
        self._started = perf_counter()
        if self.show and _draws_bars():
            self._bar = tqdm(total=self.total, desc=self.title, unit=f" {self.units}", leave=False, dynamic_ncols=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        if self.show and kind is None and sys.stderr is not None:
            seconds = perf_counter() - self._started
            print(f"{self.title}: {self.count} {self.units} in {seconds:.1f} s", file=sys.stderr, flush=True)

    def update(self) -> None:
        """Count one finished unit."""
        self.count += 1
        if self._bar is not None:
            self._bar.update()


def track(items: Sequence[T], *, title: str, units: str, show: bool = True) -> Iterator[T]:
    """Yield `items` under a `Progress`, which counts each one after its use.

    Example:
        >>> list(track("ab", title="letters", units="letters", show=False))
        ['a', 'b']
    """
    with Progress(len(items), title=title, units=units, show=show) as progress:
        for item in items:
            yield item
            progress.update()


def _draws_bars() -> bool:
    chosen = os.environ.get(BAR_VARIABLE)
    if chosen in ("0", "1"):
        return chosen == "1"
    return sys.stderr is not None and sys.stderr.isatty()
