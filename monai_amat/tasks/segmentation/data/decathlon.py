"""Folders of the Medical Segmentation Decathlon: content of `dataset.json`, split of the paper, checked volumes."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from sklearn.model_selection import KFold

from monai_amat.tasks.segmentation.data.volume import check_voxels, compare_grids, load_volume

__all__ = ["Case", "Decathlon", "Split", "check_case", "split"]


@dataclass(frozen=True)
class Case:
    """One training case of a Decathlon folder.

    Attributes:
        name: file name of the image without its NIfTI ending.
        image: path of the image volume.
        label: path of the label volume.
    """

    name: str
    image: Path
    label: Path


class Decathlon:
    """Content of the `dataset.json` of a Decathlon-style folder; all listed files must exist.

    Voxels are not read, so that a missing file is reported at once instead of after minutes of loading;
    `check_case` reads the voxels. Channels may be listed as `modality` (Decathlon) or `channel_names`
    (nnU-Net), labels as `{"1": "anterior"}` or `{"anterior": 1}`.

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
        self.cases = self._cases(content)
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
        if channels is None:
            raise ValueError(f"{self._file}: missing key 'modality' (or 'channel_names'), the names of the channels")
        if not isinstance(channels, dict) or set(channels) != {str(i) for i in range(len(channels))} or not channels:
            raise ValueError(
                f"{self._file}: the channels must be an object with the keys '0', '1', ..., got {channels!r}"
            )
        return tuple(str(channels[str(i)]) for i in range(len(channels)))

    def _labels(self, content: dict[str, Any]) -> dict[int, str]:
        if "labels" not in content:
            raise ValueError(f"{self._file}: missing key 'labels', the names of the classes")
        labels = content["labels"]
        try:
            if all(isinstance(value, int) for value in labels.values()):  # the order of nnU-Net: name first
                by_value = {value: name for name, value in labels.items()}
            else:
                by_value = {int(value): str(name) for value, name in labels.items()}
        except (AttributeError, ValueError, TypeError):
            by_value = {}
        if len(by_value) < 2 or len(by_value) != len(labels) or set(by_value) != set(range(len(by_value))):
            raise ValueError(
                f"{self._file}: 'labels' must name the values 0 (background), 1, ... without a gap, got {labels!r}"
            )
        for value, name in by_value.items():
            if str(name).strip().lower() == "ignore":
                raise ValueError(
                    f"{self._file}: label {value} is 'ignore', which nnU-Net uses for voxels without annotation, but "
                    "here every voxel is trained on and scored; annotate these voxels or leave out their cases, and "
                    "remove the label from 'labels'"
                )
        return dict(sorted(by_value.items()))

    def _cases(self, content: dict[str, Any]) -> tuple[Case, ...]:
        if "training" not in content:
            raise ValueError(f"{self._file}: missing key 'training', the list of images and labels")
        entries = content["training"]
        if not isinstance(entries, list) or not entries:
            raise ValueError(f"{self._file}: 'training' must be a list with at least one case, got {entries!r}")
        cases = sorted((self._case(entry) for entry in entries), key=lambda case: case.name)
        repeated = [name for name, count in Counter(case.name for case in cases).items() if count > 1]
        if repeated:
            raise ValueError(f"{self._file}: 'training' lists {repeated[0]!r} more than once; names must be unique")
        return tuple(cases)

    def _case(self, entry: object) -> Case:
        paths = {}
        for key in ("image", "label"):
            if not isinstance(entry, dict) or not isinstance(entry.get(key), str):
                raise ValueError(
                    f"{self._file}: each entry of 'training' needs an 'image' and a 'label', got {entry!r} without "
                    f"{key}"
                )
            paths[key] = self.root / entry[key]
            if paths[key].name.startswith("._"):
                raise ValueError(
                    f"{self._file}: expected volumes in 'training', got {entry[key]}, which macOS adds to archives "
                    "(AppleDouble) and which is not a volume; remove the entry"
                )
        name = paths["image"].name.removesuffix(".gz").removesuffix(".nii")
        for key, path in paths.items():
            if not path.is_file():
                raise FileNotFoundError(
                    f"{path}: no such file, but {self._file} lists it as the {key} of case {name!r}; restore the "
                    "file or remove the case from the list"
                )
        return Case(name, paths["image"], paths["label"])


