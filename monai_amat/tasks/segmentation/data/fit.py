"""Check that slices fit the evaluation size of a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["check_fit"]


def check_fit(slices: list[dict[str, Any]], size: Sequence[int]) -> list[dict[str, Any]]:
    """Check that a centre crop to `size` removes no foreground, and return the slices unchanged.

    Evaluation pads and crops every slice to one size, so that the noise of a sample does not depend on the other
    samples of its batch. A crop that removes a part of the label would make the scores too good.

    Args:
        slices: items of `load_slices`.
        size: `(H, W)`.

    Raises:
        ValueError: naming the first slice that does not fit, and a sufficient size.

    Example:
        >>> import torch
        >>> label = torch.zeros(1, 10, 8)
        >>> label[:, 0, 4] = 1
        >>> check_fit([{"label": label, "case": "a", "slice": 3}], (8, 8))
        Traceback (most recent call last):
            ...
        ValueError: slice 3 of a: expected foreground only in the central 8x8 pixels; evaluate at 10x8 or more ...
    """
    for item in slices:
        label = item["label"][0]
        starts = [
            max(0, have // 2 - want // 2) for have, want in zip(label.shape, size, strict=True)
        ]  # the centre of MONAI's crop
        centre = label[tuple(slice(start, start + want) for start, want in zip(starts, size, strict=True))]
        if int((centre > 0).sum()) != int((label > 0).sum()):
            largest = [max(other["label"].shape[axis] for other in slices) for axis in (1, 2)]
            raise ValueError(
                f"slice {item['slice']} of {item['case']}: expected foreground only in the central {size[0]}x{size[1]} "
                f"pixels; evaluate at {largest[0]}x{largest[1]} or more (eval_size in the bundle), rounded up to a "
                "size that the poolings of the network divide"
            )
    return slices
