"""The pictures of a folder, for inference."""

from __future__ import annotations

from pathlib import Path

__all__ = ["list_images"]

_ENDINGS = (".bmp", ".jpeg", ".jpg", ".png")


def list_images(folder: str | Path) -> list[str]:
    """The BMP, JPEG and PNG files of a folder, sorted by name; hidden ones are left out.

    Args:
        folder: the folder; those inside it are not looked into.

    Raises:
        FileNotFoundError: when there is no such folder, or no picture in it.
        ValueError: when two differ in their ending alone: what is found in them is written under one name.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("b.PNG", "a.jpg", "notes.txt"):
        ...         Path(folder, name).touch()
        ...     [Path(file).name for file in list_images(folder)]
        ['a.jpg', 'b.PNG']
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}; give the folder of images as --dataset_dir")
    files = sorted(path for path in root.iterdir() if path.suffix.lower() in _ENDINGS and path.is_file())
    files = [path for path in files if not path.name.startswith(".")]
    if not files:
        raise FileNotFoundError(f"{root} holds no image ({', '.join(_ENDINGS)})")
    first: dict[str, Path] = {}
    for path in files:
        if path.stem in first:
            raise ValueError(f"{first[path.stem]} and {path.name} would write to the same files; rename one")
        first[path.stem] = path
    return [str(path) for path in files]
