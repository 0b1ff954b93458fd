"""What segmentation bundles differ in."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from monai_amat.tasks.segmentation import Split, split_cases

__all__ = ["PAPER", "SegmentationSettings", "paper_settings"]

PAPER = ("hippocampus", "heart", "prostate")
"""The paper's three segmentation tasks."""


@dataclass(frozen=True, kw_only=True)
class SegmentationSettings:
    """Everything in which one segmentation bundle differs from another.

    Noise is an L2 norm over a slice, in standard deviations of its volume's grey values.

    Attributes:
        name: of the task, in texts: `hippocampus`.
        task: what the network does, in a sentence without a full stop.
        data_source: where the data come from.
        data_license: on which terms, in a sentence.
        dataset_dir: folder of the data set, unless another is given.
        cases: number of its training cases, for the size of the split.
        n_splits: folds of the split.
        modality: of the images, as the bundle's metadata name it.
        channels: names of the image channels.
        classes: names of the foreground classes, from label 1 on.
        patch_size: `(H, W)` of patches.
        eval_size: `(H, W)` of whole slices under attack; None for the patch size.
        poolings: halvings along H and W; None for what follows from the patch size.
        base_features: channels of the network at full resolution.
        max_features: the most at any resolution.
        spacing: in-plane spacing `(H, W)` in mm that slices are resampled to; None leaves them as they are.
        batch_size: patches per step.
        small_batch_size: the same for a CPU.
        max_epochs: epochs.
        iterations_per_epoch: steps per epoch.
        delta: Δ, first size and step of the margins.
        max_margin: their cap.
        start_margin: where those of `amat_balanced` begin.
        epsilon: of SAT.
        noise_levels: of the curve.
        strength_levels: at which the attack's strength is tried.
        huge_radius: noise that must leave nothing.
        dice_threshold: of `amat_path`: the mean Dice of the clean network.

    Raises:
        ValueError: for sizes, names or noise that no bundle can be written with.
    """

    name: str
    task: str
    data_source: str
    data_license: str = "See the documents of the data set."
    dataset_dir: str
    cases: int
    n_splits: int = 5
    modality: str
    channels: tuple[str, ...]
    classes: tuple[str, ...]
    patch_size: tuple[int, int]
    eval_size: tuple[int, int] | None = None
    poolings: tuple[int, int] | None = None
    base_features: int = 32
    max_features: int = 480
    spacing: tuple[float, float] | None = None
    batch_size: int
    small_batch_size: int
    max_epochs: int
    iterations_per_epoch: int
    delta: float
    max_margin: float
    start_margin: float
    epsilon: float
    noise_levels: tuple[float, ...]
    strength_levels: tuple[float, ...]
    huge_radius: float
    dice_threshold: float

    def __post_init__(self) -> None:
        if not self.name.strip() or not self.channels or not self.classes:
            raise ValueError(f"settings need a name, channels and classes, got {self!r}")
        for name in (*self.channels, *self.classes):
            if name.startswith(("@", "$", "%")):
                raise ValueError(
                    f"the name {name!r} of a channel or class begins with {name[0]}, which MONAI's configurations take "
                    "for more than text; name it otherwise"
                )
        for key in ("patch_size", "batch_size", "small_batch_size", "max_epochs", "iterations_per_epoch", "cases"):
            value = getattr(self, key)
            if min(value if isinstance(value, tuple) else (value,)) < 1:
                raise ValueError(f"{key} must be positive, got {value}")
        for key in ("delta", "max_margin", "start_margin", "epsilon", "huge_radius"):
            if not getattr(self, key) > 0:
                raise ValueError(f"{key} must be positive, got {getattr(self, key)}")
        if list(self.noise_levels) != sorted(set(self.noise_levels)) or self.noise_levels[:1] != (0.0,):
            raise ValueError(f"noise_levels must rise from 0, got {self.noise_levels}")

    @property
    def sections(self) -> Split:
        """Places of the cases of each section, of the first fold."""
        return split_cases([f"{i:06d}" for i in range(self.cases)], n_splits=self.n_splits)

    @property
    def largest(self) -> tuple[int, int]:
        """`(H, W)` of the images that are attacked."""
        return self.patch_size if self.eval_size is None else self.eval_size

    @classmethod
    def read(cls, path: str | Path) -> SegmentationSettings:
        """Read the settings from a JSON file, an object with one entry per attribute.

        Raises:
            FileNotFoundError: when there is no such file.
            ValueError: naming the file, for entries that are missing, unknown or of no use.
        """
        file = Path(path)
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no such settings file; {', '.join(PAPER)} are built in")
        return cls.parse(file.read_text(encoding="utf-8"), str(file))

    @classmethod
    def parse(cls, text: str, name: str) -> SegmentationSettings:
        """The same from the file's text.

        Args:
            text: the text.
            name: of the file, for messages.

        Raises:
            ValueError: as `read` does.
        """
        try:
            content = json.loads(text)
            if isinstance(content, dict) and content.pop("template", "segmentation") != "segmentation":
                raise ValueError("they are of another template")
            known = {field.name: field for field in dataclasses.fields(cls)}
            if not isinstance(content, dict) or content.keys() - known.keys():
                odd = sorted(content.keys() - known.keys()) if isinstance(content, dict) else type(content).__name__
                raise ValueError(f"expected an object with entries out of {', '.join(known)}, got {odd}")
            values: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value for key, value in content.items()
            }
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name}: not the settings of a segmentation bundle: {error}") from error

    def to_json(self) -> str:
        """The text that `read` understands."""
        values: dict[str, Any] = dataclasses.asdict(self)
        return json.dumps(values, indent=4, ensure_ascii=False) + "\n"


def paper_settings(task: str) -> SegmentationSettings:
    """The paper's settings of one of its tasks, which the bundle in `bundles/<task>_amat` is written from.

    Args:
        task: `hippocampus`, `heart` or `prostate`.

    Raises:
        ValueError: for another one.

    Example:
        >>> heart = paper_settings("heart")
        >>> heart.patch_size, heart.batch_size, heart.noise_levels
        ((320, 256), 40, (0.0, 5.0, 10.0, 15.0))
    """
    if task not in PAPER:
        raise ValueError(f"the paper's segmentation tasks are {', '.join(PAPER)}, not {task!r}")
    file = resources.files("monai_amat.templates") / "paper" / f"{task}.json"
    return SegmentationSettings.parse(file.read_text(encoding="utf-8"), f"{task}.json")
