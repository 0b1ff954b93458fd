"""The picture of margins: every group in its colour, in proportion to its samples."""

from __future__ import annotations

from pathlib import Path

import matplotlib.colors
import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import torch

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
