"""One folder per task: data, transforms, network, loss, metric, pictures and writers of each.

A task is imported when it is first used, so that the optional packages of one task are not needed by another.
"""

from __future__ import annotations

import importlib
from types import ModuleType

__all__ = ["detection", "landmarks", "segmentation"]


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
