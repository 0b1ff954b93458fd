"""The files of a folder, for inference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

__all__ = ["files_by_name"]


def files_by_name(folder: str | Path, endings: Sequence[str], *, one: str, many: str) -> dict[str, Path]:
    """The files of a folder that end in a certain way, sorted by name; hidden ones are left out.

    What is found in a file is written under its name without the ending, so no two may share it.

    Args:
        folder: the folder; those inside it are not looked into.
        endings: in small letters; of one that ends another the longer goes first.
        one: what an error calls one of the files.
        many: what it calls several.

    Returns:
        The files by their names without the endings.

    Raises:
        FileNotFoundError: when there is no such folder, or no such file in it.
        ValueError: when two differ in their ending alone.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("b.PNG", "a.jpg", "notes.txt"):
        ...         Path(folder, name).touch()
        ...     [*files_by_name(folder, (".jpg", ".png"), one="image", many="images")]
        ['a', 'b']
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}; give the folder of {many} as --dataset_dir")
    found: dict[str, Path] = {}
    for path in sorted(root.iterdir()):
        ending = next((ending for ending in endings if path.name.lower().endswith(ending)), None)
        if ending is None or path.name.startswith(".") or not path.is_file():
            continue
        name = path.name[: -len(ending)]
        if name in found:
            raise ValueError(f"{path}: results go by the name, which {found[name].name} has too; rename one of both.")
        found[name] = path
    if not found:
        raise FileNotFoundError(f"{root} holds no {one}: no file that ends in {', '.join(endings)}")
    return found
