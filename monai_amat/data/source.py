"""Fingerprint of a source list or data set, independent of the folder of its files."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from enum import Enum
from numbers import Real
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Subset

__all__ = ["dataset_fingerprint", "source_fingerprint"]

# Landmarks and boxes have fewer elements, images more. Larger arrays take time to hash, and mostly a file names them.
_WHOLE = 1024
_DEEPEST = 8
# Attributes of data sets that do not identify samples, or change during a run.
_PASSED_OVER = ("transform", "cache", "lock", "pool", "worker", "progress", "logger", "epoch")


def source_fingerprint(items: Iterable[Any]) -> str:
    """Compute sixteen hexadecimal digits over what identifies each item of a list, in order.

    These are numbers, texts, values of small arrays (landmarks, boxes), shapes of larger arrays, and file names
    relative to the folder that all files under one key have in common: a data set that was moved as a whole keeps its
    fingerprint, and `case_1/image.nii` differs from `case_2/image.nii`. The values of larger arrays count only in items
    that nothing else identifies: items without a text, or with the same texts and numbers as another item. Objects
    count by their fields.

    Args:
        items: mappings, nested or not, or any other objects.

    Returns:
        The first 16 digits of a SHA-256.

    Example:
        >>> here = source_fingerprint([{"image": "/data/a.png"}, {"image": "/data/b.png"}])
        >>> here == source_fingerprint([{"image": "/old/data/a.png"}, {"image": "/old/data/b.png"}])
        True
        >>> here == source_fingerprint([{"image": "/data/1/a.png"}, {"image": "/data/2/b.png"}])
        False
        >>> source_fingerprint([torch.zeros(64, 64)]) == source_fingerprint([torch.ones(64, 64)])
        False
    """
    named = [list(_leaves(item)) for item in items]
    texts = [tuple((place, str(value)) for place, value in leaves) for leaves in named]
    counts = Counter(texts)
    whole = [
        counts[text] > 1 or not any(isinstance(value, _File) for _, value in leaves)
        for text, leaves in zip(texts, named, strict=True)
    ]
    return _digest(named, whole)


def dataset_fingerprint(dataset: Any) -> str:
    """Compute the fingerprint of the source list of a data set, without loading or transforming an item.

    It is `source_fingerprint` of the list, or of the list `dataset.data`. Any other data set counts by its attributes,
    including the values of all arrays (tensors, arrays of an NPZ file, lists of paths, inner data sets), but without
    transforms, caches and private numbers.

    Args:
        dataset: a map-style data set.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> dataset_fingerprint(TensorDataset(torch.zeros(3))) == dataset_fingerprint(TensorDataset(torch.ones(3)))
        False
    """
    items = _items(dataset)
    if items is not None:
        return source_fingerprint(items)
    name = type(dataset).__name__
    fields = [*_leaves(_attributes(dataset))] if hasattr(dataset, "__dict__") else []
    if not any(isinstance(value, _File | _Array) or " " in str(value) for _, value in fields):
        warnings.warn(
            f"{name}: expected an attribute that identifies the samples, got none, so that another {name} of the same "
            "length counts as the same data set; keep the list of its items in the attribute data",
            stacklevel=2,
        )
    return _digest([[("", name), ("", str(len(dataset))), *fields]], [True])


def _items(dataset: Any) -> Sequence[Any] | None:
    """The list of a data set, if it can be read without loading anything."""
    if isinstance(dataset, (list, tuple)):
        return dataset
    if isinstance(dataset, Subset):
        items = _items(dataset.dataset)
        return None if items is None else [items[int(index)] for index in dataset.indices]
    data = getattr(dataset, "data", None)
    items = None if data is None or data is dataset else _items(data)
    return items if items is not None and len(items) == len(dataset) else None


def _digest(named: Sequence[Sequence[tuple[str, Any]]], whole: Sequence[bool]) -> str:
    """Hash the leaves of all items; `whole` decides for which of them the values of large arrays count."""
    common: dict[str, list[str]] = {}
    for place, value in (leaf for leaves in named for leaf in leaves):
        if isinstance(value, _File):
            folder = value.folders
            common[place] = _shared(common.get(place, folder), folder)
    digest = hashlib.sha256(f"{len(named)}".encode())
    for leaves, complete in zip(named, whole, strict=True):
        for place, value in leaves:
            text = value.below(common[place]) if isinstance(value, _File) else str(value)
            digest.update(f"{place}={text}\n".encode())
            if complete and isinstance(value, _Array):
                digest.update(value.values())
        digest.update(b"\n")
    return digest.hexdigest()[:16]


class _File:
    """A path, or a text that may be one."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path).replace("\\", "/")
        *self.folders, self.name = self.path.split("/")

    def __str__(self) -> str:
        return self.path

    def below(self, common: Sequence[str]) -> str:
        return repr("/".join([*self.folders[len(common) :], self.name]))