@dataclass(frozen=True)
class Split:
    """Case names of the three sections.

    Attributes:
        train: training cases.
        validation: first third of the held-out fold.
        test: the other cases of the held-out fold.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


def split(names: Sequence[str], fold: int = 0, n_splits: int = 5, seed: int = 12345) -> Split:
    """Split case names as the paper does.

    This is the shuffled k-fold split of nnU-Net over the sorted names; the held-out fold is cut at `len // 3` into
    validation and test: 20 names give 16/1/3, 260 give 208/17/35 (Heart and Hippocampus in the paper).

    Args:
        names: case names, in any order.
        fold: number of the held-out fold, from 0 to `n_splits - 1`.
        n_splits: number of folds.
        seed: seed of the shuffling.

    Returns:
        The names of each section, sorted.

    Raises:
        ValueError: if names repeat, the fold does not exist, or a section would be empty.

    Example:
        >>> parts = split([f"case_{i:02d}" for i in range(20)])
        >>> len(parts.train), len(parts.validation), len(parts.test)
        (16, 1, 3)
    """
    ordered = sorted(names)
    if len(set(ordered)) != len(ordered):
        raise ValueError(f"case names must be unique, got {len(ordered)} names of which {len(set(ordered))} differ")
    if n_splits < 2 or not 0 <= fold < n_splits:
        raise ValueError(f"fold must be in 0 ... n_splits - 1 with n_splits >= 2, got fold {fold} of {n_splits}")
    # At least three held-out cases, so that their first third is not empty; KFold makes the first folds larger.
    if len(ordered) // n_splits + (fold < len(ordered) % n_splits) < 3:
        advice = f"or at most n_splits={len(ordered) // 3}" if len(ordered) >= 6 else "or at least 6 and n_splits=2"
        raise ValueError(
            f"the held-out fold must hold at least 3 cases, one for validation and two for test, got {len(ordered)} "
            f"cases in {n_splits} folds; use at least {3 * n_splits} cases, {advice}"
        )
    train, held_out = list(KFold(n_splits, shuffle=True, random_state=seed).split(ordered))[fold]
    held = [ordered[i] for i in held_out]
    cut = len(held) // 3
    return Split(tuple(ordered[i] for i in train), tuple(held[:cut]), tuple(held[cut:]))


def check_case(case: Case, *, num_classes: int, channels: int) -> tuple[MetaTensor, MetaTensor]:
    """Load one case and refuse whatever would fail or mislead in training.

    Args:
        case: the case to load.
        num_classes: number of classes, background included; label values must be integers below it.
        channels: number of channels the image must have.

    Returns:
        Image `(channels, x, y, z)` and label `(1, x, y, z)`, both float32, in the axis order of the files.

    Raises:
        ValueError: naming the file, if it cannot be read; if the image has another number of channels, a NaN or
            infinite voxel, or a constant channel (which cannot be z-scored); if the label has another shape, other axes
            or spacings, or a value outside the classes.

    Example:
        >>> import tempfile
        >>> from monai_amat.tasks.segmentation.phantom import write_phantom
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     data = Decathlon(write_phantom(f"{folder}/phantom", volumes=1, shape=(12, 16, 12)))
        ...     image, label = check_case(data.cases[0], num_classes=3, channels=1)
        >>> image.shape[0], image.shape[1:] == label.shape[1:]
        (1, True)
    """
    image, label = load_volume(case.image), load_volume(case.label)
    if image.shape[0] != channels:
        raise ValueError(f"{case.image}: expected {channels} channel(s), got {image.shape[0]}")
    if label.shape != (1, *image.shape[1:]):
        raise ValueError(
            f"{case.label}: label and image must have one shape, got {tuple(label.shape[1:])} for the label, "
            f"{tuple(image.shape[1:])} for {case.image.name}"
        )
    check_voxels(image, case.image)
    valid = (label >= 0) & (label < num_classes) & (label == label.round())  # false for NaN as well
    if not bool(valid.all()):
        raise ValueError(
            f"{case.label}: label values must be integers from 0 to {num_classes - 1} (the classes of dataset.json), "
            f"got {torch.unique(label[~valid])[:5].tolist()}"
        )
    compare_grids(case.image, case.label)
    return image, label
