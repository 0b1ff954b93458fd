"""A compiled network is held to the gradient of the network itself before it is trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from monai_amat.engines.compiled import check_compiled_gradient, is_compiled
from tests.engines.stock import Net, Training, batches, same_weights


def wrong(graph: torch.fx.GraphModule, inputs: Any) -> Any:
    """A compiler whose networks have the right values and a wrong gradient."""

    def turned(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return value
        signs = torch.sin(3.0 * torch.arange(value.numel())).sign().reshape(value.shape).to(value.dtype)
        return value.detach() + value * signs - (value * signs).detach()

    return lambda *arguments: tuple(turned(value) for value in graph(*arguments))


def compiled_training(network: nn.Module, backend: Any) -> Training:
    loader = batches(4, 4)
    return Training(network, loader, compile=True, compile_kwargs={"backend": backend})


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_a_wrong_gradient_is_refused_before_the_first_step(norm: str) -> None:
    network = Net(norm)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(RuntimeError, match=r"has another gradient .*cosine -?0\..*train without compile"):
        compiled_training(network, wrong).run()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_right_one_trains_as_if_nothing_had_been_checked(norm: str, backend: str) -> None:
    network, plain = Net(norm), Net(norm)
    compiled_training(network, backend).run()
    Training(plain, batches(4, 4)).run()
    same_weights(network, plain, 1e-5)


def test_dropout_and_random_numbers_do_not_disturb() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Dropout(0.5))
    compiled: Any = torch.compile(network, backend="aot_eager")
    image, state = torch.randn(3, 1, 4, 4), torch.get_rng_state()
    check_compiled_gradient(compiled, lambda: compiled(image).square().mean())
    assert torch.equal(torch.get_rng_state(), state)
    assert network[2].training
    assert network[1].num_batches_tracked == 0
    assert all(parameter.grad is None for parameter in network.parameters())


def test_what_is_compiled_is_seen_in_every_form() -> None:
    network = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    assert not is_compiled(network)
    compiled: Any = torch.compile(network, backend="eager")
    assert is_compiled(nn.DataParallel(compiled))
    network[0].compile(backend="eager")
    assert is_compiled(network)
