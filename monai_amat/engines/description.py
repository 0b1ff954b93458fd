"""What a run is made with, as plain JSON: classes and settings of objects, fingerprints of weights."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from monai_amat.engines.fingerprint import network_fingerprint, state_fingerprint

__all__ = ["describe"]

_DEPTH = 6


def describe(value: Any, depth: int = _DEPTH) -> Any:
    """An object's class and public settings, as JSON can hold them.

    Modules give their settings, their children and a fingerprint of their weights; functions their name; optimizers
    their default settings. Private attributes are left out, because they are state, and so is a module under the name
    `network`. MONAI's random transforms keep what they drew beside their settings, so describe them
    before they make an item.

    Args:
        value: anything.
        depth: how far to follow attributes.

    Example:
        >>> from monai_amat.attacks import ProjectedGradientDescent
        >>> described = describe(ProjectedGradientDescent(steps=100, rel_step=0.05))
        >>> described["class"], described["steps"], described["rel_step"]
        ('ProjectedGradientDescent', 100, 0.05)
    """
    if isinstance(value, Enum):  # some of MONAI's are strings too
        return describe(value.value, depth)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Tensor | np.ndarray):
        return {"tensor": state_fingerprint({"": torch.as_tensor(value)})}
    if isinstance(value, torch.dtype | torch.device | Path):
        return str(value)
    if isinstance(value, np.generic):
        return describe(value.item(), depth)
    if isinstance(value, functools.partial):
        return {"partial": describe(value.func), "args": describe(value.args), "keywords": describe(value.keywords)}
    if depth == 0:
        return type(value).__qualname__
    if isinstance(value, Mapping):
        return {str(key): describe(item, depth - 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [describe(item, depth - 1) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((describe(item, depth - 1) for item in value), key=str)
    if isinstance(value, torch.optim.Optimizer):
        return {"class": type(value).__qualname__, **describe(value.defaults, depth - 1)}
    if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        return f"{value.__module__}.{value.__qualname__}"
    return _describe_object(value, depth)


def _describe_object(value: Any, depth: int) -> dict[str, Any]:
    settings = {name: item for name, item in getattr(value, "__dict__", {}).items() if not name.startswith("_")}
    if isinstance(settings.get("network"), nn.Module):
        del settings["network"]
    described: dict[str, Any] = {"class": type(value).__qualname__}
    if isinstance(value, nn.Module):
        settings.pop("training", None)
        settings |= dict(value.named_children())
        if depth == _DEPTH and value.state_dict():
            described["weights"] = network_fingerprint(value)
    return described | {name: describe(item, depth - 1) for name, item in sorted(settings.items())}
