"""One radiograph under attack, looked at: predicted against true landmarks, one row per arm."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection, LineCollection
from matplotlib.lines import Line2D
from monai.data import list_data_collate
from monai.engines.utils import PrepareBatch
from monai.utils import convert_to_tensor
from torch import Tensor, nn

from monai_amat.attacks import Attack
from monai_amat.losses.base import PerSampleLoss
from monai_amat.robustness.attacked import Attacked, attack_each
from monai_amat.robustness.figure import PALETTE, NoiseWindow, new_figure, row_name, save_figure, show_grey
from monai_amat.tasks.landmarks.metric import LandmarkErrors, point_errors

__all__ = ["LandmarkExample", "LandmarkExamples", "make_landmark_examples", "plot_landmark_examples"]

CIRCLES_MM = (2.0, 4.0)
"""Radii drawn around each true landmark: the narrowest and the widest that detection rates are given for."""

_TRUTH, _PREDICTION = PALETTE[2], PALETTE[1]


@dataclass(frozen=True)
class LandmarkExample:
    """A row of the picture; landmarks are `(L, 2)`, (y, x) in pixels of the image, NaN where there is none.

    Args:
        arm: what the row is called.
        epsilon: noise level.
        clean: `(H, W)` image, in the units the network sees.
        noisy: `(H, W)`, the same under attack.
        truth: the true landmarks.
        clean_pred: landmarks found in `clean`.
        noisy_pred: landmarks found in `noisy`.
        spacing: `(2,)`, mm per pixel, (y, x).
    """

    arm: str
    epsilon: float
    clean: np.ndarray
    noisy: np.ndarray
    truth: np.ndarray
    clean_pred: np.ndarray
    noisy_pred: np.ndarray
    spacing: np.ndarray

    def errors(self, pred: np.ndarray) -> LandmarkErrors:
        """Radial errors `(1, L)` as the MRE has them."""
        points, truth, spacing = (torch.from_numpy(values)[None] for values in (pred, self.truth, self.spacing))
        return point_errors(points, truth, spacing, size=self.clean.shape)


def make_landmark_examples(
    attacked: Iterable[Attacked],
    *,
    decode: Callable[[Tensor], Tensor],
) -> list[LandmarkExample]:
    """The first sample of an attacked batch, under each network.

    Args:
        attacked: a batch under each network, from `attack_each`.
        decode: landmarks `(B, L, 2)` in pixels of a prediction, such as
            `decode_landmarks` with its radius.

    Returns:
        one example per arm; of an image with several channels the first is shown.

    Raises:
        KeyError: where the targets lack landmarks or spacing.
    """
    examples = []
    for one in attacked:
        target = one.target
        for key in ("landmarks", "spacing"):
            if not isinstance(target, Mapping) or key not in target:
                raise KeyError(f"pictures need '{key}' among the targets; add it to the targets of prepare_batch")
        clean, noisy = one.images
        preds = [pred[:1] for pred in one.preds]
        examples.append(
            LandmarkExample(
                arm=one.arm,
                epsilon=one.epsilon,
                clean=clean[0, 0].cpu().numpy(),
                noisy=noisy[0, 0].cpu().numpy(),
                truth=_numpy(target["landmarks"][0]),
                clean_pred=_numpy(decode(preds[0])[0]),
                noisy_pred=_numpy(decode(preds[1])[0]),
                spacing=_numpy(target["spacing"][0]),
            )
        )
    return examples


def plot_landmark_examples(examples: Sequence[LandmarkExample], path: str | Path) -> None:
    """Draw the grid: clean image, noise magnified, noisy image, landmarks found in the clean and in the noisy image.

    Each true landmark has circles of 2 and 4 mm around it and a line to the predicted one. Above stands the mean radial
    error of this image, as in the MRE of the tables. All rows share one grey window and one magnification, which is
    written above the noise.

    Args:
        examples: one per row.
        path: `.png`, `.pdf` or `.svg` to write, whole or not at all.

    Raises:
        ValueError: without any example.
    """
    if not examples:
        raise ValueError("no example to draw")
    window = NoiseWindow.of([(example.clean, example.noisy) for example in examples])
    low, high, half, factor = window.low, window.high, window.half, window.factor
    height, width = examples[0].clean.shape
    panel = 2.8
    figure = new_figure(5 * panel, len(examples) * (panel * min(max(height / width, 0.5), 2.0) + 0.25) + 0.4)
    grid = figure.subplots(len(examples), 5, squeeze=False)
    for row, example in zip(grid, examples, strict=True):
        clean, noise, noisy, clean_pred, noisy_pred = row
        show_grey(clean, example.clean, low, high, "clean image")
        show_grey(noise, (example.noisy - example.clean) * factor, -half, half, f"noise × {factor:g}")
        show_grey(noisy, example.noisy, low, high, f"noisy image (ε = {example.epsilon:g})")
        for axes, image, pred, name in (
            (clean_pred, example.clean, example.clean_pred, "clean"),
            (noisy_pred, example.noisy, example.noisy_pred, "noisy"),
        ):
            show_grey(axes, image, low, high, f"on {name}: {_score(example.errors(pred))}")
            _points(axes, example, pred)
        clean.set_ylabel(row_name(example.arm), fontsize=11)
    keys = [
        Line2D([], [], color=_TRUTH, marker="+", linestyle="none", label="truth"),
        Line2D([], [], color=_TRUTH, linewidth=0.6, label=f"{CIRCLES_MM[0]:g} and {CIRCLES_MM[1]:g} mm around it"),
        Line2D([], [], color=_PREDICTION, marker=".", linewidth=0.8, label="prediction"),
    ]
    figure.legend(handles=keys, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    save_figure(figure, path)


class LandmarkExamples:
    """Draws one image of a data set under each of several networks; what a bundle's `examples` names.

    Args:
        loss: what the attack raises.
        attack: the attack, as in the curve.
        epsilon: noise level, in the units of the network's input.
        decode: landmarks of a prediction, see `make_landmark_examples`.
        prepare_batch: the workflow's own, whose targets hold `landmarks` and `spacing`.
        landmark_key: where the items of the data set carry the true landmarks.
    """

    def __init__(
        self,
        *,
        loss: PerSampleLoss,
        attack: Attack,
        epsilon: float,
        decode: Callable[[Tensor], Tensor],
        prepare_batch: PrepareBatch,
        landmark_key: str = "landmarks",
    ) -> None:
        self.loss = loss
        self.attack = attack
        self.epsilon = epsilon
        self.decode = decode
        self.prepare_batch = prepare_batch
        self.landmark_key = landmark_key

    def draw(self, networks: Mapping[str, nn.Module], dataset: Sequence[Mapping[str, Any]], path: str | Path) -> None:
        """Take the image with the most landmarks, the first of equals, attack it under each network, draw the grid.

        Raises:
            ValueError: when there is no image.
        """
        batch = list_data_collate([self._choose(dataset)])
        attacked = attack_each(
            networks,
            batch,
            loss=self.loss,
            attack=self.attack,
            epsilon=self.epsilon,
            prepare_batch=self.prepare_batch,
        )
        plot_landmark_examples(make_landmark_examples(attacked, decode=self.decode), path)

    def _choose(self, dataset: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        chosen, most = None, -1
        for i in range(len(dataset)):
            item = dataset[i]
            present = _numpy(item[self.landmark_key])
            count = int(np.isfinite(present).all(axis=-1).sum())
            if count > most:
                chosen, most = item, count
            if most == len(present):  # no other has more: the rest need not be loaded
                break
        if chosen is None:
            raise ValueError("there is no image to show")
        return chosen


def _numpy(values: Tensor | np.ndarray) -> np.ndarray:
    plain = convert_to_tensor(values, track_meta=False)
    return np.asarray(plain.detach().cpu().numpy(), dtype=np.float64)


def _points(axes: Axes, example: LandmarkExample, pred: np.ndarray) -> None:
    """True landmarks with their circles, predicted ones, and lines between."""
    truth = example.truth[np.isfinite(example.truth).all(axis=-1)][:, ::-1]
    for radius in CIRCLES_MM:
        across = np.tile(2 * radius / example.spacing, (len(truth), 1))
        # Pixels need not be square, so a circle in mm is an ellipse in pixels.
        circles = EllipseCollection(
            across[:, 1],
            across[:, 0],
            np.zeros(len(truth)),
            units="xy",
            offsets=truth,
            offset_transform=axes.transData,
            facecolors="none",
            edgecolors=_TRUTH,
            linewidths=0.6,
        )
        axes.add_collection(circles)
    axes.plot(truth[:, 0], truth[:, 1], "+", color=_TRUTH, markersize=4, markeredgewidth=0.8)
    both = np.isfinite(example.truth - pred).all(axis=-1)
    lines = np.stack([example.truth[both], pred[both]], axis=1)[..., ::-1]
    axes.add_collection(LineCollection(list(lines), colors=_PREDICTION, linewidths=0.8))
    axes.plot(pred[:, 1], pred[:, 0], ".", color=_PREDICTION, markersize=3)
    axes.set_xlim(-0.5, example.clean.shape[1] - 0.5)
    axes.set_ylim(example.clean.shape[0] - 0.5, -0.5)


def _score(errors: LandmarkErrors) -> str:
    """Mean error, and how many landmarks were not found at all."""
    lost = int(errors.no_peak.sum())
    mean = "undefined" if errors.error.isnan().all() else f"{errors.error.nanmean():.2f} mm"
    return f"{mean}, {lost} not found" if lost else mean
