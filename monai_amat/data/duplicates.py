"""Files that are the same, byte for byte."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path

__all__ = ["identical_files"]

_SAMPLE = 1 << 16


def identical_files(paths: Iterable[str | Path]) -> list[tuple[Path, ...]]:
    """Groups of files that are identical, byte for byte.

    Only files of one size are looked into, of these 64 KiB from the middle, and only where these agree is a file read
    whole: 400 uncompressed radiographs of 14 MB each, all of one size, cost 26 MB of reading and not 5.6 GB. The same
    picture in two encodings is not found.

    Args:
        paths: files; one that is named twice counts once.

    Returns:
        Groups of two and more, each in the order of `paths`, the groups in the order of their first members.

    Raises:
        OSError: a file cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name, text in (("a", "one"), ("b", "two"), ("c", "one")):
        ...         _ = Path(folder, name).write_text(text)
        ...     groups = identical_files(sorted(Path(folder).iterdir()))
        >>> [[path.name for path in group] for group in groups]
        [['a', 'c']]
    """
    order = list(dict.fromkeys(Path(path) for path in paths))
    groups = [order]
    for key in (_size, _middle, _whole):
        groups = [part for group in groups for part in _apart(group, key)]
    place = {path: i for i, path in enumerate(order)}
    return sorted((tuple(group) for group in groups), key=lambda group: place[group[0]])


def _apart(paths: list[Path], key: Callable[[Path], Hashable]) -> list[list[Path]]:
    """Members of one group that share a key, where there are at least two."""
    parts: dict[Hashable, list[Path]] = defaultdict(list)
    for path in paths:
        parts[key(path)].append(path)
    return [part for part in parts.values() if len(part) > 1]


def _size(path: Path) -> int:
    return path.stat().st_size


def _middle(path: Path) -> bytes:
    with path.open("rb") as stream:
        stream.seek(max(0, _size(path) - _SAMPLE) // 2)
        return hashlib.sha256(stream.read(_SAMPLE)).digest()


def _whole(path: Path) -> bytes:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()
