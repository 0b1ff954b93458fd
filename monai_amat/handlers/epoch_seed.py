"""EpochSeedHandler: sets the epoch of the data and seeds the global random generators per epoch."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events

from monai_amat.seeding import fold

__all__ = ["EpochSeedHandler"]


class EpochSeedHandler:
    """Make an epoch depend on (seed, epoch, rank) alone, so that a resumed run repeats it to the bit.

    At the start of every epoch it calls `set_epoch` on the loader's data set, sampler and batch sampler, and on what
    these wrap, where they have it, and seeds Python's, numpy's and torch's (CUDA's too) global generators, and those
    given to loader or sampler, with `fold(seed, epoch, rank)`: dropout and everything else drawn from them repeats.
    They are seeded once more ahead of the first iteration, since a loader that starts its workers draws a number where
    one whose workers persist does not.

    Args:
        seed: the run's seed.

    Raises:
        ValueError: when training starts, if the trainer's `epoch_length` is not the loader's length: the loader's
            passes would then straddle epochs, and a resumed run would see other batches.

    Example:
        >>> from monai.engines import SupervisedTrainer
        >>> from torch.utils.data import DataLoader
        >>> from monai_amat.data.sampler import SeededSampler
        >>> loader = DataLoader([{"image": torch.ones(1), "label": torch.ones(1)}] * 4, sampler=SeededSampler(4))
        >>> network = torch.nn.Linear(1, 1)
        >>> trainer = SupervisedTrainer(
        ...     "cpu", 3, loader, network, torch.optim.SGD(network.parameters(), 0.1), torch.nn.MSELoss(),
        ...     train_handlers=[EpochSeedHandler(seed=5)],
        ... )
        >>> trainer.run()
        >>> loader.sampler.epoch
        3
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._cut_short = False
        self._opening = False

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI trainer."""
        engine.add_event_handler(Events.STARTED, self._check)
        engine.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        engine.add_event_handler(Events.ITERATION_STARTED, self._start_iteration)
        engine.add_event_handler(Events.TERMINATE_SINGLE_EPOCH, self._note_cut)

    def _check(self, engine: Any) -> None:
        epoch_length = engine.state.epoch_length
        if epoch_length is None:
            return
        try:
            batches = len(engine.data_loader)
        except TypeError:
            batches = None
        if batches != epoch_length:
            raise ValueError(
                f"epoch_length must be the number of batches of the data loader, got {epoch_length} for "
                f"{'a loader of unknown length' if batches is None else f'{batches} batches'}; a resumed run would see "
                "other batches; leave epoch_length out, and set the length of an epoch with "
                "SeededSampler(num_samples=epoch_length * batch_size * world_size)"
            )

    def _start_epoch(self, engine: Any) -> None:
        self._opening = True
        seed = self._seed_everything(engine)
        for part in _parts(engine.data_loader):
            if hasattr(part, "set_epoch"):
                part.set_epoch(engine.state.epoch)
            if isinstance(getattr(part, "generator", None), torch.Generator):
                part.generator.manual_seed(seed)
        if self._cut_short:
            # Ignite opens the next pass at once when an epoch is cut short; loader workers have then already made
            # batches of it for the old epoch.
            engine.set_data(engine.state.dataloader)
            self._cut_short = False

    def _start_iteration(self, engine: Any) -> None:
        if self._opening:
            self._seed_everything(engine)
            self._opening = False

    def _seed_everything(self, engine: Any) -> int:
        seed = fold(self.seed, engine.state.epoch, engine.state.rank)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # numpy takes 32 bits
        torch.manual_seed(seed)
        return seed

    def _note_cut(self, engine: Any, iter_counter: int) -> None:
        self._cut_short = True


def _parts(loader: Any) -> Iterator[Any]:
    """The loader and the parts of it that may have `set_epoch`, each once."""
    seen: list[Any] = []
    waiting = [loader]
    while waiting:
        part = waiting.pop()
        if any(part is other for other in seen):
            continue
        seen.append(part)
        inner = (getattr(part, name, None) for name in ("dataset", "sampler", "batch_sampler"))
        waiting += [other for other in inner if other is not None]
    yield from seen
