"""IndexedDataset: every item knows which source sample it is, and draws its augmentation as a function of that."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from monai.data import SmartCacheDataset
from monai.transforms import Compose, Randomizable
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset

from monai_amat.data.source import source_fingerprint
from monai_amat.seeding import fold

__all__ = ["IndexedDataset"]


class IndexedDataset(Dataset[Any]):
    """Add to every item of a map-style data set the ID of its source sample and the seed of its random draws.

    Margins belong to source samples (E(i) of Algorithm 1), so each item carries `sample_id`: its dense index in the
    *source* list, whatever shuffling, subsetting or sharding lies between. Members of a torch `Subset` (nested too)
    keep the index they have in the list that the subset was taken from.

    Randomness is a function, not a state: before an item is made, every MONAI `Randomizable` at
    `dataset.transform` (looked for through `.dataset` and `.datasets` too) is given one generator seeded with
    `fold(seed, epoch, sample_id, visit)`. The same sample in the same epoch is therefore augmented alike by any
    worker, rank or resumed run. `visit` counts how often the sample came before in this epoch;
    `SeededSampler` tells it by an index beyond the length:
    `index = sample + visit * len(dataset)`.

    What cannot be seen from here: a list shortened by `monai.data.partition_dataset` is a plain list, and its indices
    would name different samples on each rank. Give every rank the whole list and shard with
    `SeededSampler`. Transforms that draw from the global random generators
    instead of MONAI's `self.R` are not seeded here, and worker *threads* that share one transform object
    (`ThreadDataLoader(use_thread_workers=True)`) overwrite each other's seeds.

    Args:
        dataset: a map-style data set whose items are mappings, or lists of mappings (`num_samples` crops: all get
            the sample's ID, each its own seed).
        seed: the run's seed.
        id_key: key of the sample's ID (int).
        seed_key: key of the item's seed (int in `[0, 2**63)`): `fold(seed, epoch, sample_id, visit)`, with the
            crop's number as a last part for crops.
        source_length: length of the source list, when it is longer than what `dataset` shows; by default the length
            of the list behind the subsets.

    Raises:
        TypeError: for an iterable data set or a `SmartCacheDataset`, whose indices do not name samples; on access,
            for items that are not mappings or that carry `id_key` or `seed_key` already.
        ValueError: if a subset holds a sample twice, or `source_length` is too small.

    Example:
        >>> from torch.utils.data import Subset
        >>> cases = [{"case": f"case_{i}.nii"} for i in range(5)]
        >>> part = IndexedDataset(Subset(cases, [4, 2]), seed=7)
        >>> [item["sample_id"] for item in part], part.source_length
        ([4, 2], 5)
        >>> again = part[0 + 1 * len(part)]  # the same sample's second visit in this epoch
        >>> again["sample_id"], again["sample_seed"] == part[0]["sample_seed"]
        (4, False)
    """

    def __init__(
        self,
        dataset: Any,
        *,
        seed: int = 0,
        id_key: str = "sample_id",
        seed_key: str = "sample_seed",
        source_length: int | None = None,
    ) -> None:
        _refuse_unindexed(dataset)
        self.dataset = dataset
        self.seed = seed
        self.id_key = id_key
        self.seed_key = seed_key
        self._source, self._ids = _source_of(dataset)
        highest = int(self._ids.max()) if self._ids is not None and len(self._ids) else len(self.dataset) - 1
        self.source_length = len(self._source) if source_length is None else source_length
        if self.source_length <= highest:
            raise ValueError(
                f"source_length is {self.source_length}, but the data set holds the sample with ID {highest}: give the "
                "length of the full source list, or leave it out."
            )
        # In shared memory, so that persistent loader workers, which copied this object once, see new epochs.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[Any]:
        # Without it, Python would index past the end for ever: indices beyond the length are further visits.
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Any:
        index = operator.index(index)
        if index < 0:
            raise IndexError(f"index {index} is negative; an index beyond the length names a further visit.")
        visit, position = divmod(index, len(self))
        sample_id = position if self._ids is None else int(self._ids[position])
        parts = (int(self._epoch), sample_id, visit)
        state = np.random.RandomState(fold(self.seed, *parts) % 2**32)  # numpy takes 32 bits
        for transform in _random_transforms(self.dataset):
            _share(transform, state)
        item = self.dataset[position]
        if isinstance(item, list):
            return [self._named(crop, sample_id, fold(self.seed, *parts, number)) for number, crop in enumerate(item)]
        return self._named(item, sample_id, fold(self.seed, *parts))

    @property
    def ids(self) -> Tensor:
        """ID of the sample at each position, `(len,)` int64, without loading any."""
        return torch.arange(len(self)) if self._ids is None else self._ids

    @property
    def epoch(self) -> int:
        """The epoch that draws are made for."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Draw what follows for this epoch, in this process and in loader workers that are already running."""
        self._epoch.fill_(epoch)

    @cached_property
    def fingerprint(self) -> str:
        """Names the source list: see `source_fingerprint`.

        Nothing is loaded or transformed for it: it is taken of the list `dataset.data`, where there is one.
        """
        data = getattr(self._source, "data", self._source)
        # Plain lists are walked; iterating anything else could load and transform every item.
        items = data if isinstance(data, (list, tuple)) else [type(data).__name__, len(self._source)]
        return source_fingerprint(items)

    def _named(self, item: Any, sample_id: int, seed: int) -> dict[Any, Any]:
        if not isinstance(item, Mapping):
            raise TypeError(
                f"item {sample_id} of {type(self._source).__name__} is a {type(item).__name__}; IndexedDataset needs "
                "mappings, or lists of mappings, to add its keys to: use MONAI's dictionary transforms."
            )
        for key in (self.id_key, self.seed_key):
            if key in item:
                raise TypeError(
                    f"item {sample_id} of {type(self._source).__name__} already carries the key {key!r}: wrap a data "
                    "set in IndexedDataset only once, or choose another id_key and seed_key."
                )
        # A new dictionary: the item may be a cache's own.
        return {**item, self.id_key: sample_id, self.seed_key: seed}


def _layers(dataset: Any) -> Iterator[Any]:
    """The data set and every data set inside it."""
    yield dataset
    for inner in (getattr(dataset, "dataset", None), *getattr(dataset, "datasets", ())):
        if inner is not None:
            yield from _layers(inner)


def _random_transforms(dataset: Any) -> Iterator[Randomizable]:
    for layer in _layers(dataset):
        transform = getattr(layer, "transform", None)
        if isinstance(transform, Randomizable):
            yield transform


def _share(transform: Randomizable, state: np.random.RandomState) -> None:
    """Let a transform, and all that it is composed of, draw from one generator.

    `Compose.set_random_state` would make a generator for each of its transforms: at two dozen of them that costs more
    than the augmentation itself.
    """
    if not isinstance(transform, Compose):
        transform.set_random_state(state=state)
        return
    transform.R = state
    for part in transform.transforms:
        if isinstance(part, Randomizable):
            _share(part, state)


def _refuse_unindexed(dataset: Any) -> None:
    for layer in _layers(dataset):
        name = type(layer).__name__
        if isinstance(layer, IterableDataset):
            raise TypeError(
                f"{name} is an iterable data set: it has no indices, so margins cannot belong to its samples."
            )
        if isinstance(layer, SmartCacheDataset):
            raise TypeError(
                f"{name} replaces the samples behind its indices every epoch, so that margins would wander between "
                "samples: use CacheDataset or PersistentDataset."
            )
    if not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        raise TypeError(f"{type(dataset).__name__} is no map-style data set: it needs __getitem__ and __len__.")


def _source_of(dataset: Any) -> tuple[Any, Tensor | None]:
    """The list behind (nested) subsets, and each member's index in it: `(len,)` int64, None for the identity."""
    ids = None
    while isinstance(dataset, Subset):
        level = torch.tensor([int(index) for index in dataset.indices], dtype=torch.int64)
        dataset = dataset.dataset
        level = torch.where(level < 0, level + len(dataset), level)
        ids = level if ids is None else level[ids]
    if ids is not None and len(ids.unique()) < len(ids):
        values, counts = ids.unique(return_counts=True)
        raise ValueError(
            f"the subset holds sample {int(values[counts > 1][0])} more than once: visits of one sample must be told "
            "apart, so repeat samples with SeededSampler(num_samples=…) or weights=… instead."
        )
    return dataset, ids
