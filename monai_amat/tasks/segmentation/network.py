"""The 2-D network of nnU-Net, built on `DynUNet` of MONAI: poolings and widths from the patch size."""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks.nets import DynUNet

__all__ = ["nnunet_2d", "nnunet_features", "nnunet_poolings"]

_SMALLEST = 4  # nnU-Net does not pool an axis to fewer pixels


def nnunet_poolings(patch_size: Sequence[int]) -> tuple[int, int]:
    """Compute how often nnU-Net halves each axis of a 2-D patch of square pixels.

    Both axes are halved together while each has at least 8 pixels; the longer axis alone while it has at least 12.

    Args:
        patch_size: `(H, W)` in pixels.

    Returns:
        Number of poolings along H and along W.

    Example:
        >>> nnunet_poolings((56, 40)), nnunet_poolings((320, 256)), nnunet_poolings((320, 320))
        ((3, 3), (6, 6), (6, 6))
    """
    size = _pair(patch_size, "patch_size", 1)
    poolings = [0, 0]
    while True:
        halved = [axis for axis in (0, 1) if size[axis] >= 2 * _SMALLEST]
        if not halved or (len(halved) == 1 and size[halved[0]] < 3 * _SMALLEST):
            return poolings[0], poolings[1]
        for axis in halved:
            poolings[axis] += 1
            size[axis] = -(-size[axis] // 2)


def nnunet_features(stages: int, base: int = 32, maximum: int = 480) -> list[int]:
    """Compute the channels of each resolution: doubled at every pooling, up to a maximum.

    Args:
        stages: number of resolutions, one more than the number of poolings.
        base: channels at full resolution.
        maximum: largest number of channels; 480 in the 2-D networks of nnU-Net (version 1).

    Returns:
        Channels from full resolution to the bottleneck.

    Example:
        >>> nnunet_features(7)
        [32, 64, 128, 256, 480, 480, 480]
    """
    return [min(base * 2**i, maximum) for i in range(stages)]


def nnunet_2d(
    *,
    in_channels: int,
    out_channels: int,
    patch_size: Sequence[int],
    features: Sequence[int] | None = None,
    base_features: int = 32,
    max_features: int = 480,
    poolings: Sequence[int] | None = None,
    deep_supervision: bool = True,
) -> DynUNet:
    """Build the segmentation network of the paper (2-D nnU-Net).

    It has two 3x3 convolutions per resolution, strides of 2, affine instance norm, LeakyReLU 0.01, and transposed
    convolutions without bias. nnU-Net supervises every resolution of the decoder, the lowest with weight 0, so with `p`
    poolings there are `p - 2` additional heads. The network returns them only in training mode, as
    `(B, 1 + heads, C, H, W)`; with two poolings there are none. Export it by tracing in evaluation mode, not by
    scripting.

    Args:
        in_channels: image channels.
        out_channels: classes, background included.
        patch_size: `(H, W)` of the patches; each divisible by 2 to the power of its number of poolings.
        features: channels of each resolution; if None, computed from `base_features` and `max_features`.
        base_features: channels at full resolution; 8 gives a network for a CPU.
        max_features: largest number of channels.
        poolings: number of poolings along H and W; if None, computed from the patch size.
        deep_supervision: add heads for the lower resolutions.

    Returns:
        The network; its weights are drawn from torch's global generator.

    Raises:
        ValueError: if patch size and poolings do not fit, or `features` does not have one entry per resolution.

    Example:
        >>> import torch
        >>> network = nnunet_2d(in_channels=1, out_channels=3, patch_size=(56, 40), base_features=4)
        >>> network.train()(torch.zeros(2, 1, 56, 40)).shape, network.eval()(torch.zeros(2, 1, 56, 40)).shape
        (torch.Size([2, 2, 3, 56, 40]), torch.Size([2, 3, 56, 40]))
    """
    size = _pair(patch_size, "patch_size", 1)
    halvings = list(nnunet_poolings(size)) if poolings is None else _pair(poolings, "poolings", 0)
    if max(halvings) < 2:
        raise ValueError(
            f"patch_size must allow at least two poolings along one axis, so at least 16 pixels, got {tuple(size)} "
            f"with {tuple(halvings)} poolings"
        )
    for pixels, times in zip(size, halvings, strict=True):
        if pixels % 2**times:
            raise ValueError(
                f"patch_size must be divisible by {2**times} for {times} poolings, got {pixels} in {tuple(size)}; "
                f"use {-(-pixels // 2**times) * 2**times}"
            )
    # An axis with fewer poolings has them first and keeps its size at lower resolutions.
    strides = [[2 if i < times else 1 for times in halvings] for i in range(max(halvings))]
    widths = nnunet_features(len(strides) + 1, base_features, max_features) if features is None else list(features)
    if len(widths) != len(strides) + 1:
        raise ValueError(
            f"features must have one entry per resolution, {len(strides) + 1} for {tuple(halvings)} poolings, "
            f"got {len(widths)}: {widths}"
        )
    heads = len(strides) - 2
    return DynUNet(
        spatial_dims=2,
        in_channels=in_channels,
        out_channels=out_channels,
        kernel_size=[[3, 3]] * len(widths),
        strides=[[1, 1], *strides],
        upsample_kernel_size=strides,
        filters=widths,
        norm_name=("INSTANCE", {"affine": True}),
        act_name=("leakyrelu", {"inplace": True, "negative_slope": 0.01}),
        deep_supervision=deep_supervision and heads > 0,
        deep_supr_num=max(heads, 1),
        trans_bias=False,
    )


def _pair(values: Sequence[int], name: str, least: int) -> list[int]:
    pair = [int(value) for value in values]
    if len(pair) != 2 or min(pair) < least or pair != list(values):
        raise ValueError(f"{name} must be two whole numbers (H, W) of at least {least}, got {values!r}")
    return pair
