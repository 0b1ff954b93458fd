"""ShuffleMarginsHandler: a control experiment that assigns the margins to samples at random."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Events

from monai_amat.margins import SampleMargins
from monai_amat.seeding import fold, generator

__all__ = ["ShuffleMarginsHandler"]


class ShuffleMarginsHandler:
    """Assign all margins to samples at random, at the start of every epoch.

    The distribution of the margins and the rule that moves them stay; only the assignment to samples is lost. If
    training is as good with this handler as without it, one margin per sample has no benefit.

    Args:
        margins: the margins that training uses.
        seed: the run's seed; the order in an epoch depends on (seed, epoch) alone, so that a resumed run repeats it
            and all processes have the same order.

    Example:
        >>> from ignite.engine import Engine
        >>> margins = SampleMargins(4, initial=1.0)
        >>> margins.values[:] = torch.tensor([1.0, 2.0, 3.0, 4.0])
        >>> trainer = Engine(lambda engine, batch: None)
        >>> ShuffleMarginsHandler(margins, seed=1).attach(trainer)
        >>> _ = trainer.run([0])
        >>> sorted(margins.values.tolist()), margins.values.tolist() == [1.0, 2.0, 3.0, 4.0]
        ([1.0, 2.0, 3.0, 4.0], False)
    """

    def __init__(self, margins: SampleMargins, *, seed: int = 0) -> None:
        self.margins = margins
        self.seed = seed

    def attach(self, engine: Any) -> None:
        """Attach to a `SupervisedTrainer`."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._shuffle)

    def _shuffle(self, engine: Any) -> None:
        order = torch.randperm(len(self.margins), generator=generator(fold(self.seed, engine.state.epoch)))
        self.margins.values = self.margins.values[order]
