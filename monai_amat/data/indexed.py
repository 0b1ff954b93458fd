"""IndexedDataset: every item carries the ID of its source sample, and its augmentation is a function of that ID."""

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

from monai_amat.data.source import dataset_fingerprint, source_fingerprint
from monai_amat.seeding import fold

__all__ = ["IndexedDataset"]


class IndexedDataset(Dataset[Any]):
    """Add to every item of a map-style data set the ID of its source sample and the seed of its random draws.

    Margins belong to source samples (E(i) of Algorithm 1), so each item carries `sample_id`: its dense index in the
    *source* list, independent of shuffling, subsets and sharding. Members of a torch `Subset` (also nested) keep the
    index that they have in the list behind the subset.

    Randomness is a function, not a state: before an item is made, every MONAI `Randomizable` at `dataset.transform`
    (also inside `.dataset` and `.datasets`) receives one generator with the seed `fold(seed, epoch, sample_id, visit)`.
    Every worker, rank and resumed run therefore augments the same sample in the same epoch alike. `visit` counts how
    often the sample occurred before in this epoch; `SeededSampler` encodes it in an index beyond the length:
    `index = sample + visit * len(dataset)`.

    This class cannot detect a list that `monai.data.partition_dataset` shortened: the indices of such a list name
    different samples on each rank. Give every rank the whole list, and shard with `SeededSampler`. Transforms that draw
    from global random generators instead of `self.R` of MONAI are not seeded, and worker *threads* that share one
    transform object (`ThreadDataLoader(use_thread_workers=True)`) overwrite the seeds of each other.

    Args:
        dataset: a map-style data set whose items are mappings, or lists of mappings (`num_samples` crops: all have
            the ID of the sample, and each has its own seed).
        seed: seed of the run.
        id_key: key of the sample ID (int).
        seed_key: key of the seed of the item (int in `[0, 2**63)`): `fold(seed, epoch, sample_id, visit)`, for crops
            with the number of the crop as the last part.
        source_length: length of the source list, if it is longer than `dataset`; by default the length of the list
            behind the subsets.

    Raises:
        TypeError: if the data set is iterable or a `SmartCacheDataset`, whose indices do not name samples; on access,
            if items are not mappings or already have `id_key` or `seed_key`.
        ValueError: if a subset holds a sample twice, or `source_length` is too small.

    Example:
        >>> from torch.utils.data import Subset
        >>> cases = [{"case": f"case_{i}.nii"} for i in range(5)]
        >>> part = IndexedDataset(Subset(cases, [4, 2]), seed=7)
        >>> [item["sample_id"] for item in part], part.source_length
        ([4, 2], 5)
        >>> again = part[0 + 1 * len(part)]  # second visit of the same sample in this epoch
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
                f"source_length must be greater than every sample ID, {highest} at most, got {self.source_length}; "
                "give the length of the full source list, or omit it"
            )
        # In shared memory, so that persistent loader workers, which copied this object, see new epochs.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[Any]:
        # Without this method Python would index beyond the end without limit, because such indices are further visits.
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Any:
        index = operator.index(index)
        if index < 0:
            raise IndexError(f"index must be at least 0, got {index}; an index beyond the length names a further visit")
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
        """ID of the sample at each position, `(len,)` int64; no item is loaded."""
        return torch.arange(len(self)) if self._ids is None else self._ids

    @property
    def epoch(self) -> int:
        """Epoch of the random draws."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the random draws, in this process and in loader workers that are already running."""
        self._epoch.fill_(epoch)

    @cached_property
    def fingerprint(self) -> str:
        """Identifies the source list, which `sample_id` refers to, so that margins of another list are refused.

        Subsets of one list have one fingerprint. No item is loaded or transformed. See
        `monai_amat.data.source.dataset_fingerprint`.
        """
        return dataset_fingerprint(self._source)

    @cached_property
    def samples_fingerprint(self) -> str:
        """Identifies the samples themselves, so that results and thresholds of another subset are refused.

        It equals `fingerprint` if the data set is the whole source list.
        """
        if self._ids is None:
            return self.fingerprint
        return source_fingerprint([self.fingerprint, self._ids.tolist()])

    def _named(self, item: Any, sample_id: int, seed: int) -> dict[Any, Any]:
        if not isinstance(item, Mapping):
            raise TypeError(
                f"item {sample_id} of {type(self._source).__name__} must be a mapping, or a list of mappings, so that "
                f"IndexedDataset can add its keys, got {type(item).__name__}; use dictionary transforms of MONAI"
            )
        for key in (self.id_key, self.seed_key):
            if key in item:
                raise TypeError(
                    f"item {sample_id} of {type(self._source).__name__} already has the key {key!r}; wrap a data set "
                    "in IndexedDataset only once, or choose another id_key and seed_key"
                )
        # A new dictionary, because the item may belong to a cache.
        return {**item, self.id_key: sample_id, self.seed_key: seed}


def _layers(dataset: Any) -> Iterator[Any]:
    """The data set and all data sets inside it."""
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
    """Let a transform and all its parts draw from one generator.

    `Compose.set_random_state` would create a generator for each of its transforms; for two dozen of them this takes
    longer than the augmentation.
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
                f"expected a map-style data set, got {name}, which is iterable and has no indices that margins could "
                "belong to"
            )
        if isinstance(layer, SmartCacheDataset):
            raise TypeError(
                f"expected fixed indices, got {name}, which replaces the samples behind its indices every epoch, so "
                "that margins would belong to changing samples; use CacheDataset or PersistentDataset"
            )
    if not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        raise TypeError(f"expected a map-style data set with __getitem__ and __len__, got {type(dataset).__name__}")


def _source_of(dataset: Any) -> tuple[Any, Tensor | None]:
    """The list behind (nested) subsets, and the index of each member in it: `(len,)` int64, None for all in order."""
    ids = None
    while isinstance(dataset, Subset):
        level = torch.tensor([int(index) for index in dataset.indices], dtype=torch.int64)
        dataset = dataset.dataset
        level = torch.where(level < 0, level + len(dataset), level)
        ids = level if ids is None else level[ids]
    if ids is not None and len(ids.unique()) < len(ids):
        values, counts = ids.unique(return_counts=True)
        raise ValueError(
            f"a subset must hold each sample once, got sample {int(values[counts > 1][0])} several times, whose visits "
            "could not be distinguished; repeat samples with SeededSampler(num_samples=…) or weights=… instead"
        )
    return dataset, ids
