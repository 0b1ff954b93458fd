"""The landmark network of the paper: a U-Net on VGG19 that regresses heat maps and offsets together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from monai_amat.checks import check_positive, check_within
from monai_amat.tasks.landmarks.network.vgg19 import VGG19Encoder, load_vgg19

__all__ = ["MultiTaskUNet"]


class MultiTaskUNet(nn.Module):
    """Multi-task U-Net (section 3.2; Yao et al. 2020): a heat map and two offset maps for every landmark.

    The encoder is VGG19 without normalisation; its five maps follow its max-pools (strides 2 to 32). Each step of the
    decoder interpolates to the size of the next map (bilinear), concatenates, and applies 3x3 convolution, BatchNorm
    and ReLU twice. The last step, from stride 2 to the image, has no map to concatenate. A 1x1 convolution gives the
    output. Image sizes need not be divisible by 32, because each step interpolates to the exact size of the next map or
    image; they must be at least 32 pixels.

    BatchNorm couples the samples of a training batch; `monai_amat.engines.halves` describes the effect on a doubled
    batch, and the remedies. The network can be scripted and traced.

    Args:
        landmarks: number of landmarks L; 19 in the cephalograms of ISBI 2015.
        in_channels: image channels; 3 (the grey image repeated) for the weights of VGG19.
        encoder_features: channels of the five stages of the encoder; by default those of VGG19.
        decoder_features: channels at strides 16, 8, 4, 2 and 1.
        width: factor on all channels; 1/8 gives a network for a CPU.
        encoder_weights: file of pretrained VGG19 weights, see `load_vgg19`; if None, weights are drawn from torch's
            global generator.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file does not fit, or a setting is out of range.

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
        check_within("landmarks", landmarks, 1)
        if len(decoder_features) != len(encoder_features):
            raise ValueError(
                f"decoder_features must have one entry for each of the {len(encoder_features)} stages of the encoder, "
                f"got {tuple(decoder_features)}"
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
        """Predict heat maps and offsets.

        Args:
            image: `(B, in_channels, H, W)`, at least 32 pixels along each axis; -1 to 1 for cephalograms.

        Returns:
            `(B, 3·L, H, W)`: channels 0 to L-1 heat (logits), L to 2·L-1 offsets along y, 2·L to 3·L-1 along x, the
            order of `landmark_maps`.

        Raises:
            ValueError: if the image is smaller.
        """
        # A trace would fix the result of the comparison, with a warning.
        if not torch.jit.is_tracing() and min(image.shape[-2], image.shape[-1]) < 32:
            raise ValueError(
                f"image must have at least 32 pixels along each axis for five poolings, got {image.shape[-2]}x"
                f"{image.shape[-1]}; use larger images"
            )
        maps = self.encoder(image)
        deep = maps[-1]
        for i, step in enumerate(self.steps):
            skip = maps[len(maps) - 2 - i]
            deep = step(torch.cat([skip, _enlarged(deep, skip)], dim=1))
        return self.head(self.last_step(_enlarged(deep, image)))


def _scaled(features: Sequence[int], width: float) -> list[int]:
    check_positive("width", width)
    return [max(1, round(channels * width)) for channels in features]


def _convolutions(inputs: int, outputs: int) -> nn.Sequential:
    """3x3 convolution, BatchNorm and ReLU, twice; the shift of BatchNorm replaces the bias of the convolution."""
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [
            nn.Conv2d(channels, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


def _enlarged(deep: Tensor, like: Tensor) -> Tensor:
    """Interpolate to the height and width of another map, with the outer edges aligned."""
    return functional.interpolate(deep, size=like.shape[-2:], mode="bilinear", align_corners=False)
