"""One batch under attack by each of several networks: what the pictures of every task begin with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from monai.engines.utils import PrepareBatch
from monai.inferers import Inferer, SimpleInferer
from monai.networks.utils import eval_mode
from monai.utils import convert_to_tensor
from torch import Tensor, nn

from monai_amat.attacks import Attack
from monai_amat.engines import PrepareBatchNoisy
from monai_amat.losses.base import PerSampleLoss

__all__ = ["Attacked", "attack_each"]


@dataclass(frozen=True)
class Attacked:
    """A batch under one network's attack.

    Args:
        arm: the network's name.
        images: clean and noisy, ``(B, C, H, W)`` each.
        preds: the loss's ``prediction`` for either.
        target: what the images were to give.
    """

    arm: str
    images: tuple[Tensor, Tensor]
    preds: tuple[Any, Any]
    target: Any


def attack_each(
    networks: Mapping[str, nn.Module],
    batch: Mapping[str, Any],
    *,
    loss: PerSampleLoss,
    attack: Attack,
    epsilon: float,
    prepare_batch: PrepareBatch | None,
    inferer: Inferer | None,
    device: str | torch.device | None,
) -> Iterator[Attacked]:
    """Attack a batch under each network in turn; ``device`` None is the network's own.

    Raises:
        ValueError: for images that are not two-dimensional.
    """
    apply = SimpleInferer() if inferer is None else inferer
    for arm, network in networks.items():
        where = next(network.parameters()).device if device is None else torch.device(device)
        prepare = PrepareBatchNoisy(
            network=network, loss=loss, attack=attack, epsilon=epsilon, prepare_batch=prepare_batch, inferer=inferer
        )
        noisy, target, args, kwargs = (*prepare(batch, where), (), {})[:4]
        if prepare.last is None or noisy.ndim != 4:
            raise ValueError(f"pictures are made of images (B, channels, H, W), got shape {tuple(noisy.shape)}")
        clean, noisy = (convert_to_tensor(image, track_meta=False) for image in (prepare.last.clean, noisy))
        with eval_mode(network):
            on_clean, on_noisy = (
                loss.prediction(apply(image, network, *args, **kwargs), target) for image in (clean, noisy)
            )
        yield Attacked(arm, (clean, noisy), (on_clean, on_noisy), target)
