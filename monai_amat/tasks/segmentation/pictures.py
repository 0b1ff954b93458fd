"""One sample under attack, looked at: image, noise, noisy image, truth and predictions, one row per arm."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from torch import Tensor, nn
from torch.utils.data import default_collate

from monai_amat.attacks import Attack
from monai_amat.losses.base import PerSampleLoss
from monai_amat.robustness.attacked import Attacked, attack_each
from monai_amat.robustness.figure import PALETTE, NoiseWindow, new_figure, row_name, save_figure, show_grey
from monai_amat.tasks.segmentation.overlap import Prediction, dice, dice_counts, foreground, foreground_classes

__all__ = ["Example", "SegmentationExamples", "choose_sample", "make_examples", "plot_examples"]


@dataclass(frozen=True)
class Example:
    """A row of the picture; masks are `(C, H, W)` bool, one channel per foreground class.

    Args:
        arm: what the row is called.
        epsilon: noise level.
        clean: `(H, W)` image, in the units the network sees.
        noisy: `(H, W)`, the same under attack.
        truth: the true masks.
        clean_pred: masks predicted on `clean`.
        noisy_pred: masks predicted on `noisy`.
        clean_dice: mean Dice over classes on `clean`; NaN where there is neither truth nor prediction.
        noisy_dice: the same on `noisy`.
    """

    arm: str
    epsilon: float
    clean: np.ndarray
    noisy: np.ndarray
    truth: np.ndarray
    clean_pred: np.ndarray
    noisy_pred: np.ndarray
    clean_dice: float
    noisy_dice: float


def choose_sample(labels: Sequence[Tensor], *, num_classes: int, prediction: Prediction = "softmax") -> int:
    """Position of the sample to show: of those with the most classes present, the one with the largest foreground.

    Args:
        labels: label maps `(1, H, W)`, or one-hot, one per sample.
        num_classes: output channels of the network; the background among them with `softmax`.
        prediction: what the channels are.

    Raises:
        ValueError: when there is no sample at all.

    Example:
        >>> import torch
        >>> choose_sample([torch.tensor([[[1, 1, 1]]]), torch.tensor([[[0, 1, 2]]])], num_classes=3)
        1
    """
    classes = foreground_classes(num_classes, prediction)
    ranks = []
    for label in labels:
        sizes = foreground(label[None], classes, prediction=prediction, truth=True).flatten(2).sum(dim=2)
        ranks.append((int((sizes > 0).sum()), int(sizes.sum())))
    if not ranks:
        raise ValueError("there is no sample to show")
    return ranks.index(max(ranks))


def make_examples(
    attacked: Iterable[Attacked],
    *,
    num_classes: int,
    prediction: Prediction = "softmax",
) -> list[Example]:
    """The first sample of an attacked batch, under each network.

    Args:
        attacked: a batch under each network, from `attack_each`.
        num_classes: output channels of the networks; the background among them with `softmax`.
        prediction: what the channels are.

    Returns:
        one example per arm; of an image with several channels the first is shown.
    """
    classes = foreground_classes(num_classes, prediction)
    examples = []
    for one in attacked:
        preds = [pred[:1] for pred in one.preds]
        target = one.target[:1]
        masks = [foreground(pred, classes, prediction=prediction)[0].cpu().numpy() for pred in preds]
        scores = [dice(dice_counts(pred, target, classes, prediction=prediction)).nanmean().item() for pred in preds]
        examples.append(
            Example(
                arm=one.arm,
                epsilon=one.epsilon,
                clean=one.images[0][0, 0].cpu().numpy(),
                noisy=one.images[1][0, 0].cpu().numpy(),
                truth=foreground(target, classes, prediction=prediction, truth=True)[0].cpu().numpy(),
                clean_pred=masks[0],
                noisy_pred=masks[1],
                clean_dice=scores[0],
                noisy_dice=scores[1],
            )
        )
    return examples


def plot_examples(examples: Sequence[Example], path: str | Path, *, class_names: Sequence[str] | None = None) -> None:
    """Draw the grid: clean image, noise magnified, noisy image, truth, prediction on the clean and on the noisy image.

    All rows share one grey window and one magnification, which is written above the noise.

    Args:
        examples: one per row.
        path: `.png`, `.pdf` or `.svg` to write, whole or not at all.
        class_names: names of the foreground classes, for the legend.

    Raises:
        ValueError: without any example, or with another number of names than of classes.
    """
    if not examples:
        raise ValueError("no example to draw")
    classes = len(examples[0].truth)
    names = [f"class {c}" for c in range(1, classes + 1)] if class_names is None else list(class_names)
    if len(names) != classes:
        raise ValueError(f"{classes} foreground classes need as many class_names, got {names}")
    window = NoiseWindow.of([(example.clean, example.noisy) for example in examples])
    low, high, half, factor = window.low, window.high, window.half, window.factor
    height, width = examples[0].clean.shape
    panel = 1.9
    figure = new_figure(6 * panel, len(examples) * (panel * min(max(height / width, 0.5), 2.0) + 0.25) + 0.4)
    grid = figure.subplots(len(examples), 6, squeeze=False)
    for row, example in zip(grid, examples, strict=True):
        clean, noise, noisy, truth, clean_pred, noisy_pred = row
        show_grey(clean, example.clean, low, high, "clean image")
        show_grey(noise, (example.noisy - example.clean) * factor, -half, half, f"noise × {factor:g}")
        show_grey(noisy, example.noisy, low, high, f"noisy image (ε = {example.epsilon:g})")
        show_grey(truth, example.clean, low, high, "truth")
        _outline(truth, example.truth)
        show_grey(clean_pred, example.clean, low, high, f"on clean: Dice {_score(example.clean_dice)}")
        _outline(clean_pred, example.clean_pred)
        show_grey(noisy_pred, example.noisy, low, high, f"on noisy: Dice {_score(example.noisy_dice)}")
        _outline(noisy_pred, example.noisy_pred)
        clean.set_ylabel(row_name(example.arm), fontsize=11)
    keys = [Line2D([], [], color=_colour(c), label=name) for c, name in enumerate(names)]
    figure.legend(handles=keys, loc="outside lower center", ncols=classes, frameon=False, fontsize=9)
    save_figure(figure, path)


def _outline(axes: Axes, masks: np.ndarray) -> None:
    for c, mask in enumerate(masks):
        # A border of background closes the outline of a mask that touches the edge of the image.
        padded = np.pad(mask.astype(float), 1)
        if mask.any():
            rows, columns = (np.arange(-1, size + 1) for size in mask.shape)
            axes.contour(columns, rows, padded, levels=[0.5], colors=[_colour(c)], linewidths=1.3)
    axes.set_xlim(-0.5, masks.shape[2] - 0.5)
    axes.set_ylim(masks.shape[1] - 0.5, -0.5)


def _colour(c: int) -> str:
    # Blue, the first of the palette, is hard to see on grey.
    return PALETTE[(c + 1) % len(PALETTE)]


def _score(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.2f}"


class SegmentationExamples:
    """Draws one slice of a data set under each of several networks; what a bundle's `examples` names.

    Args:
        loss: what the attack raises.
        attack: the attack, as in the curve.
        epsilon: noise level, in the units of the network's input.
        num_classes: output channels of the networks; the background among them with `softmax`.
        prediction: what the channels are.
        class_names: names of the foreground classes, for the legend.
    """

    def __init__(
        self,
        *,
        loss: PerSampleLoss,
        attack: Attack,
        epsilon: float,
        num_classes: int,
        prediction: Prediction = "softmax",
        class_names: Sequence[str] | None = None,
    ) -> None:
        self.loss = loss
        self.attack = attack
        self.epsilon = epsilon
        self.num_classes = num_classes
        self.prediction: Prediction = prediction
        self.class_names = class_names

    def draw(self, networks: Mapping[str, nn.Module], dataset: Sequence[Mapping[str, Any]], path: str | Path) -> None:
        """Choose the slice by `choose_sample`, attack it under each network and draw the grid."""
        labels = [dataset[i]["label"] for i in range(len(dataset))]
        chosen = choose_sample(labels, num_classes=self.num_classes, prediction=self.prediction)
        batch = default_collate([dataset[chosen]])
        attacked = attack_each(networks, batch, loss=self.loss, attack=self.attack, epsilon=self.epsilon)
        examples = make_examples(attacked, num_classes=self.num_classes, prediction=self.prediction)
        plot_examples(examples, path, class_names=self.class_names)
