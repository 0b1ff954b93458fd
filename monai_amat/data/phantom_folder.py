"""A folder of synthetic data: whole or not there, and never written over."""

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
    """Make the folder in one move when it is complete; where it is this very phantom already nothing happens.

    Args:
        root: the folder to make.
        marker: the settings that decide every file.
        place: where `write` puts the marker: a JSON file in the folder, then the keys that lead to it.
        files: what the folder holds when it is complete.
        write: fills an empty folder.

    Returns:
        `root`.

    Raises:
        FileExistsError: `root` holds something other than this very phantom; it is left as it is.

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
    # Beside the target, since a rename is atomic within one file system only.
    draft = root.parent / f".{root.name}.{uuid.uuid4().hex}"
    draft.mkdir()
    try:
        write(draft)
        try:
            draft.rename(root)
        except OSError:  # another process was faster, which is as good if it wrote the same
            if not _is_complete(root, marker, place, files):
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return root


def _is_complete(root: Path, marker: Mapping[str, Any], place: Sequence[str], files: Sequence[str]) -> bool:
    """Whether `root` is this phantom; False where there is nothing, an error where there is something else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    advice = "choose another folder or remove this one"
    name, *keys = place
    try:
        found = json.loads((root / name).read_text(encoding="utf-8"))
        for key in keys:
            found = found[key]
    except (OSError, ValueError, KeyError, TypeError):
        raise FileExistsError(f"{root}: holds something that is not a phantom; {advice}.") from None
    if found != marker:
        raise FileExistsError(f"{root}: holds a phantom of other settings, {found}, not {marker}; {advice}.")
    missing = [file for file in files if not (root / file).is_file()]
    if missing:
        raise FileExistsError(f"{root}: holds this phantom but for {missing[0]}; {advice}.")
    return True
