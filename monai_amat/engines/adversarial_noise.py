"""Adversarial noise as a dictionary transform, for adversarial data sets and notebooks."""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.inferers import Inferer, SimpleInferer
from monai.transforms.transform import MapTransform
from torch import nn

from monai_amat.attacks import Attack, check_attack
from monai_amat.checks import check_not_negative
from monai_amat.engines.frozen import evaluating, frozen, unwrap
from monai_amat.engines.objective import BatchObjective
from monai_amat.engines.trees import like, plain
from monai_amat.losses.base import PerSampleLoss

__all__ = ["AdversarialNoised"]


class AdversarialNoised(MapTransform):
    """Add to an item's image the noise that most harms a given network.

    Metadata is kept: a noisy volume saves as NIfTI with the affine of the clean one. The network is attacked in eval
    mode and left as it was.

    Args:
        key: the image `(C, *spatial)`.
        label_key: its label, as the loss takes it without the batch dimension.
        network: the network under attack.
        loss: what the attack raises.
        attack: makes the noise.
        epsilon: noise level ε, in the units of the image.
        inferer: how the network is applied; MONAI's `SliceInferer` attacks a volume through a 2-D network.
        noisy_key: where the noisy image goes; by default in the place of the clean one.
        seed_key: where items carry a seed; without it the image's own content is the seed.

    Raises:
        TypeError: for a loss that is not per sample.
        ValueError: for a negative or non-finite `epsilon`, or an attack that needs verdicts.
        KeyError: on items without image or label.

    Example:
        >>> from monai_amat.attacks import ProjectedGradientDescent
        >>> from monai_amat.tasks.segmentation import DiceCELoss
        >>> noise = AdversarialNoised(
        ...     network=nn.Conv2d(1, 2, 1), loss=DiceCELoss(), attack=ProjectedGradientDescent(steps=2), epsilon=3.0
        ... )
        >>> item = {"image": torch.zeros(1, 8, 8), "label": torch.ones(1, 8, 8)}
        >>> round(noise(item)["image"].norm().item(), 3)
        3.0
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        loss: PerSampleLoss,
        attack: Attack,
        epsilon: float,
        key: str = "image",
        label_key: str = "label",
        inferer: Inferer | None = None,
        noisy_key: str | None = None,
        seed_key: str = "sample_seed",
    ) -> None:
        super().__init__(key)
        check_not_negative("epsilon", epsilon)
        if not isinstance(loss, PerSampleLoss):
            raise TypeError(f"{type(loss).__name__} is not a PerSampleLoss; wrap it: monai_amat.losses.PerSample(loss)")
        if check_attack(attack).needs_verdicts:
            raise ValueError(
                f"{type(attack).__name__} stops at an acceptance boundary, which is unknown here; use another attack"
            )
        self.network = network
        self.loss = loss
        self.attack = attack
        self.epsilon = epsilon
        self.label_key = label_key
        self.inferer = SimpleInferer() if inferer is None else inferer
        self.noisy_key = noisy_key
        self.seed_key = seed_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with its noisy image."""
        key = self.keys[0]
        for needed in (key, self.label_key):
            if needed not in data:
                raise KeyError(f"AdversarialNoised needs '{needed}', got an item with {sorted(map(str, data))}")
        image = data[key]
        device = next((parameter.device for parameter in self.network.parameters()), torch.device("cpu"))
        clean = torch.as_tensor(image).as_subclass(torch.Tensor)[None].to(device)
        seed = data.get(self.seed_key, zlib.crc32(clean.cpu().float().contiguous().numpy().tobytes()))
        with torch.inference_mode(False), evaluating(unwrap(self.network)), frozen(self.network) as network:
            label = plain(torch.as_tensor(data[self.label_key]))[None].to(device)
            objective = BatchObjective(network=network, loss=self.loss, target=label, inferer=self.inferer)
            noisy = self.attack(objective, clean, self.epsilon, seeds=[int(seed)]).noisy[0]
        result = like(noisy.to(image.device), image) if isinstance(image, torch.Tensor) else noisy.cpu()
        return {**data, (key if self.noisy_key is None else self.noisy_key): result}
