"""The convolutional part of VGG19 as an encoder: a map after each max-pool, weights as in torchvision."""

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
    """VGG19 without classifier and normalisation; it returns the map after each of its five max-pools.

    Its layers are numbered as in torchvision's `vgg19().features` (convolutions 0, 2, 5, 7, 10, …, 34), so that state
    dicts are interchangeable, see `load_vgg19`. Without pretrained weights it starts from He's normal initialisation
    with
    `fan_out`: the default of torch shrinks the signal in every layer, and after sixteen layers without normalisation
    almost none of it would remain.

    Args:
        in_channels: image channels.
        features: channels of the five stages.

    Raises:
        ValueError: if the number of stages is another.

    Example:
        >>> encoder = VGG19Encoder(features=(2, 4, 8, 8, 8))
        >>> [tuple(level.shape) for level in encoder(torch.zeros(1, 3, 64, 32))]
        [(1, 2, 32, 16), (1, 4, 16, 8), (1, 8, 8, 4), (1, 8, 4, 2), (1, 8, 2, 1)]
    """

    def __init__(self, *, in_channels: int = 3, features: Sequence[int] = (64, 128, 256, 512, 512)) -> None:
        if len(features) != len(VGG19_CONVOLUTIONS):
            raise ValueError(
                f"features must have {len(VGG19_CONVOLUTIONS)} entries, one per stage, got {tuple(features)}"
            )
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
        """Return five maps `(B, features[i], H // 2^(i+1), W // 2^(i+1))` of an image `(B, in_channels, H, W)`."""
        maps: list[Tensor] = []
        for i, layer in enumerate(self):
            image = layer(image)
            if i in self._pools:
                maps.append(image)
        return maps


def load_vgg19(encoder: VGG19Encoder, path: str | Path) -> VGG19Encoder:
    """Load pretrained weights into an encoder and return it.

    Args:
        encoder: an encoder of full width, because pretrained weights fit no other.
        path: a state dict as torchvision has it: of the whole `vgg19` (`features.0.weight`, …; the classifier is
            ignored), or of its `features` (`0.weight`, …).

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file is not such a state dict, or has other widths.
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
            f"{path}: expected torchvision's vgg19 (without batch norm), or its features, and an encoder of full "
            f"width for 3 channels, got {len(wrong)} differences ({'; '.join(wrong[:3])})"
        )
    encoder.load_state_dict(state)
    return encoder


def _read(path: Path) -> Mapping[str, Tensor]:
    """Read the state dict of a file without running code."""
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a damaged file can fail in many ways; the text of torch advises to turn the check off
        raise ValueError(
            f"{path}: cannot be loaded with weights_only=True ({type(error).__name__}); fetch the file again"
        ) from error
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path}: expected a state dict (tensors by name), got {type(content).__name__}")
    return content
