"""Losses for attacks on landmark networks: the likelihood of the true cell, a capped distance, and a target."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from monai_amat.checks import check_positive
from monai_amat.losses.base import PerSampleLoss, full_precision
from monai_amat.seeding import fold, generator

__all__ = ["CappedDistance", "HeatmapLikelihood", "TargetedLikelihood"]


class _LandmarkAttackLoss(PerSampleLoss):
    """A loss of each landmark, averaged over those of a sample that have a truth; 0 where none has."""

    def terms(self, pred: Tensor, target: Mapping[str, Any]) -> dict[str, Tensor]:
        """The mean over the landmarks of each sample, `{"landmarks": (B,)}`.

        Args:
            pred: what the network returned, `(B, 3·L, H, W)`, heat as logits.
            target: `"landmarks"` `(B, L, 2)` in pixels, (y, x), NaN where missing, and where distances are measured
                `"spacing"` `(B, 2)`, mm per pixel, as `monai_amat.engines.PrepareBatchTargets` gives them.

        Raises:
            KeyError: if the target lacks one of both.
            ValueError: if the shapes do not fit.
        """
        maps = full_precision(pred)
        points = self._look_up(target, "landmarks").to(maps)
        if maps.ndim != 4 or points.ndim != 3 or maps.shape[:2] != (len(points), 3 * points.shape[1]):
            raise ValueError(
                f"pred must be maps (B, 3·L, H, W) and the landmarks (B, L, 2), got {tuple(maps.shape)} and "
                f"{tuple(points.shape)}"
            )
        there = points.isfinite().all(-1)
        with torch.autocast(maps.device.type, enabled=False):
            values = self.each(maps, torch.where(there[..., None], points, 0.0), target)
        return {"landmarks": torch.where(there, values, 0.0).sum(1) / there.sum(1).clamp(min=1)}

    @abstractmethod
    def each(self, maps: Tensor, points: Tensor, target: Mapping[str, Any]) -> Tensor:
        """The loss of each landmark, `(B, L)`.

        Args:
            maps: `(B, 3·L, H, W)`.
            points: `(B, L, 2)` in pixels; 0 where there is no truth.
            target: the whole target.
        """

    @staticmethod
    def _look_up(target: Any, name: str) -> Tensor:
        if not isinstance(target, Mapping) or name not in target:
            found = sorted(map(str, target)) if isinstance(target, Mapping) else type(target).__name__
            raise KeyError(
                f"the attack loss needs the target's {name!r}, got {found}; name it in the targets of "
                "PrepareBatchTargets"
            )
        value = target[name]
        assert isinstance(value, Tensor)
        return value.as_subclass(Tensor)


def log_likelihood(heat: Tensor, points: Tensor) -> Tensor:
    """Log of the softmaxed heat map at the pixel of each point, `(B, L)`.

    Args:
        heat: `(B, L, H, W)`, logits.
        points: `(B, L, 2)` in pixels, (y, x); a point outside takes the nearest pixel.

    Example:
        >>> log_likelihood(torch.zeros(1, 1, 2, 2), torch.tensor([[[0.4, 9.0]]])).exp()
        tensor([[0.2500]])
    """
    height, width = heat.shape[2:]
    row = points[..., 0].round().clamp(0, height - 1).long()
    column = points[..., 1].round().clamp(0, width - 1).long()
    logs = functional.log_softmax(heat.flatten(2), dim=-1)
    return logs.gather(-1, (row * width + column).unsqueeze(-1)).squeeze(-1)


class HeatmapLikelihood(_LandmarkAttackLoss):
    """Minus the log-likelihood of the true cell in the softmaxed heat map; an attack drives the heat elsewhere.

    Example:
        >>> maps = torch.zeros(1, 3, 4, 4)
        >>> HeatmapLikelihood()(maps, {"landmarks": torch.tensor([[[1.0, 2.0]]])})  # ln 16
        tensor([2.7726])
    """

    def each(self, maps: Tensor, points: Tensor, target: Mapping[str, Any]) -> Tensor:
        """See the class."""
        return -log_likelihood(maps.chunk(3, dim=1)[0], points)


class TargetedLikelihood(_LandmarkAttackLoss):
    """The log-likelihood of a point drawn for each landmark; an attack drives the heat there.

    The points are the same for all images, as shares of height and width drawn from the seed.

    Args:
        seed: where the points come from.

    Example:
        >>> maps = torch.zeros(1, 3, 4, 4)
        >>> TargetedLikelihood()(maps, {"landmarks": torch.tensor([[[1.0, 2.0]]])})
        tensor([-2.7726])
    """

    def __init__(self, *, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed

    def each(self, maps: Tensor, points: Tensor, target: Mapping[str, Any]) -> Tensor:
        """See the class."""
        drawn = [torch.rand(2, generator=generator(fold(self.seed, number))) for number in range(points.shape[1])]
        size = torch.tensor(maps.shape[2:], dtype=torch.float32)
        aims = (torch.stack(drawn) * (size - 1)).to(points).expand(points.shape)
        return log_likelihood(maps.chunk(3, dim=1)[0], aims)

    def extra_repr(self) -> str:
        """The settings."""
        return f"seed={self.seed}"


class CappedDistance(_LandmarkAttackLoss):
    """Distance of a soft arg-max from the truth in mm, at most `cap`.

    The soft arg-max is the mean of all pixels' votes (pixel + offset · R), weighted by the softmaxed heat map; the
    decoder takes the votes of the hottest pixels. A landmark further off than the cap is lost in the detection rate of
    that radius; it has no gradient and takes no effort.

    Args:
        cap: in mm, greater than 0; the radius of the detection rate that is reported.
        relative_radius: R of the maps that the network was trained on, as a share of their height.

    Raises:
        ValueError: if a setting is out of range.

    Example:
        >>> maps = torch.zeros(1, 3, 5, 5)
        >>> maps[0, 0, 2, 2] = 99.0
        >>> target = {"landmarks": torch.tensor([[[2.0, 3.0]]]), "spacing": torch.tensor([[0.5, 0.5]])}
        >>> CappedDistance()(maps, target)
        tensor([0.5000])
    """

    def __init__(self, *, cap: float = 2.0, relative_radius: float = 0.05) -> None:
        super().__init__()
        check_positive("cap", cap)
        check_positive("relative_radius", relative_radius)
        self.cap = float(cap)
        self.relative_radius = float(relative_radius)

    def each(self, maps: Tensor, points: Tensor, target: Mapping[str, Any]) -> Tensor:
        """See the class."""
        heat, *offsets = maps.chunk(3, dim=1)
        shares = torch.softmax(heat.flatten(2), dim=-1)
        radius = self.relative_radius * maps.shape[2]
        rows, columns = torch.meshgrid(
            torch.arange(maps.shape[2], device=maps.device),
            torch.arange(maps.shape[3], device=maps.device),
            indexing="ij",
        )
        means = [
            (shares * (place.flatten() + radius * offset.flatten(2))).sum(-1)
            for place, offset in zip((rows, columns), offsets, strict=True)
        ]
        spacing = self._look_up(target, "spacing").to(maps).unsqueeze(1)
        # The square root has no gradient at 0, where the point is exactly found.
        squares = ((torch.stack(means, dim=-1) - points) * spacing).square().sum(-1)
        return squares.clamp_min(1e-12).sqrt().clamp_max(self.cap)

    def extra_repr(self) -> str:
        """The settings."""
        return f"cap={self.cap:g}, relative_radius={self.relative_radius:g}"
