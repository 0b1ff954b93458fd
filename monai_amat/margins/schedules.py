"""Radii that do not depend on the history of a sample: the baselines for adaptive margins."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol

import torch
from torch import Tensor

from monai_amat.checks import check_not_negative, check_within
from monai_amat.seeding import fold, generator

__all__ = ["LinearRadius", "RadiusSchedule", "RadiusSource", "UniformRadius"]


class RadiusSource(Protocol):
    """A radius by sample ID: `AdaptiveMargins`, a `RadiusSchedule`, a tensor, or any object with `radius[ids]`."""

    def __getitem__(self, ids: Tensor) -> Tensor:
        """Radius `(n,)` of the samples `ids` `(n,)`."""


class RadiusSchedule(ABC):
    """A radius for `PrepareBatchAdversarial` that follows the progress of training.

    Attach it to the trainer whose `prepare_batch` uses it, before the training starts.
    """

    def __init__(self) -> None:
        self._engine: Any = None

    def attach(self, engine: Any) -> None:
        """Attach to a `SupervisedTrainer`."""
        from ignite.engine import Events  # here, so that `from monai_amat import Absolute` does not load Ignite

        engine.add_event_handler(Events.STARTED, self._start)

    def _start(self, engine: Any) -> None:
        self._engine = engine

    def __getitem__(self, ids: Tensor) -> Tensor:
        """Radius `(n,)` of the samples `ids` `(n,)` in the trainer's present iteration.

        Raises:
            RuntimeError: if it is not attached to a trainer, or the trainer has not started.
        """
        if self._engine is None:
            raise RuntimeError(
                f"{type(self).__name__} must be attached to a trainer that runs, got no trainer; call its "
                "attach(trainer), in a bundle under '+initialize'"
            )
        return self.radius(ids, self._engine.state)

    @abstractmethod
    def radius(self, ids: Tensor, state: Any) -> Tensor:
        """Radius `(n,)` of the samples `ids` at the trainer's `state`."""


class UniformRadius(RadiusSchedule):
    """SAT with a new ε for every visit of a sample, drawn uniformly between two bounds.

    A draw depends on (seed, iteration, sample ID) alone: a resumed run and a run with several processes repeat it.

    Args:
        low: least ε, in the units of the image.
        high: largest ε.
        seed: the run's seed.

    Raises:
        ValueError: if a bound is negative or not finite, or `low` is above `high`.

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
    """SAT with one ε for all samples, which changes linearly from the first to the last iteration of training.

    Args:
        start: ε of the first iteration, in the units of the image.
        end: ε of the last iteration.

    Raises:
        ValueError: if a radius is negative or not finite.

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
