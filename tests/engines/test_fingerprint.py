from __future__ import annotations

import copy
import re
from typing import Any

import torch
from torch import nn

from monai_amat.engines import network_fingerprint, state_fingerprint


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))


def test_the_same_weights_have_the_same_name() -> None:
    name = network_fingerprint(network())
    assert re.fullmatch("[0-9a-f]{16}", name)
    assert network_fingerprint(network()) == name
    assert network_fingerprint(copy.deepcopy(network())) == name
    assert network_fingerprint(network().eval().requires_grad_(False)) == name


def test_neither_wrappers_nor_memory_layout_matter() -> None:
    assert network_fingerprint(nn.DataParallel(network())) == network_fingerprint(network())
    compiled: Any = torch.compile(network(), backend="eager")
    assert network_fingerprint(compiled) == network_fingerprint(network())
    wide = nn.Conv2d(3, 4, 3)
    before = network_fingerprint(wide)
    assert network_fingerprint(wide.to(memory_format=torch.channels_last)) == before  # type: ignore[call-overload]


def test_every_weight_and_buffer_matters() -> None:
    names = {network_fingerprint(network())}
    entries = list(network().state_dict())
    for entry in entries:
        changed = network()
        value = changed.state_dict()[entry]
        value.view(-1)[-1] += 1
        names.add(network_fingerprint(changed))
    assert len(names) == len(entries) + 1


def test_names_shapes_and_types_matter() -> None:
    class Named(nn.Module):
        def __init__(self, name: str, value: torch.Tensor) -> None:
            super().__init__()
            self.register_buffer(name, value)

    zeros = torch.zeros(2, 3)
    given = [("a", zeros), ("b", zeros), ("a", zeros.T), ("a", zeros.half()), ("a", zeros.bool()), ("a", zeros[:0])]
    assert len({network_fingerprint(Named(name, value)) for name, value in given}) == len(given)


def test_half_precision_and_extra_state() -> None:
    class Extra(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"version": version}

    assert network_fingerprint(network().bfloat16()) != network_fingerprint(network())
    extra, version = Extra(1, 1), 3
    first = network_fingerprint(extra)
    assert network_fingerprint(extra) == first
    version = 4
    assert network_fingerprint(extra) != first


def test_a_saved_state_has_the_name_of_its_network() -> None:
    state = network().state_dict()
    assert state_fingerprint(state) == network_fingerprint(network())
    assert state_fingerprint(dict(reversed(state.items()))) == network_fingerprint(network())
