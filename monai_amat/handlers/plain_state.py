"""States made of nothing that `torch.load(weights_only=True)` would refuse."""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["plain_state"]

_PLAIN = (
    *(type(None), bool, int, float, complex, str, bytes),
    *(Tensor, nn.Parameter, torch.dtype, torch.device, torch.Size),
)


def plain_state(value: Any, where: str) -> Any:
    """The value with numpy numbers made Python's, refused where `torch.load(weights_only=True)` would refuse it.

    Args:
        value: a `state_dict`, or part of one.
        where: what to call it in an error.

    Raises:
        TypeError: naming the place of the first entry that is neither tensor, number, string nor a container of these.

    Example:
        >>> plain_state({"epoch": np.int64(3), "rates": [0.1]}, "scheduler")
        {'epoch': 3, 'rates': [0.1]}
    """
    kind = type(value)
    if kind in _PLAIN:
        return value
    if isinstance(value, np.generic):
        return value.item()
    if kind in (list, tuple):
        return kind(plain_state(entry, f"{where}[{number}]") for number, entry in enumerate(value))
    if kind in (dict, OrderedDict, Counter):
        copy = kind({plain_state(key, where): plain_state(entry, f"{where}[{key!r}]") for key, entry in value.items()})
        if kind is OrderedDict:
            copy.__dict__.update(value.__dict__)  # a module's version numbers
        return copy
    raise TypeError(
        f"the state to save holds a {kind.__module__}.{kind.__qualname__} at {where}; checkpoints hold only tensors, "
        "numbers, strings and plain containers of them, so that they load without running code; let the object's "
        "state_dict return these"
    )
