"""The volumes that inference still has to segment: all are checked first, and those of a broken run are kept."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from monai_amat.files import write_text_whole
from monai_amat.progress import track
from monai_amat.tasks.segmentation.data.volume import check_volume, load_volume

__all__ = ["InferenceRecord", "check_volumes", "pending_volumes", "prediction_file"]

_NAME = "inference.json"

logger = logging.getLogger(__name__)


def prediction_file(volume: str | Path, output_dir: str | Path) -> Path:
    """Path of the label map of a volume.

    Example:
        >>> prediction_file("/data/a.nii.gz", "/out").as_posix()
        '/out/a_pred.nii.gz'
    """
    name = Path(volume).name
    ending = next((ending for ending in (".nii.gz", ".nii") if name.lower().endswith(ending)), "")
    return Path(output_dir) / f"{name[: len(name) - len(ending)]}_pred.nii.gz"


def check_volumes(paths: Iterable[str | Path], *, channels: int, progress: bool = True) -> None:
    """Read all volumes, and refuse those that a network cannot segment, before work on any of them starts.

    Args:
        paths: the files.
        channels: number of input channels of the network.
        progress: show how many volumes are read.

    Raises:
        ValueError: naming up to three of the files, each with its reason, and the number of all.
    """
    listed = [Path(path) for path in paths]
    reasons = []
    for path in track(listed, title="check", units="volumes", show=progress):
        try:
            check_volume(load_volume(path), channels=channels)
        except (FileNotFoundError, ValueError) as error:
            reasons.append(str(error))
    if reasons:
        more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
        raise ValueError(f"{len(reasons)} of {len(listed)} volumes cannot be segmented: {'; '.join(reasons[:3])}{more}")


def pending_volumes(
    paths: Sequence[str | Path],
    *,
    channels: int,
    output_dir: str | Path,
    made_with: Any,
    progress: bool = True,
) -> list[str]:
    """Check all volumes, and list those that a broken run with the same settings has not segmented yet.

    A run that was complete, or that was made with another network or other settings, starts anew.

    Args:
        paths: the files.
        channels: number of input channels of the network.
        output_dir: folder of the label maps.
        made_with: what the predictions depend on, as JSON values: weights and settings.
        progress: show how many volumes are read.

    Returns:
        Paths of the volumes to segment.

    Raises:
        ValueError: if `check_volumes` refuses a volume.
    """
    check_volumes(paths, channels=channels, progress=progress)
    record = InferenceRecord(output_dir, made_with)
    done = record.done()
    left = [str(path) for path in paths if not record.holds(done, path)]
    if not left or len(left) == len(paths):
        record.clear()
        return [str(path) for path in paths]
    logger.warning(
        "%d of %d volumes were segmented by an earlier run into %s, with the same network and settings; going on "
        "with the "
        "others",
        *(len(paths) - len(left), len(paths), output_dir),
    )
    return left


class InferenceRecord:
    """Which volumes an unfinished run has segmented, in `inference.json` beside the label maps.

    Args:
        output_dir: folder of the label maps.
        made_with: what the predictions depend on, as JSON values; None keeps no record.
    """

    def __init__(self, output_dir: str | Path, made_with: Any) -> None:
        self.folder = Path(output_dir)
        text = json.dumps(made_with, sort_keys=True, default=str)
        self.made_with = None if made_with is None else hashlib.sha256(text.encode()).hexdigest()

    @property
    def file(self) -> Path:
        """Path of the record."""
        return self.folder / _NAME

    def done(self) -> dict[str, Any]:
        """Volumes that are segmented, by path; none where the record is missing, damaged or of other settings."""
        try:
            content = json.loads(self.file.read_text(encoding="utf-8"))
            volumes = content["volumes"] if content["made_with"] == self.made_with else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        return volumes if isinstance(volumes, dict) else {}

    def holds(self, done: dict[str, Any], volume: str | Path) -> bool:
        """Whether a volume is segmented, and neither it nor its label map has changed since."""
        prediction = prediction_file(volume, self.folder)
        try:
            return prediction.is_file() and done.get(_key(volume)) == _state(volume, prediction)
        except OSError:
            return False

    def add(self, volume: str | Path) -> None:
        """Note a volume whose label map is written."""
        if self.made_with is not None:
            state = _state(volume, prediction_file(volume, self.folder))
            content = {"made_with": self.made_with, "volumes": {**self.done(), _key(volume): state}}
            write_text_whole(self.file, json.dumps(content, indent=1) + "\n")

    def clear(self) -> None:
        """Begin anew."""
        self.file.unlink(missing_ok=True)


def _key(volume: str | Path) -> str:
    return str(Path(volume).resolve())


def _state(volume: str | Path, prediction: Path) -> list[int]:
    """Size and time of both files, by which a change is noticed."""
    return [value for path in (Path(volume), prediction) for value in (path.stat().st_size, path.stat().st_mtime_ns)]
