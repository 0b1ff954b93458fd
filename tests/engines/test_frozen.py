from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from monai.networks.layers import DropPath
from torch import Tensor, nn

from monai_amat.engines import couples_samples, evaluating, frozen, unwrap

COUPLED: list[Callable[[], nn.Module]] = [
    lambda: nn.BatchNorm1d(4),
    lambda: nn.BatchNorm2d(4),
    lambda: nn.BatchNorm3d(4),
    lambda: nn.SyncBatchNorm(4),
    lambda: nn.BatchNorm1d(4, track_running_stats=False),
    lambda: nn.BatchNorm2d(4, track_running_stats=False),
    lambda: nn.BatchNorm3d(4, track_running_stats=False),
    lambda: nn.InstanceNorm2d(4, track_running_stats=True),
    lambda: nn.Dropout(0.5),
    lambda: nn.Dropout3d(0.5),
    lambda: nn.AlphaDropout(0.5),
    lambda: nn.RReLU(),
    lambda: DropPath(0.5),
    lambda: nn.LSTM(4, 4, num_layers=2, dropout=0.5),
    lambda: nn.MultiheadAttention(4, 1, dropout=0.5),
]
UNCOUPLED: list[Callable[[], nn.Module]] = [
    lambda: nn.Conv2d(1, 1, 1),
    lambda: nn.InstanceNorm2d(4, affine=True),
    lambda: nn.GroupNorm(2, 4),
    lambda: nn.LayerNorm(4),
    lambda: nn.LSTM(4, 4),
    lambda: nn.MultiheadAttention(4, 1),
]


class Headed(nn.Module):
    """Two heads in training mode, one in evaluation, as deep supervision has it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Conv2d(4, 2, 1))

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        full = self.body(image)
        return [full, full[..., ::2, ::2]] if self.training else full


def flags(network: nn.Module) -> list[bool]:
    return [module.training for module in network.modules()]


def wanted(network: nn.Module) -> list[bool]:
    return [parameter.requires_grad for parameter in network.parameters()]


@pytest.mark.parametrize("make", COUPLED)
def test_layers_that_couple_samples_or_draw_are_found_and_rest(make: Callable[[], nn.Module]) -> None:
    layer = make()
    network = nn.Sequential(nn.Identity(), nn.Sequential(layer)).train()
    assert couples_samples(network)
    with frozen(network) as still:
        assert still is network
        assert not layer.training
        assert network.training
        assert network[0].training
        assert network[1].training
    assert all(flags(network))


@pytest.mark.parametrize("make", UNCOUPLED)
def test_other_layers_are_left_alone(make: Callable[[], nn.Module]) -> None:
    network = nn.Sequential(make()).train()
    assert not couples_samples(network)
    with frozen(network):
        assert all(flags(network))


def test_children_of_a_resting_layer_keep_their_own_mode() -> None:
    attention = nn.MultiheadAttention(4, 1, dropout=0.5).train()
    with frozen(attention):
        assert not attention.training
        assert attention.out_proj.training


def test_training_heads_stay_while_statistics_and_dropout_rest() -> None:
    network = Headed().train()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    image = torch.randn(3, 1, 8, 8)
    with frozen(network):
        first, second = network(image), network(image)
        alone = network(image[:1])
    assert isinstance(first, list)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.testing.assert_close(first[0][:1], alone[0])
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    # The same network outside of it does all that frozen prevents: the test could fail.
    assert not torch.equal(network(image)[0], network(image)[0])
    assert not torch.equal(network.state_dict()["body.1.running_mean"], state["body.1.running_mean"])


def test_parameters_get_no_gradient_but_the_input_does() -> None:
    network, image = Headed().train(), torch.randn(2, 1, 8, 8, requires_grad=True)
    with frozen(network):
        assert not any(wanted(network))
        network(image)[0].sum().backward()
    assert image.grad is not None
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(wanted(network))


def test_partly_frozen_networks_stay_partly_frozen() -> None:
    network = Headed().train()
    network.body[0].requires_grad_(False)
    network.body[1].eval()
    modes, asked = flags(network), wanted(network)
    with frozen(network):
        assert not any(wanted(network))
    assert (flags(network), wanted(network)) == (modes, asked)
    assert not all(modes)
    assert not all(asked)


def test_all_is_restored_after_an_exception() -> None:
    network = Headed().train()
    with pytest.raises(ZeroDivisionError), frozen(network):
        _ = 1 / 0
    assert all(flags(network))
    assert all(wanted(network))
    with pytest.raises(ZeroDivisionError), evaluating(network):
        _ = 1 / 0
    assert all(flags(network))


def test_nested_the_inner_exit_thaws_nothing() -> None:
    network = Headed().train()
    with frozen(network):
        with frozen(network):
            pass
        assert not network.body[1].training
        assert not any(wanted(network))
    assert all(flags(network))
    assert all(wanted(network))


def test_wrappers_are_looked_through() -> None:
    inner = Headed().train()
    wrapped: Any = torch.compile(nn.DataParallel(inner), backend="eager")
    assert unwrap(wrapped) is inner
    with frozen(wrapped) as still:
        assert still is inner
        assert not inner.body[1].training
    assert inner.body[1].training


def test_evaluating_restores_each_module_apart() -> None:
    network = Headed().train()
    network.body[1].eval()
    before = flags(network)
    with evaluating(network) as quiet:
        assert quiet is network
        assert not any(flags(network))
    assert flags(network) == before
    assert len(set(before)) == 2
