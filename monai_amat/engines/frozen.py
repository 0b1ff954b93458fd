"""The network as the attack, the verdict and the fitting of ξ all see it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from monai.networks.layers import DropPath
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.dropout import _DropoutNd

__all__ = ["couples_samples", "draws_randomly", "evaluating", "frozen", "unwrap"]


def unwrap(network: nn.Module) -> nn.Module:
    """The module inside DistributedDataParallel, DataParallel and `torch.compile` wrappers.

    An attack must not go through a wrapper: DDP would broadcast buffers at every forward, and ranks whose attacks take
    different numbers of forwards would wait for each other for ever.

    Example:
        >>> inner = nn.Linear(1, 1)
        >>> unwrap(nn.DataParallel(inner)) is inner
        True
    """
    inner: Any = network
    while True:
        if isinstance(inner, nn.parallel.DistributedDataParallel | nn.DataParallel):
            inner = inner.module
        elif hasattr(inner, "_orig_mod"):
            inner = inner._orig_mod
        else:
            return inner


def _normalises_otherwise_in_training(module: nn.Module) -> bool:
    """BatchNorm, and kin that keep running statistics.

    BatchNorm without running statistics takes the batch's in eval mode as well, so that nothing makes it look at
    samples one by one; but its batch is another one under attack than in the doubled training forward.
    """
    return isinstance(module, _BatchNorm) or (isinstance(module, _NormBase) and bool(module.track_running_stats))


def draws_randomly(module: nn.Module) -> bool:
    """Whether a layer draws random numbers in training mode."""
    if isinstance(module, nn.RNNBase | nn.MultiheadAttention):
        return float(module.dropout) > 0
    return isinstance(module, _DropoutNd | nn.RReLU | DropPath)


def couples_samples(network: nn.Module) -> bool:
    """Whether the training forward differs from the frozen one: BatchNorm and kin, or dropout, anywhere inside.

    Example:
        >>> couples_samples(nn.InstanceNorm2d(3)), couples_samples(nn.BatchNorm2d(3))
        (False, True)
    """
    return any(_normalises_otherwise_in_training(module) or draws_randomly(module) for module in network.modules())


@contextmanager
def frozen(network: nn.Module) -> Iterator[nn.Module]:
    """Look at a network without touching it.

    Inside, layers that couple samples or draw random numbers (BatchNorm and kin, dropout) are in eval mode and no
    parameter requires a gradient; every other `training` flag stays as it is, so that deep-supervision heads and
    detectors' training outputs keep their form. On exit, exceptions included, all is as it was. It may be nested.

    Dropout that a module calls as a function in its own forward (MONAI's `AHNet`) cannot be seen from here.

    Args:
        network: any module; wrappers are looked through (`unwrap`).

    Yields:
        the module to call.

    Example:
        >>> network = nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.5)).train()
        >>> with frozen(network) as still:
        ...     still.training, still[1].training, still[0].weight.requires_grad
        (True, False, False)
        >>> network[1].training, network[0].weight.requires_grad
        (True, True)
    """
    inner = unwrap(network)
    layers = [m for m in inner.modules() if m.training and (_normalises_otherwise_in_training(m) or draws_randomly(m))]
    parameters = [parameter for parameter in inner.parameters() if parameter.requires_grad]
    try:
        for layer in layers:
            layer.training = False  # not eval(): that would reach into children, which keep their own flags
        for parameter in parameters:
            parameter.requires_grad_(False)
        yield inner
    finally:
        for layer in layers:
            layer.training = True
        for parameter in parameters:
            parameter.requires_grad_(True)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[nn.Module]:
    """The network in eval mode; on exit every module has its own flag back, also those that stood apart from the rest.

    Example:
        >>> network = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1).eval())
        >>> with evaluating(network):
        ...     network[0].training
        False
        >>> network[0].training, network[1].training
        (True, False)
    """
    flags = [(module, module.training) for module in network.modules()]
    try:
        yield network.eval()
    finally:
        for module, training in flags:
            module.training = training
