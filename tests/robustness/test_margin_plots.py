"""The picture of margins: every group in its colour, in proportion to its samples."""

from __future__ import annotations

from pathlib import Path

import matplotlib.colors
import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from monai_amat.robustness import TrainedMargins, plot_margins
from monai_amat.robustness.figure import PALETTE


def margins(large: int = 300, small: int = 100) -> TrainedMargins:
    epochs = np.arange(1, 6)
    history = pd.DataFrame(
        {"epoch": epochs, **{q: epochs * i for i, q in enumerate(("q05", "q25", "q50", "q75", "q95"))}}
    )
    history["mean[none]"], history["mean[both]"] = 2.5, epochs * 2.0
    values = torch.cat([torch.full((small,), 2.5), torch.linspace(5.0, 15.0, large)])
    return TrainedMargins(history, values, ["none"] * small + ["both"] * large)


def pixels(image: np.ndarray, colour: str) -> int:
    wanted = np.array(matplotlib.colors.to_rgb(colour))
    return int((np.abs(image[..., :3] - wanted).max(axis=2) < 0.02).sum())


def test_the_area_of_a_group_is_its_share_of_samples(tmp_path: Path) -> None:
    plot_margins({"AMAT": margins()}, tmp_path / "few.png")
    plot_margins({"AMAT": margins(large=300, small=300)}, tmp_path / "many.png")
    shares = []
    for name in ("few", "many"):
        image = matplotlib.image.imread(tmp_path / f"{name}.png")
        right = image[:, image.shape[1] // 2 :]
        both, none = pixels(right, PALETTE[0]), pixels(right, PALETTE[1])
        shares.append(none / (both + none))
    assert shares == pytest.approx([0.25, 0.5], abs=0.05)


def drawn(monkeypatch: pytest.MonkeyPatch, *arms: TrainedMargins) -> list[Axes]:
    """The axes as they would be saved, by row, left and right."""
    figures: list[Figure] = []
    monkeypatch.setattr("monai_amat.robustness.margin_plots.save_figure", lambda figure, path: figures.append(figure))
    plot_margins({f"arm {i}": arm for i, arm in enumerate(arms)}, "margins.png")
    return figures[0].axes


def bars(axes: Axes) -> dict[float, float]:
    """Height by centre of the bars that are there."""
    found = [patch for patch in axes.patches if isinstance(patch, Rectangle) and patch.get_height()]
    return {round(bar.get_x() + bar.get_width() / 2, 5): bar.get_height() for bar in found}


@pytest.mark.parametrize(
    "values",
    [
        {1.5: 3.0, 3.0: 2.0},
        {0.5: 1.0, 1.5: 3.0, 2.0: 4.0},
        {2.5: 2.0, 7.5: 1.0, 12.5: 5.0},
        {1.0: 1.0, 1.4: 2.0, 2.7: 3.0},
        {2.5: 3.0},
        {0.0: 3.0},
    ],
)
def test_a_bar_stands_in_the_middle_over_its_margin(
    monkeypatch: pytest.MonkeyPatch, values: dict[float, float]
) -> None:
    margins_at_end = torch.tensor([value for value, count in values.items() for _ in range(int(count))])
    noise = 1 + 1e-7 * torch.linspace(-1, 1, len(margins_at_end))  # a margin is a norm, rounded in its seventh digit
    arm = TrainedMargins(margins().history, margins_at_end * noise, ["all"] * len(margins_at_end))
    assert bars(drawn(monkeypatch, arm)[1]) == pytest.approx(values)


def test_epochs_are_whole_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    for epochs in (1, 2, 3, 12, 100):
        few = margins()
        history = few.history.iloc[[0] * epochs].assign(epoch=np.arange(1, epochs + 1))
        arm = TrainedMargins(history, few.values, few.groups)
        for axes in drawn(monkeypatch, arm, arm)[::2]:
            ticks = axes.get_xticks()
            assert (ticks == ticks.round()).all()
            assert ((ticks >= 1) & (ticks <= epochs)).any()


def test_every_arm_gets_a_row(tmp_path: Path) -> None:
    plot_margins({"AMAT": margins()}, tmp_path / "one.png")
    plot_margins({"AMAT": margins(), "other": margins(), "third": margins()}, tmp_path / "three.png")
    one, three = (matplotlib.image.imread(tmp_path / f"{name}.png").shape for name in ("one", "three"))
    assert one[1] == three[1]
    assert three[0] > 2 * one[0]


def test_what_cannot_be_drawn_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no arm with margins"):
        plot_margins({}, tmp_path / "none.png")
    good = margins()
    with pytest.raises(ValueError, match="400 margins need as many group names, got 1"):
        TrainedMargins(good.history, good.values, ["none"])
    with pytest.raises(ValueError, match=r"no columns \['q50'\]"):
        TrainedMargins(good.history.drop(columns="q50"), good.values, good.groups)
