"""The pictures and volumes of a folder, for inference."""

from __future__ import annotations

from pathlib import Path

from monai_amat.data.folder import files_by_name

__all__ = ["list_images", "list_volumes"]


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
    endings = (".bmp", ".jpeg", ".jpg", ".png")
    return [str(path) for path in files_by_name(folder, endings, one="image", many="images").values()]


def list_volumes(folder: str | Path) -> list[str]:
    """The NIfTI files of a folder, sorted by name; hidden ones, as the Decathlon's archives hold, are left out.

    Args:
        folder: the folder; those inside it are not looked into.

    Raises:
        FileNotFoundError: when there is no such folder, or no volume in it.
        ValueError: when two differ in their ending alone: their label maps would be one file.
    """
    endings = (".nii.gz", ".nii")
    return [str(path) for path in files_by_name(folder, endings, one="volume", many="NIfTI volumes").values()]
