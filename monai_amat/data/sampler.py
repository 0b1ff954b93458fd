"""SeededSampler: the order of an epoch as a function of (seed, epoch), divided exactly among ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import Sampler

from monai_amat.seeding import fold, generator

__all__ = ["SeededSampler"]


class SeededSampler(Sampler[int]):
    """Draw the indices of one epoch from (seed, epoch) alone, so that a resumed run sees the same batches.

    Without weights, an epoch is a permutation of the samples, followed by further permutations until `num_samples`
    are drawn. With weights, samples are drawn with replacement.

    Yields `sample + visit * size`, where `visit` counts how often the sample occurred before in this epoch;
    `IndexedDataset` separates the two and augments each visit differently. If no sample occurs twice
    (`num_samples <= size`, no weights), these are plain indices for any data set.

    Among W ranks, rank r takes every W-th index from r on. Batch k of one process with batch size W·b then holds
    exactly what the batches k of size b of all W ranks hold together. Up to W − 1 indices at the end are dropped, so
    that all ranks have the same number.

    Args:
        size: number of samples in the data set.
        num_samples: draws per epoch, over all ranks; `size` by default. With batch size b and W ranks an epoch has
            `num_samples / (W·b)` iterations.
        weights: `(size,)` non-negative finite numbers, not all zero: relative frequency of each sample.
        seed: the run's seed.
        shuffle: if False, samples keep their order.
        rank: number of this process; by default the rank of torch.distributed.
        world_size: number of processes; by default that of torch.distributed.

    Raises:
        ValueError: for sizes below one, weights that are too many, too few, negative, not finite or all zero, weights
            without shuffling, or a rank outside the world.

    Example:
        >>> sampler = SeededSampler(3, num_samples=5, seed=1)
        >>> drawn = list(sampler)
        >>> sorted(drawn[:3]), all(index in (3, 4, 5) for index in drawn[3:]), drawn == list(sampler)
        ([0, 1, 2], True, True)
    """

    def __init__(
        self,
        size: int,
        *,
        num_samples: int | None = None,
        weights: Sequence[float] | Tensor | None = None,
        seed: int = 0,
        shuffle: bool = True,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        self.size = size
        self.num_samples = size if num_samples is None else num_samples
        if self.size < 1 or self.num_samples < 1:
            raise ValueError(f"size and num_samples must be at least 1, got size={size} and num_samples={num_samples}")
        if (rank is None) != (world_size is None):
            raise ValueError(f"give both rank and world_size, or neither; got rank={rank}, world_size={world_size}")
        if rank is not None and world_size is not None and not 0 <= rank < world_size:
            raise ValueError(f"rank must lie in [0, world_size), got rank={rank} and world_size={world_size}")
        self.seed = seed
        self.shuffle = shuffle
        self.epoch = 0
        self._rank = rank
        self._world_size = world_size
        self._cumulative = None if weights is None else self._checked(weights).cumsum(0)

    def __len__(self) -> int:
        return self.num_samples // self._world()[1]

    def __iter__(self) -> Iterator[int]:
        rank, world_size = self._world()
        samples = self._draw()
        indices = samples + _visits(samples) * self.size
        return iter(indices[rank::world_size][: len(self)].tolist())

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that the next pass is drawn for; `EpochSeedHandler` calls this method."""
        self.epoch = epoch

    def _draw(self) -> Tensor:
        """The samples of the whole epoch, over all ranks: `(num_samples,)` int64."""
        source = generator(fold(self.seed, self.epoch))
        if self._cumulative is not None:
            # Not torch.multinomial, which takes at most 2**24 categories. Draws stay below the total, and `right`
            # never lands on a weight of zero.
            draws = torch.rand(self.num_samples, generator=source, dtype=torch.float64) * self._cumulative[-1]
            return torch.searchsorted(self._cumulative, draws, right=True)
        if not self.shuffle:
            return torch.arange(self.num_samples) % self.size
        passes = -(-self.num_samples // self.size)
        return torch.cat([torch.randperm(self.size, generator=source) for _ in range(passes)])[: self.num_samples]

    def _world(self) -> tuple[int, int]:
        # Read late, because a config may build its loader before torch.distributed is initialised.
        if self._rank is not None and self._world_size is not None:
            return self._rank, self._world_size
        if dist.is_available() and dist.is_initialized():
            return dist.get_rank(), dist.get_world_size()
        return 0, 1

    def _checked(self, weights: Sequence[float] | Tensor) -> Tensor:
        if not self.shuffle:
            raise ValueError("weights draw samples at random, but got shuffle=False; remove one of the two")
        values = torch.as_tensor(weights, dtype=torch.float64)
        if values.shape != (self.size,):
            raise ValueError(
                f"weights must hold one number per sample, shape ({self.size},), got {tuple(values.shape)}"
            )
        wrong = ~(values.isfinite() & (values >= 0))
        if wrong.any():
            at = int(wrong.nonzero()[0])
            raise ValueError(f"weights must be non-negative and finite, got weights[{at}] = {float(values[at])}")
        if not values.any():
            raise ValueError("weights must not all be zero; give at least one positive weight")
        return values / values.max()  # so that the sum cannot overflow


def _visits(samples: Tensor) -> Tensor:
    """How often each entry's sample occurs before it: `(n,)` int64 to `(n,)` int64."""
    order = samples.argsort(stable=True)
    grouped = samples[order]
    first = torch.searchsorted(grouped, grouped)
    visits = torch.empty_like(samples)
    visits[order] = torch.arange(len(samples)) - first
    return visits
