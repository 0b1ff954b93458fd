"""Square attack (Andriushchenko et al. 2020): random search without gradients, in any number of dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from monai_amat.attacks.ball import Ball, BallAttack, Found
from monai_amat.attacks.base import AttackResult, Objective
from monai_amat.attacks.norms import L2, Linf, NormSetting, per_sample
from monai_amat.attacks.progress import late_step
from monai_amat.attacks.square_windows import Windows, hills, tiles, window_sides
from monai_amat.checks import check_within
from monai_amat.seeding import fold, generator

__all__ = ["Square", "window_share"]

# Queries of a budget of 10 000 after which the window's share of the image is halved.
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


def window_share(query: int, queries: int, share: float) -> float:
    """The window's share of the image at a query: halved at 10, 50, 200, … of 10 000 queries, rescaled to the budget.

    Example:
        >>> window_share(0, 300, 0.8), window_share(299, 300, 0.8)
        (0.8, 0.0015625)
    """
    scaled = query * 10_000 // queries
    return float(share * 0.5 ** sum(scaled > halving for halving in _HALVINGS))


@dataclass(frozen=True, kw_only=True)
class Square(BallAttack):
    """Change the noise in one random window per query, and keep each change that raises the loss.

    No gradient is used, so that masked gradients do not weaken the attack. A query is one forward.

    - *Maximum norm*: the start consists of stripes of ±radius; a change sets a window to +radius or −radius, one sign
      per channel.
    - *L2*: the start is a tiling with small hills of either sign; a change puts a hill, whose two halves have opposite
      signs, into one window and takes the energy for it from a second window, so that the noise stays on the sphere.

    Windows are intervals, squares or cubes, depending on the number of spatial dimensions; if an axis is too short for
    the side, the window covers all of that axis and is longer along the others. The window's share of the image falls
    with the queries (`window_share`). Each sample has its own windows, drawn from its seed.

    Source: Andriushchenko, Croce, Flammarion and Hein 2020, "Square Attack: a query-efficient black-box adversarial
    attack via random search", algorithms 1 to 3.

    Args:
        queries: number of forwards, including that of the start; at least 1.
        share: the window's initial share of the image, in (0, 1].

    `norm` (2 or `inf`), `clip_range` and `amp` are those of `BallAttack`. Inputs are `(B, channels, *spatial)`, or
    `(B, n)` for one channel.

    Raises:
        ValueError: if a setting is out of range, or the norm is another one.

    Example:
        >>> attack = Square(queries=200, norm="inf")
        >>> result = attack(lambda noisy, rows: noisy.sum(dim=(1, 2, 3)), torch.zeros(1, 1, 4, 4), 0.5)
        >>> result.noisy.sum().item(), result.steps.tolist()  # all 16 pixels at +0.5, without a gradient
        (8.0, [0])
    """

    norm: NormSetting = NormSetting()  # noqa: RUF009 (repeated, because type checkers do not see it inherited)
    queries: int = 300
    share: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.norm, L2 | Linf):
            raise ValueError(f"norm must be 2 or 'inf' for Square, got {self.norm!r}")
        check_within("queries", self.queries, 1)
        check_within("share", self.share, 0, 1, without=0)

    def search(self, objective: Objective, ball: Ball) -> AttackResult:
        """Search from the start of the norm; noise is in units of the radius, so that its squares do not vanish."""
        images = ball.clean if ball.clean.ndim > 2 else ball.clean.unsqueeze(1)
        radius = per_sample(torch.where(ball.radius > 0, ball.radius, 1.0), ball.clean)
        draws = _Draws(images, ball.seeds, self.queries)
        largest = isinstance(self.norm, Linf)
        start = _stripes(images, draws) if largest else _tiling(images, draws)
        noise = ball.confine(start.reshape(ball.clean.shape) * radius)
        found = Found.at(noise, self.look(objective, ball, noise))
        for query in range(1, self.queries):
            if query == late_step(self.queries):
                found.late_loss = found.loss
            sides = window_sides(draws.size, window_share(query - 1, self.queries, self.share), odd=not largest)
            here = (found.noise / radius).reshape(images.shape)
            change = _put_square if largest else _move_energy
            noise = ball.confine(change(here, draws, query, sides).reshape(ball.clean.shape) * radius)
            found.look(noise, self.look(objective, ball, noise))
        return found.result(ball)


class _Draws:
    """All random numbers of a search, `(B, queries, columns)` in [0, 1): each sample draws from its own seed."""

    def __init__(self, images: Tensor, seeds: Sequence[int], queries: int) -> None:
        self.channels, self.size = images.shape[1], tuple(images.shape[2:])
        columns = 2 * len(self.size) + 1 + self.channels
        drawn = [torch.rand(queries, columns, generator=generator(fold(seed, 1))) for seed in seeds]
        self._drawn, self._seeds = torch.stack(drawn).to(images.device), seeds

    def first_signs(self, shape: Sequence[int]) -> Tensor:
        """Random signs `(B, *shape)` for the start."""
        drawn = [torch.rand(tuple(shape), generator=generator(fold(seed, 0))) for seed in self._seeds]
        return _signs(torch.stack(drawn).to(self._drawn.device))

    def signs(self, query: int) -> Tensor:
        """Random signs `(B, channels)`."""
        return _signs(self._drawn[:, query, -self.channels :])

    def axis(self, query: int, count: int) -> Tensor:
        """A random number in `0..count - 1` per sample."""
        return (self._drawn[:, query, -self.channels - 1] * count).long().clamp(max=count - 1)

    def windows(self, query: int, sides: Sequence[int], second: bool = False) -> Windows:
        """A random window per sample; every place in the image is as likely as any other."""
        first = len(self.size) if second else 0
        uniform = self._drawn[:, query, first : first + len(self.size)]
        room = torch.tensor([size - side + 1 for size, side in zip(self.size, sides, strict=True)])
        room = room.to(uniform.device)
        corners = torch.minimum((uniform * room).long(), room - 1)
        return Windows(corners, tuple(sides))


def _signs(uniform: Tensor) -> Tensor:
    return (uniform < 0.5).to(torch.float32) * 2 - 1


def _stripes(images: Tensor, draws: _Draws) -> Tensor:
    """±1, constant along all spatial axes but the last."""
    shape = (images.shape[1], *(1,) * (images.ndim - 3), images.shape[-1])
    return draws.first_signs(shape).to(images).expand(images.shape)


def _put_square(noise: Tensor, draws: _Draws, query: int, sides: Sequence[int]) -> Tensor:
    """The noise with a window set to ±1, one sign per channel; the signs are flipped if nothing would change."""
    windows = draws.windows(query, sides)
    inside = windows.read(noise)
    new = per_channel(draws.signs(query), inside)
    same = (inside == new).flatten(1).all(dim=1)
    return windows.write(noise, torch.where(per_sample(same, new), -new, new).expand(inside.shape))


def _tiling(images: Tensor, draws: _Draws) -> Tensor:
    """Hills side by side over the whole image; the L2 norm of the image is 1."""
    pattern, sides, counts = tiles(draws.size)
    signs = draws.first_signs((draws.channels, *counts)).to(images)
    for axis, side in enumerate(sides):
        signs = signs.repeat_interleave(side, dim=axis + 2).narrow(axis + 2, 0, draws.size[axis])
    return _unit(signs * pattern.to(images))


def _move_energy(noise: Tensor, draws: _Draws, query: int, sides: Sequence[int]) -> Tensor:
    """The noise with the energy of a second window moved into a hill in the first, added to its former values."""
    first, second = draws.windows(query, sides), draws.windows(query, sides, second=True)
    spatial = tuple(range(2, noise.ndim))
    held = first.read(noise)
    length = held.square().sum(spatial, keepdim=True).sqrt()
    mixed = hills(sides, draws.axis(query, noise.ndim - 2), noise) * per_channel(draws.signs(query), held)
    mixed = mixed + held / length.clamp_min(1e-12)
    mixed = mixed / mixed.square().sum(spatial, keepdim=True).sqrt().clamp_min(1e-12)
    emptied = second.write(first.write(noise, torch.zeros_like(held)), torch.zeros_like(held))
    energy = noise.square().sum(spatial, keepdim=True)
    freed = energy - emptied.square().sum(spatial, keepdim=True)
    # Energy that clipping has removed is added again, in equal parts to all channels.
    lost = (1 - energy.sum(1, keepdim=True)).clamp_min(0.0) / noise.shape[1]
    return _unit(first.write(emptied, mixed * (freed + lost).clamp_min(0.0).sqrt()))


def per_channel(values: Tensor, like: Tensor) -> Tensor:
    """Reshape `(B, C)` so that it broadcasts against `like` `(B, C, *spatial)`."""
    return values.to(like).reshape(*like.shape[:2], *(1,) * (like.ndim - 2))


def _unit(noise: Tensor) -> Tensor:
    length = noise.flatten(1).square().sum(1).sqrt().clamp_min(1e-12)
    return noise / per_sample(length, noise)
