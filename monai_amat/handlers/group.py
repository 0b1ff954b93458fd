"""Several handlers as one, so that each of them can have an id of its own in a configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

__all__ = ["GroupHandler"]


class _Attachable(Protocol):
    def attach(self, engine: Any) -> None: ...


class GroupHandler:
    """Attach handlers to an engine, in order.

    MONAI looks for the class of each entry in a bundle's list of handlers, so that an entry cannot be a reference such
    as `"@guard"`. It can be a group whose handlers are references. A handler that is disabled by `_disabled_` where it
    is defined is None behind its reference; it is left out.

    Args:
        handlers: objects with `attach(engine)`, or None.

    Raises:
        TypeError: for an object without `attach`.

    Example:
        >>> from ignite.engine import Engine
        >>> from monai_amat.handlers import EpochSeedHandler
        >>> GroupHandler([EpochSeedHandler(seed=0), None]).attach(Engine(lambda engine, batch: None))
    """

    def __init__(self, handlers: Sequence[_Attachable | None]) -> None:
        self.handlers = [handler for handler in handlers if handler is not None]
        for handler in self.handlers:
            if not callable(getattr(handler, "attach", None)):
                raise TypeError(
                    f"got a {type(handler).__name__} among the handlers, expected objects with attach(engine)"
                )

    def attach(self, engine: Any) -> None:
        """Attach each handler to an engine."""
        for handler in self.handlers:
            handler.attach(engine)
