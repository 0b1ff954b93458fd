"""What BatchNorm makes of a doubled batch `[x ; x̃]`: statistics of both halves together, or of each alone."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from monai.inferers import Inferer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from monai_amat.engines.frozen import unwrap

__all__ = ["OwnStatisticsInferer", "SeparateForwardsInferer"]

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_PREFIX = "noisy_"


class _ByHalves(Inferer):
    """One forward of the doubled batch in which every BatchNorm sees the clean and the noisy half apart.

    Nothing but BatchNorm couples samples, so that this is what two forwards are, one behind the other, while DDP and
    `torch.compile` see a single one. Where no BatchNorm is in training mode (evaluation, the attack's frozen network,
    a network without any) the batch goes through whole.
    """

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The network's output for the doubled batch.

        Raises:
            TypeError: when `network` is not a module.
            ValueError: when the batch is not doubled.
        """
        if not isinstance(network, nn.Module):
            raise TypeError(f"{type(self).__name__} needs a torch.nn.Module, got {type(network).__name__}")
        layers = {name: layer for name, layer in _normalising(network) if layer.training}
        if not layers:
            return network(inputs, *args, **kwargs)
        with self._apart(layers):
            return network(inputs, *args, **kwargs)

    @abstractmethod
    def noisy_forward(self, layer: nn.Module, forward: Callable[[Tensor], Tensor], noisy: Tensor) -> Tensor:
        """What a layer makes of the noisy half; `forward` is the layer's own."""

    @contextmanager
    def _apart(self, layers: Mapping[str, nn.Module]) -> Iterator[None]:
        # Most layers have only their class's forward; one of their own comes back as it was.
        own = {name: {k: v for k, v in vars(layer).items() if k == "forward"} for name, layer in layers.items()}
        try:
            for name, layer in layers.items():
                layer.forward = partial(self._forward, name, layer, layer.forward)
            yield
        finally:
            for name, layer in layers.items():
                del layer.forward
                vars(layer).update(own[name])

    def _forward(self, name: str, layer: nn.Module, forward: Callable[[Tensor], Tensor], both: Tensor) -> Tensor:
        if len(both) % 2:
            raise ValueError(
                f"{type(self).__name__} is for the doubled batch of PrepareBatchAdversarial, clean half first, but "
                f"'{name}' got {len(both)} samples"
            )
        clean, noisy = both.chunk(2)
        return torch.cat([forward(clean), self.noisy_forward(layer, forward, noisy)])


class SeparateForwardsInferer(_ByHalves):
    """The trainer's `inferer` that normalises both halves apart, as the authors' two forwards do.

    Each half is normalised with its own mean and variance, and both move the same running statistics, the clean half
    first: evaluation normalises with a mixture of both. With MONAI's `SimpleInferer`, the default of a trainer, the
    halves are normalised together instead, so that every clean sample is seen among noisy ones.

    In evaluation, and for networks without BatchNorm, it is `SimpleInferer`. The attack needs no such thing: it sees
    the network `frozen`, normalising by the running statistics.

    Example:
        >>> network = nn.BatchNorm1d(1, momentum=1.0, affine=False)
        >>> doubled = torch.tensor([[0.0], [2.0], [10.0], [30.0]])  # [x ; x̃]
        >>> SeparateForwardsInferer()(doubled, network).flatten().round(decimals=2)
        tensor([-1.,  1., -1.,  1.])
        >>> network.running_mean  # of the half that came last
        tensor([20.])
    """

    def noisy_forward(self, layer: nn.Module, forward: Callable[[Tensor], Tensor], noisy: Tensor) -> Tensor:
        """As the clean half."""
        return forward(noisy)


class OwnStatisticsInferer(_ByHalves):
    """The trainer's `inferer` that keeps running statistics of the noisy half apart from those of the clean half.

    Each half is normalised with its own mean and variance, and evaluation normalises with what the clean half left: the
    auxiliary BatchNorm of AdvProp (Xie et al. 2020), but for the scale and shift, which both halves share here. So the
    network has the weights that it always has, trained on both halves; an auxiliary scale and shift would be weights
    that evaluation never uses. The attack and the verdict on it see the network
    `frozen`, and so the clean half's statistics, as evaluation does.

    The noisy half's running statistics are buffers of the network's BatchNorm layers, `noisy_running_mean` and so on:
    they move with it to its device, and a step that is skipped leaves them as they were. They are not in the network's
    `state_dict`, so that its files fit a network without them; for resuming, give this object to
    `ResumeHandler` among its `objects`.

    Args:
        network: the network that is trained, its weights loaded: both statistics start from where its own are; DDP and
            compile wrappers are looked through. Under DDP, make this object before wrapping the network, so that the
            ranks share these buffers too.

    Raises:
        TypeError: when a BatchNorm layer has become another one since.

    Example:
        >>> network = nn.BatchNorm1d(1, momentum=1.0, affine=False)
        >>> inferer = OwnStatisticsInferer(network)
        >>> _ = inferer(torch.tensor([[0.0], [2.0], [10.0], [30.0]]), network)
        >>> network.running_mean, inferer.state_dict()["running_mean"]
        (tensor([1.]), tensor([20.]))
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._network = unwrap(network)
        for _, layer in _normalising(self._network):
            for name in _STATISTICS:
                value = getattr(layer, name, None)
                if value is not None and not hasattr(layer, _PREFIX + name):
                    layer.register_buffer(_PREFIX + name, value.detach().clone(), persistent=False)

    def noisy_forward(self, layer: nn.Module, forward: Callable[[Tensor], Tensor], noisy: Tensor) -> Tensor:
        """The layer's own forward, with the noisy half's running statistics in the place of its own."""
        tracked = [name for name in _STATISTICS if getattr(layer, name, None) is not None]
        if not all(hasattr(layer, _PREFIX + name) for name in tracked):
            raise TypeError("OwnStatisticsInferer was made for another network; give it the one that is trained")
        _swap(layer, tracked)
        try:
            return forward(noisy)
        finally:
            _swap(layer, tracked)

    def state_dict(self) -> dict[str, Tensor]:
        """The noisy half's running statistics, by the names that the clean half's have in the network."""
        return {name: buffer.detach().clone() for name, buffer in self._noisy().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over the noisy half's running statistics.

        Raises:
            ValueError: when they are those of another network.
        """
        own = self._noisy()
        wrong = sorted(own.keys() ^ state.keys()) or [
            name for name, buffer in own.items() if buffer.shape != state[name].shape
        ]
        if wrong:
            raise ValueError(
                f"these running statistics are of another network: {len(wrong)} names or shapes differ, such as "
                f"'{wrong[0]}'"
            )
        for name, buffer in own.items():
            buffer.copy_(state[name])

    def _noisy(self) -> dict[str, Tensor]:
        return {
            f"{where}.{name}" if where else name: getattr(layer, _PREFIX + name)
            for where, layer in _normalising(self._network)
            for name in _STATISTICS
            if getattr(layer, _PREFIX + name, None) is not None
        }


def _normalising(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """BatchNorm layers, and kin that keep running statistics, by name; wrappers are looked through."""
    for name, module in unwrap(network).named_modules():
        if isinstance(module, _BatchNorm) or (isinstance(module, _NormBase) and bool(module.track_running_stats)):
            yield name, module


def _swap(layer: nn.Module, names: list[str]) -> None:
    """Exchange the clean and the noisy half's running statistics."""
    for name in names:
        clean, noisy = getattr(layer, name), getattr(layer, _PREFIX + name)
        setattr(layer, name, noisy)
        setattr(layer, _PREFIX + name, clean)
