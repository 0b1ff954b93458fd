"""Figures without pyplot: no global state, no chosen backend, files whole or not at all."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from monai_amat.files import whole_file

__all__ = ["PALETTE", "NoiseWindow", "magnification", "new_figure", "row_name", "save_figure", "show_grey"]

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colours, distinct for any colour vision; yellow is left out, too faint for a line."""

# Metadata that would make the same figure another file on another day.
_DATES: dict[str, tuple[str, ...]] = {"png": (), "pdf": ("CreationDate",), "svg": ("Date",)}


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of `width` × `height` inches that draws itself off screen."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def row_name(arm: str) -> str:
    r"""An arm's name beside a row of pictures, in lines not longer than the picture's height.

    Example:
        >>> row_name("AMAT (delta=2.5, max_margin=12.5)")
        'AMAT (delta=2.5,\nmax_margin=12.5)'
    """
    return textwrap.fill(arm, width=22)


def save_figure(figure: Figure, path: str | Path, *, dpi: int = 150) -> None:
    """Write a figure, whole or not at all, in the format that the file's name ends in.

    Args:
        figure: the figure.
        path: file to write: `.png`, `.pdf` or `.svg`.
        dpi: dots per inch of a PNG, and of images within the others.

    Raises:
        ValueError: for another ending.
    """
    kind = Path(path).suffix.lower().removeprefix(".")
    if kind not in _DATES:
        raise ValueError(f"a figure's file must end in .png, .pdf or .svg, got {Path(path).name}")
    with whole_file(Path(path)) as stream:
        figure.savefig(stream, format=kind, dpi=dpi, metadata=dict.fromkeys(_DATES[kind]))


@dataclass(frozen=True)
class NoiseWindow:
    """What the rows of a picture share: a window of intensities, and how much noise is magnified to fill it.

    Args:
        low: darkest value of the clean images.
        high: brightest.
        half: half of the window, and of that of the noise.
        factor: of the noise.
    """

    low: float
    high: float
    half: float
    factor: float

    @classmethod
    def of(cls, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> NoiseWindow:
        """The window of clean and noisy images.

        Example:
            >>> NoiseWindow.of([(np.array([0.0, 4.0]), np.array([0.5, 4.0]))])
            NoiseWindow(low=0.0, high=4.0, half=2.0, factor=2.0)
        """
        low = min(float(np.min(clean)) for clean, _ in pairs)
        high = max(float(np.max(clean)) for clean, _ in pairs)
        half = max((high - low) / 2, 1e-6)
        return cls(
            low, high, half, magnification(max(float(np.abs(noisy - clean).max()) for clean, noisy in pairs), half)
        )


def magnification(largest: float, half: float) -> float:
    """The largest of 1, 2, 5, 10, … that keeps noise of size `largest` inside the window; 1 where none does."""
    if largest <= 0 or largest >= half:
        return 1.0
    room = half / largest
    power = 10.0 ** math.floor(math.log10(room))
    return max(step * power for step in (1, 2, 5) if step * power <= room)


def show_grey(axes: Axes, values: np.ndarray, low: float, high: float, title: str) -> None:
    """An image `(H, W)` in a window of intensities, without ticks."""
    axes.imshow(values, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
    axes.set_title(title, fontsize=9)
    axes.set_xticks([])
    axes.set_yticks([])
