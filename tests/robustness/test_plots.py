"""The curve's picture: what is drawn, and that nothing else is touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.colors
import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from monai_amat.robustness import plot_curves
from monai_amat.robustness.figure import PALETTE


def table(arms: int = 3) -> pd.DataFrame:
    records: list[tuple[Any, ...]] = []
    for i in range(arms):
        for level in (0.0, 2.0, 4.0, 8.0):
            value = 0.9 * np.exp(-level / (2 + 2 * i))
            for name, factor in (("adi", 1.0), ("tvdi", 0.9)):
                records.append((f"arm {i}", level, name, factor * value, factor * value - 0.03, factor * value + 0.03))
        records.append((f"arm {i}", "Avg", "adi", 0.5, 0.4, 0.6))
    return pd.DataFrame(records, columns=["arm", "noise_level", "name", "value", "low", "high"])


def pixels(image: np.ndarray, colour: str) -> int:
    wanted = np.array(matplotlib.colors.to_rgb(colour))
    return int((np.abs(image[..., :3] - wanted).max(axis=2) < 0.02).sum())


def test_every_arm_is_a_line_of_its_own_colour(tmp_path: Path) -> None:
    backend = matplotlib.get_backend(auto_select=False)
    plot_curves(table(), tmp_path / "curve.png", ylabel="Average Dice index")
    image = matplotlib.image.imread(tmp_path / "curve.png")
    assert min(image.shape[:2]) > 400
    for colour in PALETTE[:3]:
        assert pixels(image, colour) > 500
    assert pixels(image, PALETTE[3]) == 0
    assert matplotlib.get_backend(auto_select=False) == backend


@pytest.mark.parametrize(("name", "start"), [("a.pdf", b"%PDF"), ("a.svg", b"<?xml"), ("a.PNG", b"\x89PNG")])
def test_the_format_is_that_of_the_files_name(tmp_path: Path, name: str, start: bytes) -> None:
    for folder in ("one", "two"):
        plot_curves(table(), tmp_path / folder / name)
    content = (tmp_path / "one" / name).read_bytes()
    assert content.startswith(start)
    if start != b"<?xml":  # the names of an SVG's parts are drawn anew
        assert content == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize("name", ["a.jpg", "a", "a.png.txt"])
def test_other_formats_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"must end in \.png, \.pdf or \.svg, got .*" + name):
        plot_curves(table(), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_the_figure_that_is_asked_for_is_drawn(tmp_path: Path) -> None:
    plot_curves(table(), tmp_path / "adi.png")
    plot_curves(table(), tmp_path / "tvdi.png", name="tvdi")
    first, second = (matplotlib.image.imread(tmp_path / f"{name}.png") for name in ("adi", "tvdi"))
    assert first.shape == second.shape
    assert (first != second).any()
    with pytest.raises(ValueError, match="holds no 'mre'"):
        plot_curves(table(), tmp_path / "mre.png", name="mre")
    assert not (tmp_path / "mre.png").exists()


def test_many_arms_get_a_wider_picture(tmp_path: Path) -> None:
    plot_curves(table(9), tmp_path / "nine.png")
    plot_curves(table(3), tmp_path / "three.png")
    nine, three = (matplotlib.image.imread(tmp_path / f"{name}.png") for name in ("nine", "three"))
    assert nine.shape[1] > three.shape[1]
    for colour in PALETTE:
        assert pixels(nine, colour) > 300


def test_long_names_do_not_squeeze_the_axes(tmp_path: Path) -> None:
    short = table(9)
    long = short.assign(arm=short["arm"] + " with a very long name, of many settings")
    widths = []
    for name, chosen in (("short", short), ("long", long)):
        plot_curves(chosen, tmp_path / f"{name}.png")
        image = matplotlib.image.imread(tmp_path / f"{name}.png")
        # The lower spine is the longest dark row.
        widths.append(int((image[..., :3].max(axis=2) < 0.3).sum(axis=1).max()))
    assert widths[1] == pytest.approx(widths[0], rel=0.02)
    assert widths[0] > 600


def test_a_name_with_a_path_leaves_room_for_the_curve(tmp_path: Path) -> None:
    """Wider than the picture, it would leave none, of which matplotlib warns."""
    named = table(1).assign(arm="SAT (epsilon=1, initial_weights=" + "/a_folder" * 15 + "/model.pt)")
    plot_curves(named, tmp_path / "curve.png")


def test_one_unnamed_arm_without_interval(tmp_path: Path) -> None:
    alone = table(1).drop(columns="arm").assign(low=np.nan, high=np.nan)
    plot_curves(alone, tmp_path / "curve.png")
    assert pixels(matplotlib.image.imread(tmp_path / "curve.png"), PALETTE[0]) > 300


def drawn(monkeypatch: pytest.MonkeyPatch, rows: pd.DataFrame, **arguments: Any) -> Axes:
    """The axes as they would be saved."""
    figures: list[Figure] = []
    monkeypatch.setattr("monai_amat.robustness.plots.save_figure", lambda figure, path: figures.append(figure))
    plot_curves(rows, "curve.png", **arguments)
    return figures[0].axes[0]


def test_a_figure_without_any_value_is_said_to_be_undefined(monkeypatch: pytest.MonkeyPatch) -> None:
    axes = drawn(monkeypatch, table().assign(value=np.nan, low=np.nan, high=np.nan))
    assert [text.get_text() for text in axes.texts] == ["undefined: no value at any noise level"]
    assert axes.get_legend() is None
    assert not axes.lines
    assert not axes.get_xticks().size
    assert not axes.get_yticks().size
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("adi", "noise level ε")


def test_one_value_is_enough_for_a_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = table().assign(low=np.nan, high=np.nan)
    rows.loc[1:, "value"] = np.nan
    axes = drawn(monkeypatch, rows)
    assert not axes.texts
    assert len(axes.lines) == 3
    assert axes.get_xticks().tolist() == [0, 2, 4, 8]
