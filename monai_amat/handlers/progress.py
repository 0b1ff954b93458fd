"""ProgressHandler: how far an epoch is."""

from __future__ import annotations

from typing import Any

from ignite.engine import Events

from monai_amat.handlers.ranks import rank
from monai_amat.progress import Progress

__all__ = ["ProgressHandler"]


class ProgressHandler:
    """Show a bar over the batches of each epoch on a terminal, and one line per epoch everywhere.

    Where there are several processes, rank 0 alone shows it. See `monai_amat.progress.Progress`.

    Args:
        title: name of the work; the number of the epoch is added where the engine runs several epochs.

    Example:
        >>> from ignite.engine import Engine
        >>> engine = Engine(lambda engine, batch: None)
        >>> handler = ProgressHandler("training")
        >>> handler.attach(engine)
        >>> _ = engine.run([0, 1], max_epochs=2)
        >>> handler.progress.title, handler.progress.count
        ('training, epoch 2/2', 2)
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self.progress: Progress | None = None

    def attach(self, engine: Any) -> None:
        """Attach to any Ignite engine."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._count)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._end)

    def _start(self, engine: Any) -> None:
        state = engine.state
        title = self.title if state.max_epochs == 1 else f"{self.title}, epoch {state.epoch}/{state.max_epochs}"
        self.progress = Progress(state.epoch_length, title=title, show=rank() == 0)
        self.progress.__enter__()

    def _count(self, engine: Any) -> None:
        if self.progress is not None:
            self.progress.update()

    def _end(self, engine: Any) -> None:
        if self.progress is not None:
            self.progress.__exit__(None, None, None)
