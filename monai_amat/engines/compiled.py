"""Whether a compiled network has the gradient of the network itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from monai_amat.engines.frozen import draws_randomly

__all__ = ["check_compiled_gradient", "is_compiled"]

_LEAST_COSINE = 0.99
"""Half precision and another order of sums stay far above it; wrong kernels were seen to give 0.67 to 0.81."""


def is_compiled(network: nn.Module) -> bool:
    """Whether a network or a part of it runs through `torch.compile`.

    Example:
        >>> is_compiled(nn.Linear(1, 1)), is_compiled(torch.compile(nn.Linear(1, 1), backend="eager"))
        (False, True)
    """
    return any(
        hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
        for module in network.modules()
    )


def check_compiled_gradient(network: nn.Module, loss: Callable[[], Tensor]) -> None:
    """Refuse a compiled network whose gradient is not that of the plain network.

    A compiler may give the right loss and a wrong gradient: with torch 2.13, inductor on the CPU does so for `DynUNet`
    with its deep-supervision heads. Both gradients are taken with respect to the parameters, without dropout; the
    network's buffers and the global random generators are as before afterwards.

    Args:
        network: the compiled network.
        loss: runs the network and returns a scalar.

    Raises:
        RuntimeError: when the gradients differ.
    """
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    with torch.random.fork_rng(), _undisturbed(network):
        compiled = _gradient(loss, parameters)
        with torch.compiler.set_stance("force_eager"):
            plain = _gradient(loss, parameters)
    cosine = float(nn.functional.cosine_similarity(compiled, plain, dim=0))
    if bool(plain.any()) and not cosine >= _LEAST_COSINE and bool(plain.isfinite().all()):
        raise RuntimeError(
            f"the compiled network has another gradient than the network itself (cosine {cosine:.2f}, torch "
            f"{torch.__version__}): the compiler is in error; train without compile, or with "
            "compile_kwargs={'backend': 'aot_eager'}"
        )


def _gradient(loss: Callable[[], Tensor], parameters: list[nn.Parameter]) -> Tensor:
    gradients: tuple[Tensor | None, ...] = torch.autograd.grad(loss(), parameters, allow_unused=True)
    return torch.cat(
        [
            (torch.zeros_like(parameter) if gradient is None else gradient).flatten().double()
            for parameter, gradient in zip(parameters, gradients, strict=True)
        ]
    )


@contextmanager
def _undisturbed(network: nn.Module) -> Iterator[None]:
    """Random layers at rest; buffers and flags are restored."""
    buffers: list[tuple[Any, Tensor]] = [(buffer, buffer.clone()) for buffer in network.buffers()]
    layers = [module for module in network.modules() if module.training and draws_randomly(module)]
    try:
        for layer in layers:
            layer.training = False
        yield
    finally:
        for layer in layers:
            layer.training = True
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