class _Array:
    """A large array: its text is dtype and shape, and its values are hashed only if they are needed."""

    def __init__(self, text: str, array: torch.Tensor | np.ndarray[Any, Any]) -> None:
        self.text = text
        self.array = array

    def __str__(self) -> str:
        return self.text

    def values(self) -> bytes:
        return hashlib.sha256(_bytes(self.array)).digest()


def _shared(first: list[str], second: list[str]) -> list[str]:
    """Common beginning of two lists."""
    for i, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return first[:i]
    return first[: len(second)]


def _leaves(value: Any, place: str = "", above: tuple[int, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Each entry of an item with the keys that lead to it, in the order of the keys; those of a list share a place."""
    if id(value) in above or len(above) > _DEEPEST:
        return
    above = (*above, id(value))
    if isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield from _leaves(value[key], f"{place}/{key}", above)
    elif isinstance(value, str | os.PathLike):
        yield place, _File(value)
    elif isinstance(value, Enum):
        yield place, f"{type(value).__name__}.{value.name}"
    elif isinstance(value, Real):
        yield place, str(value)
    elif isinstance(value, np.ndarray) and value.dtype.kind not in "biufc":  # objects and texts
        yield place, f"{value.dtype}{value.shape}"
        yield from _leaves(value.tolist(), place, above)
    elif isinstance(value, torch.Tensor | np.ndarray):
        yield place, _array(value)
    elif isinstance(value, bytes):
        yield place, f"bytes {hashlib.sha256(value).hexdigest()}"
    elif isinstance(value, Set):
        yield from _leaves(sorted(value, key=str), place, above)
    elif isinstance(value, Sequence):
        yield place, f"{len(value)} of"
        for entry in value:
            yield from _leaves(entry, place, above)
    else:
        yield place, type(value).__name__
        yield from _fields(value, place, above)


def _fields(value: Any, place: str, above: tuple[int, ...]) -> Iterator[tuple[str, Any]]:
    """Entries of an object that is not a container."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        yield from _leaves(fields, place, above)
    elif callable(value) and not isinstance(value, Dataset):
        yield place, str(getattr(value, "__qualname__", type(value).__qualname__))
    elif hasattr(value, "__array__"):  # a picture of Pillow, a table of pandas
        yield from _leaves(np.asarray(value), place, above)
    elif isinstance(value, Dataset) or (hasattr(value, "__dict__") and not type(value).__module__.startswith("numpy")):
        yield from _leaves(_attributes(value), place, above)
    elif " at 0x" not in (text := repr(value)):  # a date, a dtype
        yield place, text


def _attributes(value: Any) -> dict[str, Any]:
    """Attributes of an object that identify its samples."""
    return {
        name: entry
        for name, entry in vars(value).items()
        if not any(word in name.lower() for word in _PASSED_OVER)
        and not (name.startswith("_") and isinstance(entry, Real))
        and not isinstance(entry, np.random.RandomState | np.random.Generator | torch.Generator | ModuleType)
    }


def _array(value: torch.Tensor | np.ndarray[Any, Any]) -> str | _Array:
    text = f"{str(value.dtype).removeprefix('torch.')}{tuple(value.shape)}"
    elements = value.numel() if isinstance(value, torch.Tensor) else value.size
    if not elements:
        return text
    return _Array(text, value) if elements > _WHOLE else f"{text} {hashlib.sha256(_bytes(value)).hexdigest()}"


def _bytes(array: torch.Tensor | np.ndarray[Any, Any]) -> bytes:
    if isinstance(array, np.ndarray):
        return array.tobytes()
    plain = array.detach().as_subclass(torch.Tensor).cpu().contiguous().reshape(-1)
    return plain.view(torch.uint8).numpy().tobytes()
