"""The NIfTI volumes of a folder, for inference."""

from __future__ import annotations

from pathlib import Path

from monai_amat.data.folder import files_by_name

__all__ = ["list_volumes"]


def list_volumes(folder: str | Path) -> list[str]:
    """List the NIfTI files of a folder, sorted by name.

    Hidden files are left out, as the Decathlon's archives hold some (`._name.nii.gz`).

    Args:
        folder: the folder; folders inside it are not searched.

    Returns:
        Paths of the `.nii` and `.nii.gz` files.

    Raises:
        FileNotFoundError: if the folder does not exist or holds no volume.
        ValueError: if two files differ only in their ending, because their label maps would be one file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("b.nii", "a.nii.gz", "notes.txt"):
        ...         Path(folder, name).touch()
        ...     [Path(file).name for file in list_volumes(folder)]
        ['a.nii.gz', 'b.nii']
    """
    found = files_by_name(folder, (".nii.gz", ".nii"), one="volume", many="NIfTI volumes")
    return [str(path) for path in found.values()]
