"""Norms in which noise is measured: its size per sample, the steepest direction and the projection onto a ball."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from monai_amat.seeding import generator

__all__ = ["L2", "Linf", "Norm", "NormSetting", "get_norm", "per_sample"]


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """Reshape `(B,)` so that it broadcasts against `like` of shape `(B, *shape)`."""
    return values.reshape(-1, *(1,) * (like.ndim - 1))


def _flat(values: Tensor) -> Tensor:
    return values.reshape(values.shape[0], -1)


def _scaled(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each sample divided by its largest entry, `(B, n)`; that entry, or 1 if all are zero; the length of the quotient.

    In float32 the squares of the tiny gradients of a saturated network (such as 1e-25) become zero, so that an attack
    would stop; the squares of 1e25 overflow. `sum` adds pairwise: on the CPU the error of `torch.linalg.vector_norm` is
    5e-5 for the pixels of a cephalogram and 1e-3 for the voxels of a volume, more than the radius allows.
    """
    flat = _flat(values)
    largest = flat.abs().amax(dim=1, keepdim=True)
    largest = torch.where(largest == 0, 1.0, largest)
    scaled = flat / largest
    return scaled, largest, scaled.square().sum(dim=1, keepdim=True).sqrt()


class Norm(ABC):
    """The operations of an attack on a norm; each works per sample (dim 0), in any number of dimensions."""

    @abstractmethod
    def size(self, noise: Tensor) -> Tensor:
        """Norm of each sample's noise, `(B,)`, in the units of the image."""

    @abstractmethod
    def direction(self, gradient: Tensor) -> Tensor:
        """Steepest ascent direction per sample, of size 1; zero if the gradient is zero or not finite."""

    @abstractmethod
    def project(self, noise: Tensor, radius: Tensor) -> Tensor:
        """The noise projected onto the ball of `radius` `(B,)` around zero."""

    def draw(self, like: Tensor, radius: Tensor, seeds: Sequence[int]) -> Tensor:
        """Uniform noise in the cube of half-width `radius`, projected onto the ball, as in the authors' code.

        For images almost all of the cube lies outside the L2 ball, so that the result is a point on the sphere. Each
        sample draws from its own seed, so that its noise depends neither on the other samples nor on the device.
        """
        shape = like.shape[1:]
        draws = [torch.rand(shape, generator=generator(seed), dtype=torch.float32, device="cpu") for seed in seeds]
        cube = torch.stack(draws).to(like) * 2 - 1
        return self.project(cube * per_sample(radius, like), radius)


class L2(Norm):
    """Euclidean norm, the paper's (section 3).

    Example:
        >>> L2().size(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([5., 0.])
    """

    def size(self, noise: Tensor) -> Tensor:
        """Root of the sum of squares over a sample."""
        _, largest, length = _scaled(noise)
        return (largest * length).flatten()

    def direction(self, gradient: Tensor) -> Tensor:
        """The gradient divided by its norm."""
        scaled, largest, length = _scaled(gradient)
        usable = torch.isfinite(largest)
        return torch.where(usable, scaled / length.clamp_min(1.0), 0.0).reshape(gradient.shape)

    def project(self, noise: Tensor, radius: Tensor) -> Tensor:
        """Noise outside the ball is scaled onto the sphere; noise inside is unchanged."""
        _, largest, length = _scaled(noise)
        factor = (radius[:, None] / largest / length.clamp_min(1.0)).clamp_max(1.0)
        return noise * per_sample(factor, noise)

    def __repr__(self) -> str:
        return "L2"


class Linf(Norm):
    """Largest absolute change of any pixel.

    Example:
        >>> Linf().size(torch.tensor([[3.0, -4.0]]))
        tensor([4.])
    """

    def size(self, noise: Tensor) -> Tensor:
        """Largest absolute entry of a sample."""
        return _flat(noise).abs().amax(dim=1)

    def direction(self, gradient: Tensor) -> Tensor:
        """The sign of the gradient."""
        finite = torch.isfinite(_flat(gradient)).all(dim=1)
        return torch.where(per_sample(finite, gradient), gradient.sign(), 0.0)

    def project(self, noise: Tensor, radius: Tensor) -> Tensor:
        """Every entry clipped to `[-radius, radius]`."""
        bound = per_sample(radius, noise)
        return torch.minimum(torch.maximum(noise, -bound), bound)

    def __repr__(self) -> str:
        return "Linf"


def get_norm(norm: float | str | Norm) -> Norm:
    """The `Norm` of a setting: `2`, `inf` (or `"inf"`, for JSON) or a `Norm` itself.

    Raises:
        ValueError: if the setting is none of these.

    Example:
        >>> get_norm(2), get_norm("inf")
        (L2, Linf)
    """
    if isinstance(norm, Norm):
        return norm
    if norm in (2, "2"):
        return L2()
    if norm in (math.inf, "inf"):
        return Linf()
    raise ValueError(f"norm must be 2, inf or a monai_amat.attacks.Norm, got {norm!r}")


class NormSetting:
    """The field `norm` of an attack that is a frozen dataclass: set by anything `get_norm` takes, read as a `Norm`.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True, kw_only=True)
        ... class MyAttack:
        ...     norm: NormSetting = NormSetting()
        >>> MyAttack().norm, MyAttack(norm="inf").norm
        (L2, Linf)
    """

    def __get__(self, attack: object | None, owner: type | None = None) -> Norm:
        """The norm; on the class itself the default, L2."""
        return L2() if attack is None else attack.__dict__["norm"]

    def __set__(self, attack: object, norm: float | str | Norm) -> None:
        """Store the norm; the `__init__` of the dataclass calls this once."""
        attack.__dict__["norm"] = get_norm(norm)
