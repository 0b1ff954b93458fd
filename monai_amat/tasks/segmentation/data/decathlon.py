"""Folders of the Medical Segmentation Decathlon: the content of `dataset.json`."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from monai_amat.tasks.segmentation.data.listed_cases import training_cases

__all__ = ["Decathlon"]


class Decathlon:
    """Content of the `dataset.json` of a Decathlon-style folder; all listed files must exist.

    Voxels are not read, so that a missing file is reported at once instead of after minutes of loading;
    `check_case` reads the voxels. Channels may be listed as `modality` (Decathlon) or `channel_names` (nnU-Net), labels
    as `{"1": "anterior"}` or `{"anterior": 1}`, and cases as described in `training_cases`.

    Args:
        root: folder that holds `dataset.json` and the files it lists.

    Attributes:
        root: the folder.
        channels: names of the image channels, in order.
        labels: names of the classes by label value, `0` (background) included.
        cases: the training cases, sorted by name.

    Raises:
        FileNotFoundError: if the folder, `dataset.json`, or a listed image or label does not exist.
        ValueError: if `dataset.json` is not valid JSON, lacks a key, or has an unusable value.

    Example:
        >>> import tempfile
        >>> from monai_amat.tasks.segmentation.phantom import write_phantom
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     data = Decathlon(write_phantom(f"{folder}/phantom", volumes=2, shape=(12, 16, 12)))
        >>> [case.name for case in data.cases], data.num_channels, data.num_classes
        (['phantom_000', 'phantom_001'], 1, 3)
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self._file = self.root / "dataset.json"
        content = self._read()
        self.channels = self._channels(content)
        self.labels = self._labels(content)
        self.cases = training_cases(self._file, content, self.num_channels)
        listed = content.get("numTraining", len(self.cases))
        if listed != len(self.cases):
            warnings.warn(
                f"{self._file}: 'numTraining' is {listed!r}, but there are {len(self.cases)} training cases; all of "
                "them are used",
                stacklevel=2,
            )

    @property
    def num_channels(self) -> int:
        """Number of image channels."""
        return len(self.channels)

    @property
    def num_classes(self) -> int:
        """Number of classes, background included."""
        return len(self.labels)

    def _read(self) -> dict[str, Any]:
        if not self.root.is_dir():
            raise FileNotFoundError(f"{self.root}: no such folder; expected a Decathlon folder with dataset.json in it")
        if not self._file.is_file():
            raise FileNotFoundError(
                f"{self._file}: not found; expected the Decathlon layout (dataset.json, imagesTr/, labelsTr/)"
            )
        try:
            content = json.loads(self._file.read_text(encoding="utf-8-sig"))  # Windows writes a byte-order mark
        except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
            raise ValueError(f"{self._file}: not valid JSON: {error}") from error
        if not isinstance(content, dict):
            raise ValueError(f"{self._file}: expected a JSON object, got {type(content).__name__}")
        return content

    def _channels(self, content: dict[str, Any]) -> tuple[str, ...]:
        channels = content.get("modality", content.get("channel_names"))
        if isinstance(channels, list):
            channels = {str(i): name for i, name in enumerate(channels)}
        if channels is None:
            raise ValueError(f"{self._file}: missing key 'modality' (or 'channel_names'), the names of the channels")
        if not isinstance(channels, dict) or set(channels) != {str(i) for i in range(len(channels))} or not channels:
            raise ValueError(
                f"{self._file}: the channels must be an object with the keys '0', '1', ..., got {repr(channels)[:200]}"
            )
        return tuple(str(channels[str(i)]) for i in range(len(channels)))

    def _labels(self, content: dict[str, Any]) -> dict[int, str]:
        if "labels" not in content:
            raise ValueError(f"{self._file}: missing key 'labels', the names of the classes")
        labels = content["labels"]
        if isinstance(labels, list):
            labels = {str(i): name for i, name in enumerate(labels)}
        try:
            if all(isinstance(value, int) for value in labels.values()):  # the order of nnU-Net: name first
                by_value = {value: name for name, value in labels.items()}
            else:
                by_value = {int(value): str(name) for value, name in labels.items()}
        except (AttributeError, ValueError, TypeError):
            by_value = {}
        if len(by_value) < 2 or len(by_value) != len(labels) or set(by_value) != set(range(len(by_value))):
            raise ValueError(
                f"{self._file}: 'labels' must name the values 0 (background), 1, ... without a gap, got "
                f"{repr(labels)[:200]}"
            )
        for value, name in by_value.items():
            if str(name).strip().lower() == "ignore":
                raise ValueError(
                    f"{self._file}: label {value} is 'ignore', which nnU-Net uses for voxels without annotation, but "
                    "here every voxel is trained on and scored; annotate these voxels or leave out their cases, and "
                    "remove the label from 'labels'"
                )
        return dict(sorted(by_value.items()))
