"""Segmentation bundles written from their settings."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import monai_amat
from monai_amat.files import write_text_whole
from monai_amat.templates.settings import SegmentationSettings

__all__ = ["segmentation_files", "write_bundle"]

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_WIDTH = 120
_PLACEHOLDER = r"\{\{(\w+)\}\}"


def write_bundle(settings: SegmentationSettings, folder: str | Path) -> Path:
    """Write a ready segmentation bundle.

    Args:
        settings: what it is for.
        folder: the bundle's folder, new or empty; where it holds this very bundle nothing happens.

    Returns:
        the folder.

    Raises:
        FileExistsError: when one of the files is there and says something else; nothing is written then.

    Example:
        >>> import tempfile
        >>> from monai_amat.templates.settings import paper_settings
        >>> root = write_bundle(paper_settings("heart"), Path(tempfile.mkdtemp()) / "heart_amat")
        >>> json.loads((root / "configs" / "train.json").read_text())["patch_size"]
        [320, 256]
    """
    root = Path(folder).expanduser()
    files = segmentation_files(settings)
    for name, text in files.items():
        file = root / name
        if file.exists() and file.read_bytes() != text.encode("utf-8"):
            raise FileExistsError(f"{file} is there and says something else; choose another bundle folder or remove it")
    for name, text in files.items():
        if not (root / name).exists():
            write_text_whole(root / name, text)
    return root


def segmentation_files(settings: SegmentationSettings) -> dict[str, str]:
    """The text of every file of a segmentation bundle, by its path in the bundle.

    The templates are files of this package, JSON but for `"{{name}}"` in place of a value.

    Raises:
        ValueError: naming the file, for a `{{name}}` that stands for nothing.
    """
    values = _values(settings)
    files = dict(_read(resources.files("monai_amat.templates") / "segmentation"))
    return {name: _fill(text, values, name) for name, text in sorted(files.items())}


def _read(folder: Traversable, place: str = "") -> list[tuple[str, str]]:
    found = []
    for entry in folder.iterdir():
        if entry.is_dir():
            found += _read(entry, f"{place}{entry.name}/")
        else:
            found.append((f"{place}{entry.name}", entry.read_text(encoding="utf-8")))
    return found


def _fill(text: str, values: Mapping[str, Any], file: str) -> str:
    def look_up(name: str) -> Any:
        if name not in values:
            raise ValueError(f"template {file} asks for {name}, which stands for nothing")
        return values[name]

    def fill(match: re.Match[str]) -> str:
        value = look_up(match[1] or match[2])
        if not file.endswith(".json"):
            return re.sub(_PLACEHOLDER, lambda _: str(value), match[0])
        if match[1] is None:
            return json.dumps(str(value), ensure_ascii=False)[1:-1]
        start = text.rfind("\n", 0, match.start()) + 1
        line = text[start : match.start()]
        return _json(value, len(line) - len(line.lstrip()), len(line))

    # In one go: braces within a value are none of the template's.
    return re.sub(f'"{_PLACEHOLDER}"|{_PLACEHOLDER}', fill, text)


def _json(value: Any, indent: int, used: int) -> str:
    """JSON as it stands in the templates: objects an entry a line, lists on one line where they fit."""
    line = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict) and used + len(line) < _WIDTH:
        return line
    return json.dumps(value, indent=4, ensure_ascii=False).replace("\n", "\n" + " " * indent)


def _values(settings: SegmentationSettings) -> dict[str, Any]:
    """What the templates can name."""
    own = {key: list(value) if isinstance(value, tuple) else value for key, value in vars(settings).items()}
    inputs, outputs = len(settings.channels), len(settings.classes) + 1
    names = ["background", *settings.classes]
    channels = settings.channels if inputs > 1 else ("image",)
    height, width = settings.largest
    pixels = height * width * inputs
    parts = settings.sections
    return {
        **own,
        "eval_size": "@patch_size" if settings.eval_size is None else list(settings.eval_size),
        "package_version": monai_amat.__version__,
        "in_channels": inputs,
        "num_classes": outputs,
        "title": f"Adversarially robust {settings.name} segmentation",
        "channel_def": {str(i): name for i, name in enumerate(channels)},
        # Within an expression MONAI reads @, % and # anywhere, also between quotation marks.
        "class_list": re.sub("[@%#]", lambda match: f"\\x{ord(match[0]):02x}", repr(list(settings.classes))),
        "class_def": {str(i): name for i, name in enumerate(names)},
        "image_text": f"{_count(inputs, 'channel')} of {' and '.join(settings.channels)}, z-scored over the volume",
        "label_text": "one channel: " + ", ".join(f"{i} {name}" for i, name in enumerate(names)),
        "pred_text": f"{_count(outputs, 'channel')}: {', '.join(names)} (logits)",
        # Of the text.
        "data_folder": Path(settings.dataset_dir).name,
        "sections": f"{len(parts.train)}/{len(parts.validation)}/{len(parts.test)}",
        "phantom_text": _phantom(settings),
        "size_text": f"{settings.patch_size[0]}×{settings.patch_size[1]}",
        "resampled_text": _resampled(settings.spacing),
        "noise_list": ", ".join(f"{level:g}" for level in settings.noise_levels),
        "strength_list": ", ".join(f"{level:g}" for level in settings.strength_levels),
        **{f"{key}_text": f"{own[key]:g}" for key in _NOISE},
        "slice_text": f"{pixels} values of a {height}×{width} slice{f' of {inputs} channels' if inputs > 1 else ''}",
        "noise_table": _noise_table(settings, pixels),
    }


_AS_IT_IS = "`--spacing '$None'`"
_NOISE = ("delta", "max_margin", "start_margin", "epsilon", "huge_radius", "dice_threshold")


def _phantom(settings: SegmentationSettings) -> str:
    """Options that make a phantom of this bundle's kind, or values that make the bundle one of the phantom's."""
    channels, classes = len(settings.channels), len(settings.classes)
    if channels <= 2 and classes <= 2:
        text = f"for this bundle with `--channels {channels} --classes {classes}`"
    else:
        text = "it wants `--in_channels 1 --num_classes 3` in the commands below"
    return text + (f", and {_AS_IT_IS} in the commands below" if settings.spacing is not None else "")


def _count(number: int, of: str) -> str:
    word = _NUMBERS[number] if number < len(_NUMBERS) else str(number)
    return f"{word} {of}{'' if number == 1 else 's'}"


def _resampled(spacing: Sequence[float] | None) -> str:
    if spacing is None:
        return "not resampled"
    return f"resampled to {spacing[0]:g}×{spacing[1]:g} mm in plane"


def _noise_table(settings: SegmentationSettings, values: int) -> str:
    rows = [("Δ", settings.delta), ("ε of SAT", settings.epsilon), ("cap of the margins", settings.max_margin)]
    rows += [("noise level", level) for level in settings.noise_levels if level]
    lines = [f"| {name} | {norm:g} | {norm / math.sqrt(values):.3f} |" for name, norm in rows]
    return "\n".join(["| | ε, L2 norm over a slice | root mean square a value |", "|---|---|---|", *lines])
