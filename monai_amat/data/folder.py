"""The files of a folder with given endings, for inference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

__all__ = ["files_by_name"]


def files_by_name(folder: str | Path, endings: Sequence[str], *, one: str, many: str) -> dict[str, Path]:
    """List the files of a folder that have one of the given endings, sorted by name; hidden files are left out.

    Results are written under the name of a file without its ending, so two files must not share that name.

    Args:
        folder: the folder; folders inside it are not searched.
        endings: in lower case; where one ending ends in another (`.nii.gz`, `.gz`) the longer comes first.
        one: word for one of the files in messages.
        many: word for several of the files in messages.

    Returns:
        The files by their names without the endings.

    Raises:
        FileNotFoundError: if the folder does not exist or holds no such file.
        ValueError: if two files differ only in their ending.

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
            raise ValueError(
                f"{path}: results are named after the file without its ending, and {found[name].name} has the same "
                "name; rename one of the two"
            )
        found[name] = path
    if not found:
        raise FileNotFoundError(f"{root} holds no {one}: no file that ends in {', '.join(endings)}")
    return found
