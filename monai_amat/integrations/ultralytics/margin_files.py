"""Files with margins beside the checkpoints of ultralytics' trainer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_amat.changes import refuse_changed
from monai_amat.engines.checkpoint_file import load_checkpoint, save_checkpoint

__all__ = ["load_margins", "margin_file", "save_margins"]

_FORMAT = 1
_KEPT = 2


def margin_file(checkpoint: str | Path) -> Path:
    """Where the margins of a checkpoint are.

    Example:
        >>> margin_file("runs/weights/last.pt").as_posix()
        'runs/weights/last_margins.pt'
    """
    path = Path(checkpoint)
    return path.with_name(f"{path.stem}_margins.pt")


def save_margins(checkpoint: str | Path, epoch: int, state: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Write the state after an epoch, whole or not at all, and keep that after the one before.

    The checkpoint and this file cannot appear at once. This one is written first, so that after a kill it
    holds the margins of the checkpoint's epoch, whether that is the last epoch or the one before.

    Args:
        checkpoint: the checkpoint it belongs to.
        epoch: the epoch that ended, as the checkpoint counts it.
        state: plain tensors, numbers and containers of them.
        settings: what they were made under; another run's are refused when loading.
    """
    file = margin_file(checkpoint)
    before: dict[int, Any] = {}
    if epoch > 0 and file.is_file():
        before = {old: kept for old, kept in _read(file)["epochs"].items() if old < epoch}
    epochs = {old: before[old] for old in sorted(before)[1 - _KEPT :]} | {epoch: dict(state)}
    save_checkpoint({"format": _FORMAT, "settings": dict(settings), "epochs": epochs}, file)


def load_margins(checkpoint: str | Path, epoch: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The state that belongs to a checkpoint.

    Args:
        checkpoint: the checkpoint.
        epoch: the epoch it is of.
        settings: those of this run.

    Raises:
        FileNotFoundError: when there is no file of margins beside the checkpoint.
        ValueError: when the file is not a file of margins, holds other epochs, or was made under other settings.
    """
    file = margin_file(checkpoint)
    if not file.is_file():
        raise FileNotFoundError(
            f"{checkpoint} is to be resumed, but its margins, {file}, are missing; copy both files, or "
            "start anew from its weights"
        )
    content = _read(file)
    refuse_changed(file, content["settings"], settings, "go on with the same settings", error=ValueError)
    if epoch not in content["epochs"]:
        raise ValueError(
            f"{file} holds the margins after epochs {sorted(content['epochs'])}, but {checkpoint} is of epoch {epoch}; "
            "copy both files of one run"
        )
    found: dict[str, Any] = content["epochs"][epoch]
    return found


def _read(file: Path) -> dict[str, Any]:
    content = load_checkpoint(file)
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ValueError(
            f"{file} is not a file of margins of format {_FORMAT}; copy the one that was written with the checkpoint"
        )
    return content
