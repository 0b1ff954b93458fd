"""Files that are the same, byte for byte."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path

__all__ = ["identical_files"]

_SAMPLE = 1 << 16


def identical_files(paths: Iterable[str | Path]) -> list[tuple[Path, ...]]:
    """Find groups of files that are identical, byte for byte.

    Files are compared by size, then by 64 KiB from the middle, and only files that agree in both are read whole: 400
    uncompressed radiographs of 14 MB each, all of one size, cost 26 MB of reading instead of 5.6 GB. The same picture
    in two encodings is not found.

    Args:
        paths: files; a file that is listed twice counts once.

    Returns:
        Groups of two or more files, each in the order of `paths`; groups in the order of their first members.

    Raises:
        OSError: if a file cannot be read.

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
    """Split one group by a key, and keep the parts with at least two members."""
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
