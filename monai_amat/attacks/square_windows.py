"""Windows of the square attack, one per sample, and the hills of its L2 noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["Windows", "hill", "hills", "tiles", "window_sides"]


@dataclass(frozen=True)
class Windows:
    """One window per sample of a batch `(B, C, *spatial)`: all of the same size, each at its own place.

    Args:
        corners: `(B, D)` int64, the window's lowest index along each of the D spatial axes.
        sides: D sides in pixels.
    """

    corners: Tensor
    sides: tuple[int, ...]

    def read(self, images: Tensor) -> Tensor:
        """The values in the windows, `(B, C, *sides)`.

        Example:
            >>> Windows(torch.tensor([[1]]), (2,)).read(torch.tensor([[[5.0, 6.0, 7.0]]]))
            tensor([[[6., 7.]]])
        """
        return images[self._index(images)]

    def write(self, images: Tensor, values: Tensor) -> Tensor:
        """A copy of the images with `values` `(B, C, *sides)` in the windows."""
        copy = images.clone()
        copy[self._index(images)] = values
        return copy

    def _index(self, images: Tensor) -> tuple[Tensor, ...]:
        axes = 2 + len(self.sides)

        def along(values: Tensor, axis: int) -> Tensor:
            return values.reshape(-1 if axis == 0 else 1, *(1 if i != axis else -1 for i in range(1, axes)))

        device = images.device
        index = [along(torch.arange(images.shape[axis], device=device), axis) for axis in (0, 1)]
        for axis, side in enumerate(self.sides):
            start = self.corners[:, axis].reshape(-1, *(1,) * (axes - 1))
            index.append(start + along(torch.arange(side, device=device), axis + 2))
        return tuple(index)


def window_sides(size: Sequence[int], share: float, *, odd: bool) -> tuple[int, ...]:
    """Sides of a square or cubic window with about `share` of an image; short axes are covered completely.

    Args:
        size: size of the image in pixels.
        share: share of its pixels, in (0, 1].
        odd: whether the sides are odd and at least 3, as L2 hills need, unless the axis is shorter.

    Example:
        >>> window_sides((20, 20), 0.25, odd=False), window_sides((20, 20), 0.25, odd=True)
        ((10, 10), (11, 11))
        >>> window_sides((4, 100), 0.5, odd=False)
        (4, 50)
    """
    sides = list(size)
    left, order = share * math.prod(size), sorted(range(len(size)), key=lambda axis: size[axis])
    for done, axis in enumerate(order):
        side = max(round(left ** (1 / (len(size) - done))), 3 if odd else 1)
        side += odd and side % 2 == 0
        if side <= size[axis]:
            for longer in order[done:]:
                sides[longer] = side
            break
        left = max(left / size[axis], 1.0)
    return tuple(sides)


@lru_cache(maxsize=64)
def hill(sides: tuple[int, ...], axis: int) -> Tensor:
    """Two half windows of opposite sign along `axis`, each a hill; their common L2 norm is 1: `(*sides)`.

    A pixel k steps from the middle of its half, counted in the largest step along any axis, has the height
    `Σ 1/(j+1)²` over all j from k to the largest one of the half (Andriushchenko et al. 2020, equation 2).

    Example:
        >>> hill((3, 3), 0).sign()
        tensor([[ 1.,  1.,  1.],
                [-1., -1., -1.],
                [-1., -1., -1.]])
    """
    upper = sides[axis] // 2
    halves = [_half((*sides[:axis], length, *sides[axis + 1 :])) for length in (upper, sides[axis] - upper) if length]
    pattern = torch.cat([halves[0], -halves[1]], dim=axis) if len(halves) == 2 else halves[0]
    return pattern / pattern.square().sum().sqrt()


def _half(sides: Sequence[int]) -> Tensor:
    away = torch.zeros(tuple(sides))
    for axis, side in enumerate(sides):
        steps = (torch.arange(side) - side // 2).abs().reshape(-1, *(1,) * (len(sides) - 1 - axis))
        away = torch.maximum(away, steps.to(away.dtype))
    furthest = int(away.max())
    # Sums from the edge to the middle.
    heights = (1 / torch.arange(1, furthest + 2, dtype=torch.float32).square()).flip(0).cumsum(0).flip(0)
    pattern = heights[away.long()]
    return pattern / pattern.square().sum().sqrt()


def hills(sides: Sequence[int], axes: Tensor, like: Tensor) -> Tensor:
    """One hill per sample, `(B, 1, *sides)`, split along the sample's axis in `axes` `(B,)`, in the type of `like`."""
    found = torch.stack([hill(tuple(sides), axis) for axis in range(len(sides))])
    return found.to(like)[axes].unsqueeze(1)


def tiles(size: Sequence[int]) -> tuple[Tensor, tuple[int, ...], tuple[int, ...]]:
    """The start of L2: hills side by side over the whole image, the last ones of each axis cut off.

    Returns:
        the pattern `(*size)`, the side of a tile and the number of tiles along each axis.

    Example:
        >>> tiles((7, 4))[1:]
        ((3, 3), (3, 2))
    """
    side = max(min(size) // 5, 3)
    sides = tuple(min(side, length) for length in size)
    counts = tuple(-(-length // side) for length, side in zip(size, sides, strict=True))
    pattern = hill(sides, 0).repeat(counts)
    for axis, length in enumerate(size):
        pattern = pattern.narrow(axis, 0, length)
    return pattern, sides, counts
