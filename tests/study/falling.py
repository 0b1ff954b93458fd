"""A metric that falls from validation to validation, for tests of what counts as the best one."""

from __future__ import annotations

from typing import Any

from ignite.engine import Events


class Falling:
    """Reads the epoch, which goes on after a resume."""

    def attach(self, engine: Any, name: str) -> None:
        """Write the metric at the end of each pass."""

        def write(engine: Any) -> None:
            engine.state.metrics[name] = 1.0 / engine.state.epoch

        engine.add_event_handler(Events.EPOCH_COMPLETED, write)
