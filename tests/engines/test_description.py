"""What objects say of themselves in settings files."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.inferers import SlidingWindowInferer
from monai.utils import InterpolateMode
from torch import nn

from monai_amat.attacks import ProjectedGradientDescent
from monai_amat.engines import describe, state_fingerprint
from monai_amat.tasks.segmentation import DiceCELoss


class Loop:
    def __init__(self) -> None:
        self.again = self
        self._state = 5


def test_an_enumeration_is_its_value() -> None:
    """Of a plain type: a checkpoint holds no other."""
    for told in (describe(InterpolateMode.AREA), describe({"mode": (InterpolateMode.AREA,)})["mode"][0]):
        assert (type(told), told) == (str, "area")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (float("inf"), "inf"),
        (np.float64(0.5), 0.5),
        (torch.float16, "torch.float16"),
        (Path("a/b"), "a/b"),
        ({1: (2, 3)}, {"1": [2, 3]}),
        ({"b", "a"}, ["a", "b"]),
        (len, "builtins.len"),
        (nn.Linear, "torch.nn.modules.linear.Linear"),
        (functools.partial(divmod, 3), {"partial": "builtins.divmod", "args": [3], "keywords": {}}),
    ],
)
def test_plain_values(value: Any, expected: Any) -> None:
    assert describe(value) == expected


def test_attacks_losses_and_inferers_show_their_settings() -> None:
    attack = describe(ProjectedGradientDescent(steps=100, rel_step=0.05, norm="inf"))
    assert (attack["steps"], attack["norm"]["class"], attack["random_start"]["class"]) == (100, "Linf", "FullStart")
    assert describe(DiceCELoss(smooth=1.0))["smooth"] == 1.0
    assert describe(SlidingWindowInferer((8, 8)))["roi_size"] == [8, 8]
    for value in (attack, describe(DiceCELoss()), describe(Loop())):
        assert json.loads(json.dumps(value)) == value


def test_state_and_mode_are_no_settings_but_weights_are() -> None:
    assert "_state" not in json.dumps(describe(Loop()))
    layer = nn.Linear(2, 2)
    before = describe(layer)
    assert describe(layer.eval()) == before
    with torch.no_grad():
        layer.bias.add_(1)
    assert describe(layer) != before


def test_weights_differ_by_name_type_shape_and_value() -> None:
    states: list[dict[str, Any]] = [
        {"a": torch.zeros(2)},
        {"b": torch.zeros(2)},
        {"a": torch.zeros(2, dtype=torch.int32)},
        {"a": torch.zeros(2, 1)},
        {"a": torch.tensor([0.0, 1e-30])},
        {"a": torch.zeros(2, dtype=torch.bfloat16)},
        {"a": torch.zeros(())},
        {"a": "text"},
        {},
    ]
    assert len({state_fingerprint(state) for state in states}) == len(states)
    assert state_fingerprint({"a": torch.zeros(2), "b": torch.ones(1)}) == state_fingerprint(
        {"b": torch.ones(1), "a": torch.zeros(2).clone()}
    )


def test_an_optimizer_shows_its_settings_and_not_the_weights_it_moves() -> None:
    def told(value: float, rate: float) -> Any:
        weight = nn.Parameter(torch.full((2,), value))
        optimizer = torch.optim.SGD([weight], lr=rate)
        return describe({"optimizer": optimizer, "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 3)})

    assert told(1.0, 0.1) == told(2.0, 0.1) != told(1.0, 0.2)
    assert told(1.0, 0.1)["scheduler"]["step_size"] == 3


def test_the_network_that_an_object_uses_is_no_setting_of_it() -> None:
    class User:
        def __init__(self, network: Any) -> None:
            self.network = network

    assert describe(User(nn.Linear(2, 1))) == {"class": User.__qualname__}
    assert describe(User("unet")) == {"class": User.__qualname__, "network": "unet"}
