from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from monai_amat.engines import FrozenInferer, RawOutputsInferer


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, image: Tensor, *, shift: float = 0.0) -> Any:
        raw = self.raw(image, shift=shift)
        return raw if self.training else raw["value"].sum((1, 2, 3))

    def raw(self, image: Tensor, *, shift: float = 0.0) -> dict[str, Tensor]:
        return {"value": self.norm(image) + shift}


def test_evaluation_mode_gives_the_raw_tree_and_stays() -> None:
    network, image = Detector().eval(), torch.rand(2, 3, 4, 4)
    raw = RawOutputsInferer()(image, network, shift=1.0)
    torch.testing.assert_close(raw["value"].sum((1, 2, 3)), network(image, shift=1.0))
    assert not network.training
    assert network.norm.num_batches_tracked == 0


def test_wrappers_are_looked_through() -> None:
    network, image = Detector().eval(), torch.rand(2, 3, 4, 4)
    assert torch.equal(RawOutputsInferer()(image, nn.DataParallel(network))["value"], network.raw(image)["value"])
    assert torch.equal(FrozenInferer(RawOutputsInferer())(image, network)["value"], network.raw(image)["value"])


@pytest.mark.parametrize("network", [nn.Linear(1, 1), lambda image: image])
def test_a_network_without_raw_says_what_is_needed(network: Any) -> None:
    with pytest.raises(TypeError, match=r"a method raw\(image\).*got (Linear|function)"):
        RawOutputsInferer()(torch.zeros(1), network)
