"""One batch under attack by each of several networks, for the pictures of all tasks."""

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
        epsilon: noise level.
        images: clean and noisy, `(B, C, H, W)` each.
        preds: the loss's `prediction` for either.
        target: the truth of the images.
    """

    arm: str
    epsilon: float
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
    prepare_batch: PrepareBatch | None = None,
    inferer: Inferer | None = None,
    device: str | torch.device | None = None,
) -> Iterator[Attacked]:
    """Attack a batch under each network in turn.

    Args:
        networks: networks by arm.
        batch: a collated batch as the evaluator gets it; pictures show its first sample.
        loss: what the attack raises; its `prediction` makes the predictions.
        attack: the attack, as in the curve.
        epsilon: noise level, in the units of the network's input.
        prepare_batch: the workflow's own; MONAI's default takes `image` and `label`.
        inferer: how the network is applied; a plain forward by default.
        device: where; the network's own device by default.

    Yields:
        the attacked batch, one per arm.

    Raises:
        ValueError: for images that are not two-dimensional.

    Example:
        >>> from monai_amat.attacks import ProjectedGradientDescent
        >>> from monai_amat.tasks.segmentation import DiceCELoss
        >>> batch = {"image": torch.rand(1, 1, 8, 8), "label": torch.zeros(1, 1, 8, 8, dtype=torch.int64)}
        >>> attack = ProjectedGradientDescent(steps=2)
        >>> for found in attack_each({"STD": nn.Conv2d(1, 2, 1)}, batch, loss=DiceCELoss(), attack=attack, epsilon=2.0):
        ...     clean, noisy = found.images
        ...     print(found.arm, round((noisy - clean).norm().item(), 3), tuple(found.preds[0].shape))
        STD 2.0 (1, 2, 8, 8)
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
        yield Attacked(arm, float(epsilon), (clean, noisy), (on_clean, on_noisy), target)
