"""The convolutional part of VGG19 as an encoder: a map after each max-pool, weights in torchvision's layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from monai_amat.engines.weights import mismatches

__all__ = ["VGG19_CONVOLUTIONS", "VGG19Encoder", "load_vgg19"]

VGG19_CONVOLUTIONS = (2, 2, 4, 4, 4)
"""3x3 convolutions of each stage (Simonyan and Zisserman 2015, configuration E)."""


class VGG19Encoder(nn.Sequential):
    """VGG19 without its classifier and without normalisation, giving the map after each of its five max-pools.

    Its layers are numbered as in torchvision's `vgg19().features` (convolutions 0, 2, 5, 7, 10, …, 34), so that state
    dicts go from one to the other, see `load_vgg19`. Without pretrained weights it starts from He's normal
    initialisation over the outputs: torch's own shrinks the signal at every layer, and after sixteen without
    normalisation nothing of the image would be left.

    Args:
        in_channels: image channels.
        features: channels of the five stages.

    Raises:
        ValueError: for another number of stages.

    Example:
        >>> encoder = VGG19Encoder(features=(2, 4, 8, 8, 8))
        >>> [tuple(level.shape) for level in encoder(torch.zeros(1, 3, 64, 32))]
        [(1, 2, 32, 16), (1, 4, 16, 8), (1, 8, 8, 4), (1, 8, 4, 2), (1, 8, 2, 1)]
    """

    def __init__(self, *, in_channels: int = 3, features: Sequence[int] = (64, 128, 256, 512, 512)) -> None:
        if len(features) != len(VGG19_CONVOLUTIONS):
            raise ValueError(f"VGG19 has {len(VGG19_CONVOLUTIONS)} stages, but features are {tuple(features)}.")
        layers: list[nn.Module] = []
        pools: list[int] = []
        for convolutions, width in zip(VGG19_CONVOLUTIONS, features, strict=True):
            for _ in range(convolutions):
                layers += [nn.Conv2d(in_channels, width, 3, padding=1), nn.ReLU(inplace=True)]
                in_channels = width
            pools.append(len(layers))
            layers.append(nn.MaxPool2d(2))
        super().__init__(*layers)
        self._pools = pools
        for layer in layers:
            if isinstance(layer, nn.Conv2d) and layer.bias is not None:
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(layer.bias)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Five maps `(B, features[i], H // 2^(i+1), W // 2^(i+1))` of an image `(B, in_channels, H, W)`."""
        maps: list[Tensor] = []
        for i, layer in enumerate(self):
            image = layer(image)
            if i in self._pools:
                maps.append(image)
        return maps


def load_vgg19(encoder: VGG19Encoder, path: str | Path) -> VGG19Encoder:
    """Load pretrained weights into an encoder and return it.

    Args:
        encoder: of full width; pretrained weights fit no other.
        path: a state dict in torchvision's layout: of the whole `vgg19`, whose classifier is left aside
            (`features.0.weight`, …), or of its `features` alone (`0.weight`, …).

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is no such state dict, or one of other widths.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no VGG19 weights at {path}; give the path of a state dict in torchvision's layout")
    state = {
        name.removeprefix("features."): value
        for name, value in _read(path).items()
        if not str(name).startswith("classifier.")
    }
    wrong = mismatches(encoder, state, whole="VGG19's features", owner="the encoder")
    if wrong:
        raise ValueError(
            f"{path} does not fit this VGG19 encoder ({len(wrong)} differences; {'; '.join(wrong[:3])}): "
            "expected torchvision's vgg19 (without batch norm), whole or its features alone, and an encoder of full "
            "width for 3 channels"
        )
    encoder.load_state_dict(state)
    return encoder


def _read(path: Path) -> Mapping[str, Tensor]:
    """A file's state dict, read without running code."""
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a damaged file can fail in any way; torch's own text advises against the precaution
        raise ValueError(f"{path} does not load with weights_only=True ({type(error).__name__})") from error
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path} holds a {type(content).__name__}: expected a bare state dict, of tensors by name")
    return content
