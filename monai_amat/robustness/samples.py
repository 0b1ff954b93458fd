"""Samples of a loader: their IDs, a loader over some of them, and columns of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Subset

from monai_amat.data.indexed import IndexedDataset

__all__ = ["batch_column", "indexed_behind", "loader_like", "sample_ids"]


def indexed_behind(dataset: Dataset[Any]) -> tuple[IndexedDataset, list[int]]:
    """The indexed data set behind subsets, and the positions in it.

    Raises:
        TypeError: when there is none.
    """
    if isinstance(dataset, Subset):
        data, positions = indexed_behind(dataset.dataset)
        return data, [positions[index] for index in dataset.indices]
    if not isinstance(dataset, IndexedDataset):
        raise TypeError(
            f"the loader's data set must be an IndexedDataset, whose items carry their sample ID, got "
            f"{type(dataset).__name__}; wrap it: monai_amat.data.IndexedDataset(dataset)"
        )
    return dataset, list(range(len(dataset)))


def sample_ids(data: IndexedDataset, positions: Sequence[int]) -> list[int]:
    """IDs of the samples at some positions, without loading them."""
    return data.ids[list(positions)].tolist()


def loader_like(loader: DataLoader[Any], dataset: Dataset[Any]) -> DataLoader[Any]:
    """A loader over other samples, in order, with the same batches and workers."""
    return DataLoader(
        dataset,
        batch_size=loader.batch_size,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        prefetch_factor=loader.prefetch_factor,
    )


def batch_column(batch: Any, key: str, size: int) -> list[Any]:
    """One number or text per sample of the batch under `key`.

    Raises:
        KeyError: when the batch has no such key.
        ValueError: when there is not one value per sample.
    """
    if key not in batch:
        raise KeyError(
            f"the batch has no {key!r}, its keys are {sorted(map(str, batch))}; correct group_key, which may be "
            "'sample_id' where each sample stands for itself, or extra_keys, which may be ()"
        )
    values = batch[key]
    items = values.detach().cpu().reshape(len(values), -1) if isinstance(values, torch.Tensor) else values
    if len(items) != size or (isinstance(items, torch.Tensor) and items.shape[1] != 1):
        raise ValueError(
            f"{key!r} must hold one number or text for each of the {size} samples of a batch, got {values!r}"
        )
    return items[:, 0].tolist() if isinstance(items, torch.Tensor) else [str(item) for item in items]
