"""The 2-D configuration that nnU-Net derives from a data set's median shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from monai_amat.tasks.segmentation.network import nnunet_features, nnunet_poolings

__all__ = ["Plan2D", "plan_2d"]

# nnU-Net (version 1): feature values that fit into memory in one step, counted as in `_feature_values` for a network of
# 30 channels at full resolution, times the 50 patches of the configuration that the figure was measured with.
_BUDGET = 50 * 19_739_648
_BUDGET_FEATURES = 30
_LARGEST_SHARE = 0.05  # a batch holds no more of all voxels than this
_SMALLEST_BATCH = 2
_SMALLEST_SIZE = 16  # two poolings down to 4 pixels, without which there is nothing to supervise deeply


@dataclass(frozen=True)
class Plan2D:
    """A 2-D nnU-Net configuration.

    Attributes:
        patch_size: `(H, W)` in pixels.
        poolings: halvings along H and W.
        features: channels of each resolution.
        batch_size: patches a step.
        spacing: in-plane spacing `(H, W)` in mm that slices are brought to; None leaves them as they are.
    """

    patch_size: tuple[int, int]
    poolings: tuple[int, int]
    features: tuple[int, ...]
    batch_size: int
    spacing: tuple[float, float] | None = None


def plan_2d(
    median_size: Sequence[int],
    *,
    median_slices: int,
    cases: int,
    channels: int = 1,
    num_classes: int = 2,
    spacing: tuple[float, float] | None = None,
) -> Plan2D:
    """Patch, poolings, widths and batch of nnU-Net's 2-D configuration (version 1, which the paper used).

    The patch is the median slice; each axis is halved while it has 8 pixels or more
    (`nnunet_poolings`) and the patch padded to what the halvings divide. Channels double
    from 32 to at most 480. The batch fills a memory budget, estimated from the feature values that one patch keeps, but
    holds no more than 5 % of the data set's voxels. nnU-Net treats axes whose spacings differ by a factor of two or
    more apart; `dataset_properties` has such slices resampled to square pixels instead.

    Args:
        median_size: in-plane median `(H, W)` of the images, without empty margins, after resampling.
        median_slices: median number of slices.
        cases: number of training cases.
        channels: image channels.
        num_classes: classes, background included.
        spacing: what the slices are resampled to; it is handed on.

    Raises:
        ValueError: for sizes that are not positive.

    Example:
        The paper's three, from the median shapes of the Decathlon's tasks:

        >>> heart = plan_2d((320, 232), median_slices=115, cases=20)
        >>> hippocampus = plan_2d((50, 35), median_slices=36, cases=260, num_classes=3)
        >>> prostate = plan_2d((320, 319), median_slices=20, cases=32, channels=2, num_classes=3)
        >>> [(plan.patch_size, plan.poolings, plan.batch_size) for plan in (heart, hippocampus, prostate)]
        [((320, 256), (6, 6), 40), ((56, 40), (3, 3), 366), ((320, 320), (6, 6), 32)]
        >>> heart.features, hippocampus.features
        ((32, 64, 128, 256, 480, 480, 480), (32, 64, 128, 256))
    """
    size = [int(value) for value in median_size]
    if len(size) != 2 or min(*size, median_slices, cases, channels, num_classes - 1) < 1:
        raise ValueError(
            "a plan needs a median size (H, W), slices, cases, channels of at least 1 and two classes, found "
            f"median_size={tuple(median_size)}, median_slices={median_slices}, cases={cases}, channels={channels}, "
            f"num_classes={num_classes}."
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
    """Feature values that one patch keeps: nnU-Net's estimate, of which memory is taken to be a multiple.

    A resolution keeps two convolutions on the way down, two on the way up and the transposed one; the lowest has no way
    up; input and output count once.
    """
    size = np.asarray(patch)
    features = nnunet_features(max(poolings) + 1, _BUDGET_FEATURES, widest)
    total = (5 * features[0] + channels + num_classes) * int(size.prod())
    for level, width in enumerate(features[1:], start=1):
        size = size // np.array([2 if level <= times else 1 for times in poolings])
        total += (2 if level == len(features) - 1 else 5) * width * int(size.prod())
    return total
