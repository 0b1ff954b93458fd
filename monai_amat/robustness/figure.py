"""Figures without pyplot: no global state, no chosen backend, files whole or not at all."""

from __future__ import annotations

import textwrap
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from monai_amat.files import whole_file

__all__ = ["PALETTE", "new_figure", "row_name", "save_figure"]

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colours, told apart with any colour vision; yellow is left out, too faint for a line."""


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of ``width`` × ``height`` inches that draws itself off screen."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def row_name(arm: str) -> str:
    r"""An arm's name beside a row of pictures, in lines that are no longer than a picture is high.

    Example:
        >>> row_name("AMAT (delta=2.5, max_margin=12.5)")
        'AMAT (delta=2.5,\nmax_margin=12.5)'
    """
    return textwrap.fill(arm, width=22)


def save_figure(figure: Figure, path: Path, *, dpi: int = 150) -> None:
    """Write a PNG, whole or not at all."""
    with whole_file(Path(path)) as stream:
        figure.savefig(stream, format="png", dpi=dpi)
