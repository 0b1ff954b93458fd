"""Short names for tensors and weights, which identify the data and network of results and thresholds."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from monai_amat.engines.frozen import unwrap

__all__ = ["network_fingerprint", "state_fingerprint"]


def state_fingerprint(state: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits of the SHA-256 of names, types, shapes and values, in the order of the names.

    Example:
        >>> state_fingerprint({"a": torch.zeros(2)}) == state_fingerprint({"a": torch.zeros(1, 2)})
        False
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name]
        if isinstance(value, torch.Tensor):
            plain = value.detach().cpu().contiguous()
            digest.update(f"{name}|{plain.dtype}|{tuple(plain.shape)}|".encode())
            digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
        else:  # what a module's get_extra_state gives
            digest.update(f"{name}|{value!r}|".encode())
    return digest.hexdigest()[:16]


def network_fingerprint(network: nn.Module) -> str:
    """The fingerprint of a network's weights and buffers; wrappers (DDP, compile) are looked through.

    Example:
        >>> network = nn.Linear(1, 1)
        >>> before = network_fingerprint(network)
        >>> _ = nn.init.constant_(network.weight, 5.0)
        >>> before == network_fingerprint(network), len(before)
        (False, 16)
    """
    return state_fingerprint(unwrap(network).state_dict())
