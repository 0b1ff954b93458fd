"""Landmarks from heat maps and offset maps, by a vote of the hottest pixels."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

__all__ = ["decode_landmarks"]


def decode_landmarks(pred: Tensor, radius: float) -> Tensor:
    r"""Decode landmarks by the offset vote of the multi-task U-Net (Yao et al. 2020), with sub-pixel precision.

    For each landmark the `int(π·R²)` hottest pixels, as many as the disc has, vote for pixel + offset·R. The landmark
    lies in the pixel with the most votes; pixel i reaches from i - 0.5 to i + 0.5, and votes that are not finite or
    fall outside of the image do not count. The authors return that pixel; this function returns the mean of the votes
    in it, so that the maps of a landmark decode to the landmark itself.

    Every tie is broken: among equally hot pixels the first vote (row by row); among pixels with equally many votes the
    hottest wins, then the first. The same maps give the same landmarks in every run, alone or in any batch.

    A heat map without a peak gives NaN, with a warning: if all its values are equal, one is not finite, or no vote is
    valid.

    Args:
        pred: `(B, 3·L, H, W)`: L heat maps (logits; any increasing function of them gives the same), L offset
            maps along y, L along x, as `MultiTaskUNet` returns them.
        radius: R in pixels, at least 1: the radius of the maps in training.

    Returns:
        `(B, L, 2)` in pixels, (y, x), pixel centres at integers, float32 (float64 if `pred` is), without gradient.

    Raises:
        ValueError: if the maps have another shape, or the radius is below 1.

    Example:
        >>> pred = torch.zeros(1, 3, 8, 8)
        >>> pred[0, 0, 3, 4] = 5.0  # the hottest pixel …
        >>> pred[0, 1:, 3, 4] = torch.tensor([0.125, -0.25])  # … votes for a point a little below and to the left
        >>> decode_landmarks(pred, radius=1.0)
        tensor([[[3.1250, 3.7500]]])
    """
    if pred.ndim != 4 or pred.shape[1] % 3 or not pred.shape[1]:
        raise ValueError(f"pred must be maps (B, 3·L, H, W), got shape {tuple(pred.shape)}")
    if not (math.isfinite(radius) and radius >= 1):
        raise ValueError(f"radius must be at least 1 pixel, got {radius:g}")
    maps = pred.detach().as_subclass(Tensor)
    maps = maps if maps.dtype == torch.float64 else maps.float()
    heat, offset_y, offset_x = (part.flatten(2) for part in maps.chunk(3, dim=1))
    height, width = maps.shape[2:]
    peaked = heat.isfinite().all(-1) & (heat.amax(-1) > heat.amin(-1))
    heat = torch.where(peaked[..., None], heat, 0.0)

    voters = _hottest(heat, min(int(math.pi * radius**2), height * width))  # (B, L, k)
    y = voters // width + radius * offset_y.gather(-1, voters)
    x = voters % width + radius * offset_x.gather(-1, voters)
    valid = (y >= -0.5) & (y <= height - 0.5) & (x >= -0.5) & (x <= width - 0.5)  # NaN is not
    pixel = torch.where(valid, _cell(y, valid, height) * width + _cell(x, valid, width), -1)

    ballots = pixel.sort(-1).values
    votes = torch.searchsorted(ballots, pixel, right=True) - torch.searchsorted(ballots, pixel)
    leading = valid & (votes == torch.where(valid, votes, 0).amax(-1, keepdim=True))
    warmth = torch.where(leading, heat.gather(-1, pixel.clamp(min=0)), -torch.inf)
    leading &= warmth == warmth.amax(-1, keepdim=True)
    winner = torch.where(leading, pixel, height * width).amin(-1, keepdim=True)

    for_winner = pixel == winner
    count = for_winner.sum(-1)
    points = torch.stack([torch.where(for_winner, axis, 0.0).sum(-1) / count for axis in (y, x)], dim=-1)
    found = peaked & (count > 0)
    if not bool(found.all()):
        warnings.warn(
            f"{int((~found).sum())} of {found.numel()} heat maps have no peak (flat, not finite, or without a valid "
            "vote): their landmarks are NaN",
            stacklevel=2,
        )
    return torch.where(found[..., None], points, torch.nan)


def _hottest(heat: Tensor, count: int) -> Tensor:
    """Indices `(B, L, count)` of the largest of `(B, L, pixels)`, ascending; of equal ones the first."""
    # topk does not define which of several equal values it returns.
    least = heat.topk(count, dim=-1).values[..., -1:]
    above, level = heat > least, heat == least
    room = count - above.sum(-1, keepdim=True)
    chosen = above | (level & (level.cumsum(-1) <= room))
    return chosen.nonzero()[:, -1].view(*heat.shape[:2], count)


def _cell(position: Tensor, valid: Tensor, size: int) -> Tensor:
    """Pixel of a valid position along one axis; the far edge of the image belongs to the last pixel."""
    return torch.floor(torch.where(valid, position, 0.0) + 0.5).long().clamp(max=size - 1)
