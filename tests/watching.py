"""An acceptance with fixed thresholds that has running ones updated beside them, for tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from monai_amat.margins import Absolute, RunningThresholds


@dataclass(frozen=True)
class Watched(Absolute):
    beside: tuple[RunningThresholds, ...] = ()

    @property
    def running(self) -> tuple[RunningThresholds, ...]:
        return self.beside


def watched(thresholds: Mapping[str, float] | None, running: RunningThresholds) -> Absolute:
    """Fixed thresholds with running ones beside them; without fixed ones the running ones count."""
    return Absolute(running) if thresholds is None else Watched(thresholds, (running,))
