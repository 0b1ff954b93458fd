"""Margins over the epochs, and at the end by group of samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from monai_amat.robustness.figure import PALETTE, new_figure, save_figure

__all__ = ["TrainedMargins", "plot_margins"]

_BINS = range(24, 48)


@dataclass(frozen=True)
class TrainedMargins:
    """The margins of one training, over the epochs and at the end.

    Args:
        history: one row per epoch, as `MarginStatsHandler` writes them.
        values: `(n,)` margins at the end, in the units of the image.
        groups: one name per sample, for example its classes present.

    Raises:
        ValueError: when there are not as many names as margins, or the history lacks what is drawn.
    """

    history: pd.DataFrame
    values: Tensor
    groups: Sequence[str]

    def __post_init__(self) -> None:
        if len(self.values) != len(self.groups):
            raise ValueError(f"{len(self.values)} margins need as many group names, got {len(self.groups)}")
        if missing := sorted({"epoch", "q05", "q25", "q50", "q75", "q95"} - set(self.history.columns)):
            raise ValueError(f"the history of margins has no columns {missing}; MarginStatsHandler writes them")


def plot_margins(
    arms: Mapping[str, TrainedMargins], path: str | Path, *, xlabel: str = "margin E(i), in the units of the image"
) -> None:
    """One row per arm: median, quartiles and 90 % of margins by epoch with each group's mean; the last ones by group.

    Args:
        arms: trained margins by arm.
        path: `.png`, `.pdf` or `.svg` to write, whole or not at all.
        xlabel: what a margin is, with its norm and its unit.

    Raises:
        ValueError: for no arm.
    """
    if not arms:
        raise ValueError("no arm with margins to draw")
    names = sorted({name for arm in arms.values() for name in arm.groups})
    colours = {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(names)}
    top = max(float(arm.values.max()) for arm in arms.values()) or 1.0
    figure = new_figure(9.0, 2.6 * len(arms) + 0.6)
    axes = figure.subplots(len(arms), 2, squeeze=False, sharex="col")
    edges = _edges(np.concatenate([arm.values.numpy() for arm in arms.values()]), top)
    for (left, right), (label, arm) in zip(axes, arms.items(), strict=True):
        history, epochs = arm.history, arm.history["epoch"]
        left.fill_between(epochs, history["q05"], history["q95"], color="0.88", linewidth=0, label="90 % of samples")
        left.fill_between(epochs, history["q25"], history["q75"], color="0.74", linewidth=0, label="half of them")
        left.plot(epochs, history["q50"], color="0.2", linewidth=1.5, label="median")
        members = {name: np.array([group == name for group in arm.groups]) for name in names}
        for name in names:
            if (column := f"mean[{name}]") in history:
                left.plot(epochs, history[column], color=colours[name], linestyle="--", label=f"mean, {name}")
        left.set_ylim(0.0, top * 1.05)
        left.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        left.set_title(label, loc="left", fontsize=10)
        left.set_ylabel("margin")
        stacks = [arm.values.numpy()[members[name]] for name in names]
        right.hist(stacks, bins=edges, stacked=True, color=[colours[name] for name in names], label=names)
        right.set_ylabel("samples")
        for panel in (left, right):
            panel.spines[["top", "right"]].set_visible(False)
    axes[-1, 0].set_xlabel("epoch")
    axes[-1, 1].set_xlabel(xlabel)
    axes[0, 0].legend(frameon=False, fontsize=7, loc="upper left")
    axes[0, 1].legend(frameon=False, fontsize=8, title="at the end", title_fontsize=8)
    save_figure(figure, path)


def _edges(values: np.ndarray, top: float) -> np.ndarray:
    """Bins about multiples of one width, up to `top`, so many that margins are as near to their middles as can be.

    Most margins are multiples of Δ: a bar is to stand on both sides of its margin, not beside it.
    """

    def off_centre(bins: int) -> float:
        places = values / top * bins
        return round(float(np.abs(places - np.round(places)).mean()), 5)

    bins = min(_BINS, key=off_centre)
    edges: np.ndarray = (np.arange(bins + 2) - 0.5) * top / bins
    return edges
