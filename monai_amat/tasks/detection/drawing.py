"""Boxes drawn on the image that they were found in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from monai.utils import convert_to_tensor
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from monai_amat.files import whole_file
from monai_amat.robustness.figure import PALETTE

__all__ = ["class_colour", "draw_boxes"]


def class_colour(label: int) -> str:
    """The colour of a class, of `PALETTE`, as hexadecimal.

    Example:
        >>> class_colour(0) != class_colour(1)
        True
    """
    return PALETTE[label % len(PALETTE)]


def draw_boxes(
    image: Tensor | np.ndarray,
    boxes: Tensor | np.ndarray,
    labels: Tensor | np.ndarray,
    scores: Tensor | np.ndarray | None,
    path: str | Path,
    *,
    class_names: Sequence[str] | None = None,
) -> None:
    """Draw boxes on an image, pixel for pixel, each with its class and its score.

    Args:
        image: `(3, H, W)`, red, green and blue, or `(1, H, W)`, from 0 to 1.
        boxes: `(n, 4)`, x1 y1 x2 y2 in pixels of the image, such as
            `boxes_to_native` gives.
        labels: `(n,)`, classes from 0 on.
        scores: `(n,)`; None where there are none.
        path: `.png` to write, whole or not at all.
        class_names: names of the classes; their numbers by default.

    Raises:
        ValueError: for other shapes, a class without a name, or a file of another ending.
    """
    if Path(path).suffix.lower() != ".png":
        raise ValueError(f"the picture's file must end in .png, got {Path(path).name}")
    pixels, corners, classes = _numpy(image), _numpy(boxes), _numpy(labels).astype(int)
    if pixels.ndim != 3 or len(pixels) not in (1, 3):
        raise ValueError(f"expected an image (3, H, W) or (1, H, W), got {pixels.shape}")
    marks = None if scores is None else _numpy(scores)
    if corners.shape != (len(corners), 4) or classes.shape != (len(corners),):
        raise ValueError(f"expected boxes (n, 4) and labels (n,), got {corners.shape} and {classes.shape}")
    if marks is not None and marks.shape != classes.shape:
        raise ValueError(f"{len(corners)} boxes need as many scores, got {marks.shape}")
    if class_names is not None and any(not 0 <= label < len(class_names) for label in classes):
        raise ValueError(f"classes {sorted(set(classes.tolist()))} need names, got {list(class_names)}")
    bytes_ = (np.clip(np.broadcast_to(pixels, (3, *pixels.shape[1:])), 0, 1) * 255).round().astype(np.uint8)
    picture = Image.fromarray(np.ascontiguousarray(bytes_.transpose(1, 2, 0)))
    draw = ImageDraw.Draw(picture)
    unit = max(1, round(min(picture.size) / 240))
    font = ImageFont.load_default(size=max(8, 6 * unit))
    # The best last, so that it lies on top.
    for i in range(len(corners)) if marks is None else np.argsort(marks, kind="stable"):
        label = int(classes[i])
        x1, y1, x2, y2 = corners[i].tolist()
        # Pixel i reaches from i to i + 1, and Pillow includes the last one.
        last = max(x1, x2 - 1), max(y1, y2 - 1)
        draw.rectangle((x1, y1, *last), outline=class_colour(label), width=unit)
        text = str(label) if class_names is None else class_names[label]
        if marks is not None:
            text += f" {marks[i]:.2f}"
        place = (x1 + 2 * unit, y1 + unit)
        draw.rectangle(draw.textbbox(place, text, font=font), fill=class_colour(label))
        draw.text(place, text, fill="white", font=font)
    with whole_file(Path(path)) as stream:
        picture.save(stream, format="PNG")


def _numpy(values: Tensor | np.ndarray) -> np.ndarray:
    plain = convert_to_tensor(values, track_meta=False)
    return np.asarray(plain.detach().cpu().numpy(), dtype=np.float64)
