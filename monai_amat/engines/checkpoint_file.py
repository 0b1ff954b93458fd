"""Checkpoint files: written whole with a digest, read without running code, refused by name where they are damaged."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monai_amat.files import whole_file

__all__ = ["load_checkpoint", "save_checkpoint"]

_DIGEST = "digest"


def save_checkpoint(content: Mapping[str, Any], path: str | Path) -> None:
    """Write a checkpoint whole or not at all, with a digest of what it holds under `"digest"`.

    Args:
        content: tensors, numbers, strings and plain containers of them, by name.
        path: file to write.

    Raises:
        OSError: naming the file, when it cannot be written.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "a.pt"
        >>> save_checkpoint({"weight": torch.ones(2)}, file)
        >>> load_checkpoint(file)
        {'weight': tensor([1., 1.])}
    """
    with whole_file(Path(path)) as stream:
        torch.save({**content, _DIGEST: _digest(content)}, stream)


def load_checkpoint(path: str | Path) -> Any:
    """Read a file that `torch.save` wrote, without running code, and check that it is what was written.

    The checksums of the archive are checked, and the digest where the file has one, so that a single flipped byte is
    found.

    Args:
        path: the file.

    Returns:
        what the file holds, on the CPU, without the digest.

    Raises:
        OSError: when there is no such file, or reading it is not allowed.
        ValueError: when it is not a checkpoint, is damaged or cut short.
    """
    path = Path(path)
    with path.open("rb"):  # a file that is missing or must not be read says so by its own error
        pass
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        damaged = _damaged_record(path)
    except Exception as error:  # a damaged file can fail in any way
        raise ValueError(f"{path} is not a checkpoint that loads with weights_only=True ({_reason(error)})") from error
    if damaged is None and isinstance(content, dict) and isinstance(content.get(_DIGEST), str):
        kept = content.pop(_DIGEST)
        damaged = None if kept == _digest(content) else "its content"
    if damaged is not None:
        raise ValueError(
            f"{path} is damaged: the checksum of {damaged} does not fit; take another copy or an earlier checkpoint"
        )
    return content


def _damaged_record(path: Path) -> str | None:
    """The first record of the archive whose checksum does not fit; None where all fit or the file is no archive."""
    if not zipfile.is_zipfile(path):  # the form of old versions of torch, which has no checksums
        return None
    with zipfile.ZipFile(path) as archive:
        return archive.testzip()


def _reason(error: Exception) -> str:
    # The text of torch is long, and advises to load without that precaution.
    lines = str(error).rpartition("WeightsUnpickler error: ")[2].strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0].partition('. ')[0]}"


def _digest(content: Any) -> str:
    digest = hashlib.sha256()
    _feed(digest, content)
    return digest.hexdigest()


def _feed(digest: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        plain = value.detach().cpu().contiguous()
        digest.update(f"tensor {plain.dtype} {tuple(plain.shape)} ".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    elif isinstance(value, Mapping):
        digest.update(f"mapping {len(value)} ".encode())
        for key, entry in value.items():
            digest.update(f"{key!r} ".encode())
            _feed(digest, entry)
    elif isinstance(value, list | tuple):
        digest.update(f"sequence {len(value)} ".encode())
        for entry in value:
            _feed(digest, entry)
    else:
        digest.update(f"{value!r} ".encode())
