"""Landmarks from heat maps and offset maps, by a vote of the hottest pixels."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

__all__ = ["decode_landmarks", "landmark_confidence"]


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
    points, found, _ = _elected(pred, radius)
    if not bool(found.all()):
        warnings.warn(
            f"{int((~found).sum())} of {found.numel()} heat maps have no peak (flat, not finite, or without a valid "
            "vote): their landmarks are NaN",
            stacklevel=2,
        )
    return torch.where(found[..., None], points, torch.nan)


def landmark_confidence(pred: Tensor, radius: float) -> Tensor:
    r"""Compute how far the votes of `decode_landmarks` agree, one value per landmark.

    The confidence is the number of votes within R/4, but at least 1 pixel, of the decoded landmark, relative to the
    pixels that its disc has in the image. It is 1 for the true maps of a landmark, and small where the heat map is flat
    or has several peaks, or the offsets do not point to one place. It does not detect a network that is consistently
    wrong.

    Args:
        pred: maps `(B, 3·L, H, W)`, as for `decode_landmarks`.
        radius: R in pixels, at least 1: the radius of the maps in training.

    Returns:
        `(B, L)` float32, 0 to 1; 0 for a landmark that is not found.

    Raises:
        ValueError: if the maps have another shape, or the radius is below 1.

    Example:
        >>> pred = torch.zeros(1, 3, 8, 8)
        >>> pred[0, 0, 3, 4] = 5.0
        >>> landmark_confidence(pred, radius=1.0).shape
        torch.Size([1, 1])
    """
    points, found, votes = _elected(pred, radius)
    apart = torch.linalg.vector_norm(votes - points.unsqueeze(-2), dim=-1)  # (B, L, k), NaN where a vote is
    agreeing = (apart <= max(1.0, radius / 4)).sum(-1)
    rows, columns = (torch.arange(size, device=pred.device) for size in pred.shape[2:])
    y, x = points[..., 0, None, None], points[..., 1, None, None]
    disc = ((rows[:, None] - y) ** 2 + (columns - x) ** 2 < radius**2).flatten(2).sum(-1)
    return torch.where(found, (agreeing / disc.clamp(min=1, max=votes.shape[-2])).clamp(max=1), 0.0).float()


def _elected(pred: Tensor, radius: float) -> tuple[Tensor, Tensor, Tensor]:
    """Landmarks `(B, L, 2)`, whether each is found `(B, L)`, and all votes `(B, L, k, 2)`."""
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
    return points, peaked & (count > 0), torch.stack([y, x], dim=-1)


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
