"""Radii that no sample's history decides: the controls that adaptive margins must beat."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol

import torch
from ignite.engine import Events
from torch import Tensor

from monai_amat.checks import check_not_negative, check_within
from monai_amat.seeding import fold, generator

__all__ = ["LinearRadius", "RadiusSchedule", "RadiusSource", "UniformRadius"]


class RadiusSource(Protocol):
    """A radius by sample ID: `AdaptiveMargins`, a `RadiusSchedule`, a tensor, or an object of the user's own."""

    def __getitem__(self, ids: Tensor) -> Tensor:
        """Radius `(n,)` of the samples `ids` `(n,)`."""


class RadiusSchedule(ABC):
    """A radius for `PrepareBatchAdversarial` that follows the progress of training.

    Attach it to the trainer whose `prepare_batch` uses it; before that, it has no radius to give.
    """

    def __init__(self) -> None:
        self._engine: Any = None

    def attach(self, engine: Any) -> None:
        """Attach to a `SupervisedTrainer`."""
        engine.add_event_handler(Events.STARTED, self._start)

    def _start(self, engine: Any) -> None:
        self._engine = engine

    def __getitem__(self, ids: Tensor) -> Tensor:
        """Radius `(n,)` of samples `ids` `(n,)` in the iteration that the trainer is at.

        Raises:
            RuntimeError: when it is attached to no trainer, or that one has not started.
        """
        if self._engine is None:
            raise RuntimeError(
                f"{type(self).__name__} follows the iterations of a trainer but is attached to none that runs; "
                "call its attach(trainer), in a bundle under +initialize"
            )
        return self.radius(ids, self._engine.state)

    @abstractmethod
    def radius(self, ids: Tensor, state: Any) -> Tensor:
        """Radius `(n,)` of samples `ids` at the trainer's `state`."""


class UniformRadius(RadiusSchedule):
    """SAT with ε drawn anew for every visit of a sample, uniformly between two bounds.

    A draw depends on (seed, iteration, sample ID) alone: a resumed run repeats it, and so do several processes.

    Args:
        low: least ε, in the units of the image.
        high: largest ε.
        seed: the run's seed.

    Raises:
        ValueError: for bounds that are negative, not finite or in the wrong order.

    Example:
        >>> from types import SimpleNamespace
        >>> radii = UniformRadius(0.0, 10.0).radius(torch.arange(1000), SimpleNamespace(iteration=3))
        >>> bool(((radii >= 0) & (radii <= 10)).all()), round(radii.mean().item())
        (True, 5)
    """

    def __init__(self, low: float, high: float, *, seed: int = 0) -> None:
        super().__init__()
        check_not_negative("high", high)
        check_within("low", low, 0, high)
        self.low = float(low)
        self.high = float(high)
        self.seed = seed

    def radius(self, ids: Tensor, state: Any) -> Tensor:
        """`(n,)` on the CPU."""
        shares = [torch.rand((), generator=generator(fold(self.seed, state.iteration, int(i)))) for i in ids]
        return self.low + (self.high - self.low) * torch.stack(shares)


class LinearRadius(RadiusSchedule):
    """SAT with one ε for all samples that grows evenly from the first iteration of training to the last.

    Args:
        start: ε of the first iteration, in the units of the image.
        end: ε of the last.

    Raises:
        ValueError: for radii that are negative or not finite.

    Example:
        >>> from types import SimpleNamespace
        >>> halfway = SimpleNamespace(iteration=6, epoch_length=11, max_epochs=1)
        >>> LinearRadius(0.0, 10.0).radius(torch.arange(2), halfway)
        tensor([5., 5.])
    """

    def __init__(self, start: float, end: float) -> None:
        super().__init__()
        for name, value in (("start", start), ("end", end)):
            check_not_negative(name, value)
        self.start = float(start)
        self.end = float(end)

    def radius(self, ids: Tensor, state: Any) -> Tensor:
        """`(n,)` on the CPU."""
        iterations = state.max_epochs * state.epoch_length
        progress = (state.iteration - 1) / max(iterations - 1, 1)
        return torch.full((len(ids),), self.start + (self.end - self.start) * progress)
