"""What the placeholders of the templates stand for."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai_amat.markdown import markdown_table
from monai_amat.templates.settings import SegmentationSettings

__all__ = ["segmentation_values"]

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_AS_IT_IS = "`--spacing '$None'`"
_NOISE = ("delta", "max_margin", "start_margin", "epsilon", "huge_radius", "dice_threshold")


def segmentation_values(settings: SegmentationSettings) -> dict[str, Any]:
    """Value of each placeholder of the segmentation templates: settings, and what texts derive from them."""
    own = {key: list(value) if isinstance(value, tuple) else value for key, value in vars(settings).items()}
    inputs, outputs = len(settings.channels), len(settings.classes) + 1
    names = ["background", *settings.classes]
    channels = settings.channels if inputs > 1 else ("image",)
    height, width = settings.largest
    pixels = height * width * inputs
    parts = settings.sections
    return {
        **own,
        "inference_dir": f"{settings.dataset_dir}/imagesTs",
        "export_shape": f"(1, {inputs}, {settings.patch_size[0]}, {settings.patch_size[1]})",
        "alpha": 4,
        "threshold_k": 0.0,
        "eval_size": "@patch_size" if settings.eval_size is None else list(settings.eval_size),
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
        "strength_text": ", ".join(f"{level:g}" for level in settings.strength_levels),
        **{f"{key}_text": f"{own[key]:g}" for key in _NOISE},
        "slice_text": f"{pixels} values of a {height}×{width} slice{f' of {inputs} channels' if inputs > 1 else ''}",
        "noise_table": _noise_table(settings, pixels),
    }


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
    lines = [[name, f"{norm:g}", f"{norm / math.sqrt(values):.3f}"] for name, norm in rows]
    return markdown_table([["", "ε, L2 norm over a slice", "root mean square per value"], *lines])
