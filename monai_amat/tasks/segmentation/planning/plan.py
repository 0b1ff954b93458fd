"""The 2-D configuration that nnU-Net derives from the median shape of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from monai_amat.tasks.segmentation.network import nnunet_features, nnunet_poolings

__all__ = ["Plan2D", "make_plan"]

# nnU-Net (version 1): number of feature values that fit into memory in one step, counted as in `_feature_values` for a
# network of 30 channels at full resolution, times the 50 patches of the configuration in which it was measured.
_BUDGET = 50 * 19_739_648
_BUDGET_FEATURES = 30
_LARGEST_SHARE = 0.05  # largest share of all voxels in one batch
_SMALLEST_BATCH = 2
_SMALLEST_SIZE = 16  # two poolings to 4 pixels, the least for deep supervision


@dataclass(frozen=True)
class Plan2D:
    """A 2-D nnU-Net configuration.

    Attributes:
        patch_size: `(H, W)` in pixels.
        poolings: halvings along H and W.
        features: channels of each resolution.
        batch_size: patches per step.
        spacing: in-plane spacing `(H, W)` in mm that slices are resampled to; None does not resample.
    """

    patch_size: tuple[int, int]
    poolings: tuple[int, int]
    features: tuple[int, ...]
    batch_size: int
    spacing: tuple[float, float] | None = None


def make_plan(
    median_size: Sequence[int],
    *,
    median_slices: int,
    cases: int,
    channels: int = 1,
    num_classes: int = 2,
    spacing: tuple[float, float] | None = None,
) -> Plan2D:
    """Plan patch, poolings, widths and batch as nnU-Net does in 2-D (version 1, which the paper used).

    The patch is the median slice; each axis is halved while it has 8 pixels or more (`nnunet_poolings`), and the patch
    is padded to a size that the halvings divide. Channels double from 32 to at most 480. The batch fills a memory
    budget, estimated from the feature values of one patch, but holds at most 5 % of the voxels of the data set. nnU-Net
    treats axes whose spacings differ by a factor of two or more separately; `read_dataset_properties` resamples such
    slices to square pixels instead.

    Args:
        median_size: in-plane median `(H, W)` of the images, without empty margins, after resampling.
        median_slices: median number of slices.
        cases: number of training cases.
        channels: image channels.
        num_classes: classes, background included.
        spacing: spacing that slices are resampled to; copied to the plan.

    Raises:
        ValueError: if a size is not positive.

    Example:
        The three plans of the paper, from the median shapes of the tasks of the Decathlon:

        >>> heart = make_plan((320, 232), median_slices=115, cases=20)
        >>> hippocampus = make_plan((50, 35), median_slices=36, cases=260, num_classes=3)
        >>> prostate = make_plan((320, 319), median_slices=20, cases=32, channels=2, num_classes=3)
        >>> [(plan.patch_size, plan.poolings, plan.batch_size) for plan in (heart, hippocampus, prostate)]
        [((320, 256), (6, 6), 40), ((56, 40), (3, 3), 366), ((320, 320), (6, 6), 32)]
        >>> heart.features, hippocampus.features
        ((32, 64, 128, 256, 480, 480, 480), (32, 64, 128, 256))
    """
    size = [int(value) for value in median_size]
    if len(size) != 2 or min(*size, median_slices, cases, channels, num_classes - 1) < 1:
        raise ValueError(
            "a plan needs a median size (H, W), slices, cases and channels of at least 1, and two classes, got "
            f"median_size={tuple(median_size)}, median_slices={median_slices}, cases={cases}, channels={channels}, "
            f"num_classes={num_classes}"
        )
    padded = [max(value, _SMALLEST_SIZE) for value in size]
    poolings = nnunet_poolings(padded)
    height, width = (-(-value // 2**times) * 2**times for value, times in zip(padded, poolings, strict=True))
    features = nnunet_features(max(poolings) + 1)
    patch = (height, width)
    fits = _BUDGET // _feature_values(patch, poolings, max(features), channels, num_classes)
    share = round(_LARGEST_SHARE * median_slices * size[0] * size[1] * cases / (height * width))
    batch = max(_SMALLEST_BATCH, min(fits, share))
    return Plan2D(patch, poolings, tuple(features), int(batch), spacing)


def _feature_values(patch: Sequence[int], poolings: Sequence[int], widest: int, channels: int, num_classes: int) -> int:
    """Number of feature values of one patch, the estimate of nnU-Net, proportional to memory.

    A resolution has two convolutions in the encoder, two in the decoder and a transposed one; the lowest has none in
    the decoder; input and output count once.
    """
    size = np.asarray(patch)
    features = nnunet_features(max(poolings) + 1, _BUDGET_FEATURES, widest)
    total = (5 * features[0] + channels + num_classes) * int(size.prod())
    for level, width in enumerate(features[1:], start=1):
        size = size // np.array([2 if level <= times else 1 for times in poolings])
        total += (2 if level == len(features) - 1 else 5) * width * int(size.prod())
    return total
