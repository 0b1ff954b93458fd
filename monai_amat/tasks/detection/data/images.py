"""The pictures of a folder, for inference."""

from __future__ import annotations

from pathlib import Path

from monai_amat.data.folder import files_by_name
from monai_amat.data.pictures import ENDINGS

__all__ = ["list_images"]


def list_images(folder: str | Path) -> list[str]:
    """List the BMP, JPEG, PNG and TIFF files of a folder, sorted by name; hidden files are left out.

    Args:
        folder: the folder; folders inside it are not searched.

    Returns:
        Paths of the pictures.

    Raises:
        FileNotFoundError: if the folder does not exist or holds no picture.
        ValueError: if two files differ only in their ending, because their results would have one name.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("b.PNG", "a.jpg", "notes.txt"):
        ...         Path(folder, name).touch()
        ...     [Path(file).name for file in list_images(folder)]
        ['a.jpg', 'b.PNG']
    """
    found = files_by_name(folder, ENDINGS, one="image", many="images")
    return [str(path) for path in found.values()]
