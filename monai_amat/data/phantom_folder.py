"""A folder of synthetic data, written completely or not at all, and never overwritten."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["write_phantom_folder"]


def write_phantom_folder(
    root: Path, marker: Mapping[str, Any], *, place: Sequence[str], files: Sequence[str], write: Callable[[Path], None]
) -> Path:
    """Write the files beside the target, then rename the folder; if it already holds this phantom, do nothing.

    Args:
        root: the folder to make.
        marker: the settings that determine every file.
        place: where `write` stores the marker: name of a JSON file in the folder, then the keys that lead to it.
        files: all files of the complete folder.
        write: fills an empty folder.

    Returns:
        `root`.

    Raises:
        FileExistsError: if `root` holds anything other than this phantom; it is not changed.

    Example:
        >>> import tempfile
        >>> def write(folder):
        ...     _ = (folder / "phantom.json").write_text('{"seed": 0}')
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     root = write_phantom_folder(
        ...         Path(parent, "new"), {"seed": 0}, place=["phantom.json"], files=["phantom.json"], write=write
        ...     )
        ...     sorted(path.name for path in root.iterdir())
        ['phantom.json']
    """
    if _is_complete(root, marker, place, files):
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, because a rename is atomic only within one file system.
    draft = root.parent / f".{root.name}.{uuid.uuid4().hex}"
    draft.mkdir()
    try:
        write(draft)
        try:
            draft.rename(root)
        except OSError:  # another process was faster; that is correct if it wrote the same files
            if not _is_complete(root, marker, place, files):
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return root


def _is_complete(root: Path, marker: Mapping[str, Any], place: Sequence[str], files: Sequence[str]) -> bool:
    """Whether `root` is this phantom; False if it is missing or empty, an error if it holds anything else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    advice = "choose another folder or remove this one"
    name, *keys = place
    try:
        found = json.loads((root / name).read_text(encoding="utf-8"))
        for key in keys:
            found = found[key]
    except (OSError, ValueError, KeyError, TypeError):
        raise FileExistsError(f"{root}: expected an empty folder or this phantom, got other files; {advice}") from None
    if found != marker:
        raise FileExistsError(f"{root}: expected a phantom with the settings {marker}, got one with {found}; {advice}")
    missing = [file for file in files if not (root / file).is_file()]
    if missing:
        raise FileExistsError(f"{root}: the phantom is incomplete, {missing[0]} is missing; {advice}")
    return True
