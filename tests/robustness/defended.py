"""A small segmentation network, sound or adversarially trained, and defences that hide its gradients."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_amat.attacks import ProjectedGradientDescent
from monai_amat.data import IndexedDataset
from monai_amat.engines import BatchObjective
from monai_amat.tasks.segmentation import DiceCELoss

SIZE = 16
CLASSES = 3


def blobs(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images with a bright and a dark square in noise, and their labels; every third image has the bright one alone."""
    draw = torch.Generator().manual_seed(seed)
    images = 0.3 * torch.randn(count, 1, SIZE, SIZE, generator=draw)
    labels = torch.zeros(count, 1, SIZE, SIZE, dtype=torch.int64)
    for i in range(count):
        for label, value in ((1, 1.0), (2, -1.0)):
            top, left = torch.randint(0, SIZE - 6, (2,), generator=draw).tolist()
            if label == 1 or i % 3:
                labels[i, 0, top : top + 6, left : left + 6] = label
                images[i, 0, top : top + 6, left : left + 6] += value
    return images, labels


def dataset(count: int = 12) -> IndexedDataset:
    images, labels = blobs(count, seed=1)
    return IndexedDataset(
        [{"image": images[i], "label": labels[i], "case": f"{i // 2}", "slice": i % 2} for i in range(count)], seed=0
    )


def fresh(norm: bool = False) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(1, 12, 3, padding=1), nn.LeakyReLU(), nn.Conv2d(12, 12, 3, padding=1)]
    if norm:
        layers.append(nn.BatchNorm2d(12))
    return nn.Sequential(*layers, nn.LeakyReLU(), nn.Conv2d(12, CLASSES, 3, padding=1))


@functools.lru_cache(maxsize=8)
def trained(radius: float = 0.0, norm: bool = False) -> nn.Module:
    """The network, trained for some seconds: on clean images, or on noise of `radius`."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = fresh(norm)
        images, labels = blobs(48, seed=0)
        loss, optimiser = DiceCELoss(), torch.optim.Adam(network.parameters(), 0.01)
        attack = ProjectedGradientDescent(steps=4, rel_step=0.5)
        for step in range(45):
            part = slice(16 * (step % 3), 16 * (step % 3) + 16)
            seen = images[part]
            if radius:
                objective = BatchObjective(network=network, loss=loss, target=labels[part])
                seen = torch.cat([seen, attack(objective, seen, radius, seeds=range(step, step + 16)).noisy])
            optimiser.zero_grad()
            loss(network(seen), torch.cat([labels[part]] * (len(seen) // 16))).mean().backward()
            optimiser.step()
    return network.eval()


class Behind(nn.Module):
    """A network behind something that is done to its input or output."""

    def __init__(self, network: nn.Module, kind: str) -> None:
        super().__init__()
        self.network = network
        self.kind = kind

    def forward(self, x: Tensor) -> Any:
        return getattr(self, self.kind)(x)

    def rounded(self, x: Tensor) -> Tensor:
        return self.network((x * 4).round() / 4)

    def quantised(self, x: Tensor) -> Tensor:
        levels = torch.linspace(-2, 2, 12, device=x.device)
        nearest = (x.unsqueeze(-1) - levels).abs().argmin(-1)
        return self.network(levels[nearest] + 0 * x)

    def scaled(self, x: Tensor) -> Tensor:
        return 1e4 * self.network(x)

    def one_hot(self, x: Tensor) -> Tensor:
        z = self.network(x)
        return F.one_hot(z.argmax(1), CLASSES).movedim(-1, 1).to(z.dtype) + 0 * z

    def jpeg(self, x: Tensor) -> Tensor:
        """Cosine transform of blocks, rounded coefficients, and back, as image compression does."""
        side = 8
        k = torch.arange(side, dtype=x.dtype, device=x.device)
        basis = torch.cos(math.pi * (2 * k[None] + 1) * k[:, None] / (2 * side)) * math.sqrt(2 / side)
        basis[0] = math.sqrt(1 / side)
        blocks = x.unfold(2, side, side).unfold(3, side, side)
        coefficients = ((basis @ blocks @ basis.T) / 0.5).round() * 0.5
        back = basis.T @ coefficients @ basis
        return self.network(back.permute(0, 1, 2, 4, 3, 5).reshape(x.shape))

    def noisy(self, x: Tensor) -> Tensor:
        return self.network(x + 0.2 * torch.randn_like(x))

    def dropping(self, x: Tensor) -> Tensor:
        """Dropout that no switch turns off."""
        assert isinstance(self.network, nn.Sequential)
        return self.network[4](F.dropout(self.network[:4](x), 0.3, training=True))

    def detached(self, x: Tensor) -> Tensor:
        """The logits come from a branch without a gradient; the branch that has one adds next to nothing."""
        return self.network(x.detach()) + 1e-3 * F.avg_pool2d(x, 3, 1, 1)

    def in_bf16(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            return self.network(x)
