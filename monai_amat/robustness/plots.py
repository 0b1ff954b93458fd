"""The robustness curve: a metric against the noise level, one line per arm."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from monai_amat.robustness.figure import PALETTE, new_figure, save_figure
from monai_amat.robustness.summary import AVERAGE

__all__ = ["plot_curves"]

_MARKERS = "osD^vP*"
_STYLES = ("-", "--", ":")
_ROOM_INSIDE = 5  # arms whose legend has room in the axes
_TOLD_APART = 8  # arms whose shades can still be
_NAME_WIDTH = 40  # characters of a line of the legend
_SIZE = (6.4, 4.4)


def plot_curves(
    table: pd.DataFrame,
    path: str | Path,
    *,
    name: str | None = None,
    ylabel: str | None = None,
    xlabel: str = "noise level ε",
    rms: Mapping[float, float] | None = None,
) -> None:
    """Draw the curves of figures 2 to 4 of the paper, shaded by the interval; a note where there is no value at all.

    Args:
        table: of `compare`, or of `summarise` for one unnamed arm.
        path: `.png`, `.pdf` or `.svg` to write, whole or not at all.
        name: which figure of the table; the headline by default.
        ylabel: label of the figure; its name by default.
        xlabel: label of the noise level, with its norm and its unit.
        rms: root mean square of the noise per value by noise level, shown below the noise levels.

    Raises:
        ValueError: for a figure that the table does not have, or a file that ends in another format.
    """
    chosen = str(table["name"].iloc[0]) if name is None else name
    rows = table[(table["name"] == chosen) & (table["noise_level"] != AVERAGE)]
    if rows.empty:
        raise ValueError(f"the table holds no {chosen!r}; it holds {sorted(set(table['name']))}")
    figure = new_figure(*_SIZE)
    axes = figure.add_subplot()
    axes.set_xlabel(xlabel)
    axes.set_ylabel(chosen if ylabel is None else ylabel)
    axes.spines[["top", "right"]].set_visible(False)
    if rows["value"].isna().all():
        _say_undefined(axes)
    else:
        _draw(figure, axes, rows)
        if rms:
            levels = sorted(set(rows["noise_level"].astype(float)))
            below = [f"\n{rms[level]:.2g}" if level in rms else "" for level in levels]
            axes.set_xticks(levels, [f"{level:g}{text}" for level, text in zip(levels, below, strict=True)])
            axes.set_xlabel(f"{xlabel}\n(below ε: root mean square of the noise per value)")
    save_figure(figure, path)


def _draw(figure: Figure, axes: Axes, rows: pd.DataFrame) -> None:
    """One line per arm, with its interval and a legend."""
    arms = list(dict.fromkeys(rows["arm"])) if "arm" in rows.columns else [None]
    shaded = len(arms) <= _TOLD_APART and bool(rows["low"].notna().any())
    for i, arm in enumerate(arms):
        of_arm = rows if arm is None else rows[rows["arm"] == arm]
        x, y, low, high = (
            of_arm[column].to_numpy(dtype=np.float64) for column in ("noise_level", "value", "low", "high")
        )
        colour = PALETTE[i % len(PALETTE)]
        # Marker and dash change too: print and colour vision differ, and there may be more arms than colours.
        style = _STYLES[i // len(PALETTE) % len(_STYLES)]
        name = None if arm is None else textwrap.fill(str(arm), _NAME_WIDTH)
        axes.plot(x, y, color=colour, linestyle=style, marker=_MARKERS[i % len(_MARKERS)], markersize=5, label=name)
        if shaded:
            axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set_xticks(sorted(set(rows["noise_level"].astype(float))))
    if rows["value"].min() >= 0:
        axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    if len(arms) > _ROOM_INSIDE:
        _beside(figure)
    elif arms != [None]:
        axes.legend(frameon=False)
    if shaded:
        axes.set_title("shaded: bootstrap interval", loc="right", fontsize=8, color="0.4")


def _say_undefined(axes: Axes) -> None:
    """A note in place of lines: empty axes would leave open whether something is missing."""
    axes.text(0.5, 0.5, "undefined: no value at any noise level", transform=axes.transAxes, ha="center", va="center")
    axes.set_xticks([])
    axes.set_yticks([])


def _beside(figure: Figure) -> None:
    """A legend to the right of the axes, which keep their size however long the arms' names are."""
    legend = figure.legend(frameon=False, loc="outside right upper", fontsize=9)
    box = legend.get_window_extent(figure.canvas.get_renderer())  # type: ignore[attr-defined]  # Agg has one
    width, height = _SIZE
    figure.set_size_inches(width + box.width / figure.dpi, max(height, box.height / figure.dpi))
