"""The trained network as a file of its own, once training is complete."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Events

from monai_amat.engines import save_weights, unwrap
from monai_amat.files import remove_leftovers
from monai_amat.handlers.plain_state import plain_state
from monai_amat.handlers.ranks import rank

__all__ = ["ExportHandler"]


class ExportHandler:
    """Save the weights of the last epoch when training completes, whole or not at all, on rank 0.

    MONAI's `CheckpointSaver(save_final=True)` also saves on an exception, over the good file of an earlier run. This
    one does not.

    Args:
        path: file to write.
        settings: what the network is trained with and must be used with, such as the size of images; kept beside the
            weights, see `load_weights`.

    Raises:
        TypeError: for settings that are not plain values.
        IsADirectoryError: at attaching, when `path` is a folder.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any] | None = None) -> None:
        self.path = Path(path)
        self.settings: dict[str, Any] = plain_state(dict(settings or {}), "settings")

    def attach(self, engine: Any) -> None:
        """Attach to a trainer."""
        if self.path.is_dir():
            raise IsADirectoryError(
                f"{self.path} is a folder, expected a file to export the network to; rename the folder"
            )
        if rank() == 0 and self.path.parent.is_dir():
            remove_leftovers(self.path)
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        """Save the network."""
        if rank() != 0:
            return
        save_weights(unwrap(engine.network), self.path, self.settings)
        logging.getLogger(__name__).info("network saved to %s", self.path)
