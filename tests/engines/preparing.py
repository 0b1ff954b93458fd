"""A small network and its batches, for the tests of the two ways of preparing one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from monai_amat.attacks import ProjectedGradientDescent
from monai_amat.engines import PrepareBatchAdversarial, PrepareBatchNoisy
from monai_amat.tasks.segmentation import DiceCELoss

LOSS = DiceCELoss(smooth=1.0)
PGD = ProjectedGradientDescent(steps=3, rel_step=0.5)


class Net(nn.Module):
    """A small segmentation network that counts its forwards."""

    def __init__(self, *layers: nn.Module, channels: int = 1, spatial: int = 2) -> None:
        super().__init__()
        torch.manual_seed(1)
        conv: Any = nn.Conv2d if spatial == 2 else nn.Conv3d
        self.body = nn.Sequential(conv(channels, 4, 3, padding=1), *layers, nn.LeakyReLU(), conv(4, 2, 1))
        self.forwards: list[tuple[bool, int]] = []

    def forward(self, image: Tensor) -> Tensor:
        self.forwards.append((self.training, len(image)))
        return self.body(image)


def instance_net() -> Net:
    return Net(nn.InstanceNorm2d(4, affine=True))


def batch_net() -> Net:
    """Its running statistics are far from any batch's, so that the two modes differ."""
    network = Net(nn.BatchNorm2d(4))
    norm = network.body[1]
    assert isinstance(norm, nn.BatchNorm2d)
    norm.running_mean = torch.tensor([0.3, -0.2, 0.1, 0.5])
    norm.running_var = torch.tensor([0.5, 2.0, 1.5, 0.7])
    return network


def batch(count: int = 4, shape: tuple[int, ...] = (8, 8), **extra: Any) -> dict[str, Any]:
    source = torch.Generator().manual_seed(3)
    return {
        "image": torch.randn(count, 1, *shape, generator=source),
        "label": torch.randint(0, 2, (count, 1, *shape), generator=source).float(),
        "sample_id": torch.arange(count),
        "sample_seed": 1000 + torch.arange(count),
        **extra,
    }


def rows(of: dict[str, Any], chosen: list[int]) -> dict[str, Any]:
    return {key: value[chosen] for key, value in of.items()}


def adversarial(network: nn.Module | None = None, **settings: Any) -> PrepareBatchAdversarial:
    given: dict[str, Any] = {"loss": LOSS, "attack": PGD, "radius": 1.5, **settings}
    return PrepareBatchAdversarial(network=instance_net() if network is None else network, **given)


def noisy_half(prepare: PrepareBatchAdversarial, of: dict[str, Any]) -> Tensor:
    inputs = prepare(of)[0]
    return inputs[len(inputs) // 2 :]


def last_of(prepare: Any) -> Any:
    assert prepare.last is not None
    return prepare.last


def noisy(network: nn.Module, epsilon: float = 1.5, **settings: Any) -> PrepareBatchNoisy:
    return PrepareBatchNoisy(**{"network": network, "loss": LOSS, "attack": PGD, "epsilon": epsilon, **settings})


class Gained(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer = nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, image: Tensor, gain: Tensor, shift: Tensor | None = None) -> Tensor:
        value = self.layer(image) * gain[:, None, None, None]
        return value if shift is None else value + shift[:, None, None, None]
