"""What names the items of a source list, wherever its files lie."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch

__all__ = ["source_fingerprint"]

# Landmarks and boxes have fewer elements, images more; those would be slow to read, and their files name them.
_WHOLE = 1024


def source_fingerprint(items: Iterable[Any]) -> str:
    """Sixteen hexadecimal digits over what names each item of a list, in order.

    These are numbers, strings, the values of small arrays (landmarks, boxes; of large ones the shape), and file names
    relative to the folder that all files under one key have in common: a data set that was moved as a whole has the
    fingerprint that it had, and `case_1/image.nii` is not `case_2/image.nii`. Of anything else the type counts.

    Args:
        items: mappings, nested or not, or anything else.

    Example:
        >>> here = source_fingerprint([{"image": "/data/a.png"}, {"image": "/data/b.png"}])
        >>> here == source_fingerprint([{"image": "/old/data/a.png"}, {"image": "/old/data/b.png"}])
        True
        >>> here == source_fingerprint([{"image": "/data/1/a.png"}, {"image": "/data/2/b.png"}])
        False
    """
    named = [list(_leaves(item)) for item in items]
    common: dict[str, list[str]] = {}
    for place, value in (leaf for leaves in named for leaf in leaves):
        if isinstance(value, _File):
            folder = value.folders
            common[place] = _shared(common.get(place, folder), folder)
    digest = hashlib.sha256(f"{len(named)}".encode())
    for leaves in named:
        for place, value in leaves:
            text = value.below(common[place]) if isinstance(value, _File) else value
            digest.update(f"{place}={text}\n".encode())
        digest.update(b"\n")
    return digest.hexdigest()[:16]


class _File:
    """A path, or a string that may be one."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        *self.folders, self.name = os.fspath(path).replace("\\", "/").split("/")

    def below(self, common: Sequence[str]) -> str:
        return repr("/".join([*self.folders[len(common) :], self.name]))


def _shared(first: list[str], second: list[str]) -> list[str]:
    """What two lists begin with alike."""
    for i, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return first[:i]
    return first[: len(second)]


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Each entry of an item with the keys that lead to it, in the order of the keys; those of a list share a place."""
    if isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield from _leaves(value[key], f"{place}/{key}")
    elif isinstance(value, str | os.PathLike):
        yield place, _File(value)
    elif isinstance(value, Real):
        yield place, str(value)
    elif isinstance(value, torch.Tensor | np.ndarray):
        yield place, _array(value)
    elif isinstance(value, Sequence) and not isinstance(value, bytes):
        yield place, f"{len(value)} of"
        for entry in value:
            yield from _leaves(entry, place)
    else:
        yield place, type(value).__name__


def _array(value: torch.Tensor | np.ndarray[Any, Any]) -> str:
    text = f"{str(value.dtype).removeprefix('torch.')}{tuple(value.shape)}"
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biufc":  # objects and text
            return text
        value = torch.from_numpy(np.ascontiguousarray(value))
    if not 0 < value.numel() <= _WHOLE:
        return text
    plain = value.detach().cpu().contiguous().reshape(-1)
    return f"{text} {hashlib.sha256(plain.view(torch.uint8).numpy().tobytes()).hexdigest()}"
