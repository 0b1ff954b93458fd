from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.inferers import Inferer, SlidingWindowInferer
from torch import Tensor, nn

from monai_amat.engines import FrozenInferer


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 2, 3, padding=1)
        self.norm = nn.BatchNorm2d(2)
        self.drop = nn.Dropout(0.5)

    def forward(self, image: Tensor, shift: Tensor | None = None, *, scale: float = 1.0) -> Any:
        value = self.drop(self.norm(self.layer(image))) * scale
        value = value if shift is None else value + shift
        return [value, value[..., ::2, ::2]] if self.training else value


def test_it_sees_training_heads_but_nothing_moves() -> None:
    network, image = Normed().train(), torch.randn(2, 1, 8, 8)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    heads = FrozenInferer()(image, network)
    assert isinstance(heads, list)
    network.eval()
    torch.testing.assert_close(heads[0], network(image))
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_flags_are_back_afterwards_and_no_graph_hangs_on_the_output() -> None:
    network = Normed().train()
    heads = FrozenInferer()(torch.randn(2, 1, 8, 8), network)
    assert not heads[0].requires_grad
    assert all(module.training for module in network.modules())
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_arguments_reach_the_network() -> None:
    network, image, shift = Normed().eval(), torch.randn(2, 1, 8, 8), torch.ones(2, 1, 1, 1)
    expected = network(image) * 3.0 + shift
    torch.testing.assert_close(FrozenInferer()(image, network, shift, scale=3.0), expected)


def test_it_wraps_any_inferer() -> None:
    network, image = Normed().eval(), torch.randn(1, 1, 8, 12)
    window: Inferer = SlidingWindowInferer(roi_size=(8, 8), sw_batch_size=2, overlap=0.5)
    torch.testing.assert_close(FrozenInferer(window)(image, network), window(image, network))
    calls: list[nn.Module] = []

    class Spy(Inferer):
        def __call__(self, inputs: Tensor, network: Any, *args: Any, **kwargs: Any) -> Any:
            calls.append(network)
            assert not network.norm.training
            return network(inputs)

    wrapped = nn.DataParallel(network.train())
    FrozenInferer(Spy())(image, wrapped)
    assert calls == [network]


def test_a_plain_function_is_refused() -> None:
    with pytest.raises(TypeError, match=r"needs a torch\.nn\.Module, got function"):
        FrozenInferer()(torch.zeros(1), lambda image: image)
