"""The landmark network of the paper: a U-Net on VGG19 that regresses heat maps and offsets together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from monai_amat.tasks.landmarks.network.vgg19 import VGG19Encoder, load_vgg19

__all__ = ["MultiTaskUNet"]


class MultiTaskUNet(nn.Module):
    """Multi-task U-Net (section 3.2; Yao et al. 2020): a heat map and two offset maps for every landmark.

    The encoder is VGG19 without normalisation, whose five maps are those after its max-pools (strides 2 to 32). The
    decoder goes up by bilinear interpolation to the size of the next map, concatenation, and two times 3x3 convolution,
    BatchNorm and ReLU. There is no map of full size, so that its last step, from stride 2 to the image, is the same
    without concatenation. A 1x1 convolution makes the output. Images need not be divisible by 32: each step goes up to
    the very size of the map (or image) it meets; they must have 32 pixels at least.

    BatchNorm couples the samples of a training batch; see `monai_amat.engines.halves` for what that means for a
    doubled batch, and what can be done about it. The network can be scripted and traced.

    Args:
        landmarks: number of landmarks L; 19 in the cephalograms of ISBI 2015.
        in_channels: image channels; 3, the grey image repeated, for VGG19's own weights.
        encoder_features: channels of the encoder's five stages; the default is VGG19's.
        decoder_features: channels at strides 16, 8, 4, 2 and 1.
        width: factor on all channels; 1/8 makes a network for a CPU.
        encoder_weights: file of pretrained VGG19 weights, see `load_vgg19`; without
            it the weights are drawn from torch's global generator.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it does not fit, or a setting is out of range.

    Example:
        >>> network = MultiTaskUNet(landmarks=4, width=1 / 16)
        >>> network(torch.zeros(2, 3, 100, 80)).shape
        torch.Size([2, 12, 100, 80])
    """

    def __init__(
        self,
        *,
        landmarks: int = 19,
        in_channels: int = 3,
        encoder_features: Sequence[int] = (64, 128, 256, 512, 512),
        decoder_features: Sequence[int] = (512, 256, 128, 64, 64),
        width: float = 1.0,
        encoder_weights: str | Path | None = None,
    ) -> None:
        super().__init__()
        if landmarks < 1:
            raise ValueError(f"landmarks must be at least 1, but is {landmarks}.")
        if len(decoder_features) != len(encoder_features):
            raise ValueError(
                f"decoder_features must have one entry for each of the {len(encoder_features)} stages of the encoder, "
                f"but are {tuple(decoder_features)}."
            )
        down, up = _scaled(encoder_features, width), _scaled(decoder_features, width)
        self.encoder = VGG19Encoder(in_channels=in_channels, features=down)
        if encoder_weights is not None:
            load_vgg19(self.encoder, encoder_weights)
        deeper, skips = [down[-1], *up[:-2]], down[-2::-1]
        self.steps = nn.ModuleList(
            _convolutions(below + skip, out) for below, skip, out in zip(deeper, skips, up[:-1], strict=True)
        )
        self.last_step = _convolutions(up[-2], up[-1])
        self.head = nn.Conv2d(up[-1], 3 * landmarks, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Heat maps and offsets.

        Args:
            image: `(B, in_channels, H, W)`, at least 32 pixels along each axis; -1 to 1 for cephalograms.

        Returns:
            `(B, 3·L, H, W)`: channels 0 to L-1 heat (logits), L to 2·L-1 offsets along y, 2·L to 3·L-1 along x, the
            order of `landmark_maps`.

        Raises:
            ValueError: for a smaller image.
        """
        # A trace would freeze the answer, and warn of it.
        if not torch.jit.is_tracing() and min(image.shape[-2], image.shape[-1]) < 32:
            raise ValueError(
                f"images need 32 pixels along each axis for five poolings, got {image.shape[-2]}x{image.shape[-1]}: "
                "use larger images"
            )
        maps = self.encoder(image)
        deep = maps[-1]
        for i, step in enumerate(self.steps):
            skip = maps[len(maps) - 2 - i]
            deep = step(torch.cat([skip, _enlarged(deep, skip)], dim=1))
        return self.head(self.last_step(_enlarged(deep, image)))


def _scaled(features: Sequence[int], width: float) -> list[int]:
    if not 0 < width < float("inf"):
        raise ValueError(f"width must be finite and greater than 0, but is {width}.")
    return [max(1, round(channels * width)) for channels in features]


def _convolutions(inputs: int, outputs: int) -> nn.Sequential:
    """Twice 3x3 convolution, BatchNorm and ReLU; BatchNorm's shift makes a bias of the convolution useless."""
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [
            nn.Conv2d(channels, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


def _enlarged(deep: Tensor, like: Tensor) -> Tensor:
    """Interpolated to the height and width of another map, edges of pixels (not their centres) on one another."""
    return functional.interpolate(deep, size=like.shape[-2:], mode="bilinear", align_corners=False)
