"""Examples of landmarks: the image that is chosen, what is made of it, and the picture."""

from __future__ import annotations

import dataclasses
import functools
import io
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgb
from monai.data import MetaTensor
from monai.engines.utils import PrepareBatch
from torch import Tensor, nn

from monai_amat.attacks import ProjectedGradientDescent
from monai_amat.losses.base import PerSampleLoss
from monai_amat.robustness import Attacked, attack_each
from monai_amat.robustness.figure import PALETTE, new_figure
from monai_amat.tasks.landmarks import (
    LandmarkExample,
    LandmarkExamples,
    RadialErrorMetric,
    decode_landmarks,
    make_landmark_examples,
    plot_landmark_examples,
)
from monai_amat.tasks.landmarks.pictures import _points, _score

TRUTH = torch.tensor([[4.0, 6.0], [12.0, 3.0], [float("nan"), float("nan")]])


class Prepare(PrepareBatch):
    def __init__(self, *names: str) -> None:
        self.names = names or ("maps", "landmarks", "spacing")

    def __call__(self, batchdata: Any, device: Any = None, non_blocking: bool = False, **_: Any) -> Any:
        return batchdata["image"].to(device), {name: batchdata[name].to(device) for name in self.names}


class AtLandmarks(PerSampleLoss):
    """What the network's maps lack where the landmarks are."""

    def terms(self, pred: Tensor, target: Any) -> dict[str, Tensor]:
        return {"lack": -(pred * target["maps"]).flatten(1).sum(1)}


