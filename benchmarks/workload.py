"""What is attacked: the paper's segmentation network on slices drawn for the purpose."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_amat.tasks.segmentation import DiceCELoss, nnunet_2d

__all__ = ["PATCH", "Workload", "fit", "segmentation"]

PATCH = (56, 40)
_CLASSES = 3


@dataclass(frozen=True)
class Workload:
    """A network and a batch for it.

    Args:
        network: 2-D nnU-Net, in training mode: with its deep-supervision heads.
        loss: Dice and cross-entropy, one value per sample.
        images: `(B, 1, 56, 40)`, z-scored.
        labels: `(B, 1, 56, 40)` uint8, three classes.
    """

    network: nn.Module
    loss: DiceCELoss
    images: Tensor
    labels: Tensor


def segmentation(width: int, batch: int, seed: int, device: torch.device | str = "cpu") -> Workload:
    """A fresh network and a batch of smooth fields under noise, labelled by their height.

    Args:
        width: channels at full resolution; the paper has 32.
        batch: number of samples.
        seed: decides weights and images.
        device: where to put them.

    Example:
        >>> workload = segmentation(width=4, batch=2, seed=0)
        >>> workload.images.shape, workload.labels.unique().tolist()
        (torch.Size([2, 1, 56, 40]), [0, 1, 2])
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nnunet_2d(in_channels=1, out_channels=_CLASSES, patch_size=PATCH, base_features=width)
        field = F.interpolate(torch.randn(batch, 1, 7, 5), size=PATCH, mode="bicubic", align_corners=False)
        images = field + 0.5 * torch.randn(batch, 1, *PATCH)
    images = (images - images.mean((1, 2, 3), keepdim=True)) / images.std((1, 2, 3), keepdim=True)
    labels = (field > 0.3).to(torch.uint8) + (field > 0.9).to(torch.uint8)
    return Workload(network.train().to(device), DiceCELoss(), images.to(device), labels.to(device))


def fit(workload: Workload, steps: int) -> None:
    """Train the network on its own batch, so that there is something for an attack to undo."""
    optimizer = torch.optim.AdamW(workload.network.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        workload.loss(workload.network(workload.images), workload.labels).mean().backward()
        optimizer.step()