class Bright(nn.Module):
    """Finds landmark l at the brightest pixel of channel l, more or less smoothed."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.smooth = nn.AvgPool2d(width, stride=1, padding=width // 2)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.smooth(x)


def decode(pred: Tensor) -> Tensor:
    place = pred.flatten(2).argmax(dim=2)
    return torch.stack([place // pred.shape[3], place % pred.shape[3]], dim=-1).float()


def item(landmarks: Tensor = TRUTH, **changes: Any) -> dict[str, Any]:
    maps = torch.zeros(3, 20, 14)
    for i, (y, x) in enumerate(landmarks.tolist()):
        if y == y:
            maps[i, int(y) - 1 : int(y) + 2, int(x) - 1 : int(x) + 2] = 1.0
    image = MetaTensor(maps - 0.5, meta={"filename_or_obj": "001.png"})
    found = {"image": image, "maps": maps, "landmarks": landmarks, "spacing": torch.tensor([0.5, 2.0]), "case": "001"}
    return {**found, "sample_id": 0, "sample_seed": 7} | changes


def batch() -> dict[str, Any]:
    return {key: value[None] for key, value in item().items() if isinstance(value, Tensor)}


def examples(**changes: Any) -> list[LandmarkExample]:
    arguments: dict[str, Any] = {
        "loss": AtLandmarks(),
        "attack": ProjectedGradientDescent(steps=5, rel_step=0.4),
        "epsilon": 6.0,
        "prepare_batch": Prepare(),
    }
    attacked = attack_each({"STD": Bright(1), "AMAT": Bright(3)}, batch(), **arguments | changes)
    return make_landmark_examples(attacked, decode=decode)


def test_examples_hold_the_attacked_sample() -> None:
    found = examples()
    assert [example.arm for example in found] == ["STD", "AMAT"]
    for example in found:
        np.testing.assert_array_equal(example.clean, item()["image"][0])
        noise = example.noisy - example.clean
        assert 0 < np.linalg.norm(noise) <= 6.0
        np.testing.assert_array_equal(example.truth, TRUTH)
        assert example.truth.shape == example.clean_pred.shape == example.noisy_pred.shape == (3, 2)
        noisy, clean = (example.errors(pred).error[0, 0] for pred in (example.noisy_pred, example.clean_pred))
        assert noisy > clean
    np.testing.assert_array_equal(examples(epsilon=0.0)[0].noisy_pred, examples(epsilon=0.0)[0].clean_pred)


def test_errors_are_in_mm() -> None:
    example = dataclasses.replace(examples()[0], spacing=np.array([0.5, 2.0]))
    errors = example.errors(np.array([[10.0, 8.0], [12.0, np.nan], [1.0, 1.0]])).error[0]
    assert errors[0] == pytest.approx(5.0)  # 6 pixels of 0.5 mm down, 2 of 2 mm to the right
    assert errors[1] == pytest.approx(np.hypot(20 * 0.5, 14 * 2.0))  # not found: the image's diagonal
    assert errors[2].isnan()


@pytest.mark.parametrize(
    ("found", "truth", "text"),
    [
        ([1.0, 2.0], [0.0, 0.0], "1.50 mm"),
        ([1.0, np.nan], [0.0, 0.0], "3.00 mm, 1 not found"),
        ([1.0, np.nan], [0.0, np.nan], "1.00 mm"),
        ([np.nan, np.nan], [0.0, 0.0], "5.00 mm, 2 not found"),
        ([1.0, 2.0], [np.nan, np.nan], "undefined"),
    ],
)
def test_score(found: list[float], truth: list[float], text: str) -> None:
    """Landmarks in the first column of an image whose diagonal is 5 mm."""
    pred, known = np.array([found, truth])[..., None] * (1.0, 0.0)
    example = LandmarkExample("STD", 0.0, np.zeros((3, 4)), np.zeros((3, 4)), known, pred, pred, np.ones(2))
    assert _score(example.errors(pred)) == text


def test_the_title_says_what_the_table_does() -> None:
    """Of two landmarks one has a flat heat map: a network that misses must not look better than its MRE."""
    pred = torch.zeros(1, 6, 20, 14)
    pred[0, 0, 5, 8] = 5.0
    target = {"landmarks": TRUTH[None, :2], "spacing": torch.tensor([[0.5, 2.0]])}
    metric = RadialErrorMetric(landmarks=2)
    with pytest.warns(UserWarning, match="1 of 2 heat maps have no peak"):
        mre = metric.summary(pd.DataFrame(metric.columns(pred, target)))["mre"]
        attacked = Attacked("STD", 0.0, (torch.zeros(1, 1, 20, 14),) * 2, (pred, pred), target)
        (example,) = make_landmark_examples([attacked], decode=functools.partial(decode_landmarks, radius=1.0))
    assert _score(example.errors(example.clean_pred)) == f"{mre:.2f} mm, 1 not found"


def test_what_the_targets_need() -> None:
    with pytest.raises(KeyError, match="'spacing' among the targets; add it to the targets of prepare_batch"):
        examples(prepare_batch=Prepare("maps", "landmarks"))


def near(pixels: np.ndarray, colour: str) -> np.ndarray:
    return np.asarray(np.abs(pixels[..., :3] - to_rgb(colour)).max(axis=2) < 0.12)


def test_circles_and_lines_are_where_the_landmarks_are() -> None:
    """Drawn at thirty dots per pixel: ellipses, since pixels are twice as wide as high."""
    example = dataclasses.replace(
        examples()[0],
        clean=np.zeros((60, 40)),
        truth=np.array([[30.0, 10.0]]),
        clean_pred=np.array([[30.0, 30.0]]),
        spacing=np.array([0.5, 1.0]),
    )
    figure = new_figure(4, 6)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    _points(axes, example, example.clean_pred)
    figure.savefig(buffer := io.BytesIO(), format="png", dpi=300)
    buffer.seek(0)
    pixels = matplotlib.image.imread(buffer)
    assert pixels.shape[:2] == (1800, 1200)
    rows, columns = np.nonzero(near(pixels, PALETTE[2]))
    # The pixel (30, 10) has its centre at dot (915, 315); 4 mm are 8 pixels up and 4 sideways.
    assert [rows.min(), rows.max(), columns.min(), columns.max()] == pytest.approx([675, 1155, 195, 435], abs=4)
    rows, columns = np.nonzero(near(pixels, PALETTE[1]))
    assert rows.mean() == pytest.approx(915, abs=3)
    assert columns.max() == pytest.approx(915, abs=12)
    assert columns.min() < 330


def test_the_grid_is_drawn_with_a_row_an_arm(tmp_path: Path) -> None:
    found = examples()
    plot_landmark_examples(found, tmp_path / "two.png")
    lost = dataclasses.replace(found[0], noisy_pred=np.full((3, 2), np.nan), truth=np.full((3, 2), np.nan))
    plot_landmark_examples([lost], tmp_path / "one.png")
    two, one = (matplotlib.image.imread(tmp_path / f"{name}.png") for name in ("two", "one"))
    assert two.shape[0] > 1.6 * one.shape[0]
    assert two.shape[1] == one.shape[1] > 1000
    assert near(two, PALETTE[2]).sum() > near(one, PALETTE[2]).sum() + 200
    assert near(two, PALETTE[1]).sum() > 100
    with pytest.raises(ValueError, match="no example"):
        plot_landmark_examples([], tmp_path / "none.png")


class Counting(list[dict[str, Any]]):
    """A data set that knows which of its items were made."""

    def __init__(self, *items: dict[str, Any]) -> None:
        super().__init__(items)
        self.made: list[int] = []

    def __getitem__(self, index: Any) -> Any:
        self.made.append(index)
        return super().__getitem__(index)


def test_the_image_with_most_landmarks_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[list[LandmarkExample]] = []
    monkeypatch.setattr("monai_amat.tasks.landmarks.pictures.plot_landmark_examples", lambda e, _: drawn.append(e))
    artist = LandmarkExamples(
        loss=AtLandmarks(),
        attack=ProjectedGradientDescent(steps=2, rel_step=0.5),
        epsilon=1.0,
        decode=decode,
        prepare_batch=Prepare(),
    )
    none, one = torch.full((3, 2), torch.nan), TRUTH.clone()
    one[0] = torch.nan
    complete = TRUTH.nan_to_num(8.0)
    data = Counting(item(none), item(one), item(), item(one), item(complete), item(complete))
    artist.draw({"STD": Bright(1)}, data, tmp_path / "a.png")
    np.testing.assert_array_equal(drawn[0][0].truth, complete)
    assert data.made == [0, 1, 2, 3, 4]
    artist.draw({"STD": Bright(1)}, data[:4], tmp_path / "a.png")
    np.testing.assert_array_equal(drawn[1][0].truth, TRUTH)
    artist.draw({"STD": Bright(1)}, [item(none)], tmp_path / "a.png")  # noise and prediction can be seen all the same
    assert np.isnan(drawn[2][0].truth).all()
    with pytest.raises(ValueError, match="there is no image to show"):
        artist.draw({"STD": Bright(1)}, [], tmp_path / "a.png")


def test_a_picture_is_written(tmp_path: Path) -> None:
    artist = LandmarkExamples(
        loss=AtLandmarks(),
        attack=ProjectedGradientDescent(steps=2, rel_step=0.5),
        epsilon=1.0,
        decode=decode,
        prepare_batch=Prepare(),
    )
    artist.draw({"STD": Bright(1), "AMAT": Bright(3)}, [item()], tmp_path / "examples.png")
    assert [path.name for path in tmp_path.iterdir()] == ["examples.png"]
