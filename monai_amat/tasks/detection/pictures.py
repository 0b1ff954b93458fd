"""One image under attack, looked at: true and predicted boxes, one row per arm."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from monai.data import list_data_collate
from monai.engines.utils import PrepareBatch
from monai.inferers import Inferer
from torch import Tensor, nn

from monai_amat.attacks import Attack
from monai_amat.losses.base import PerSampleLoss
from monai_amat.robustness.attacked import Attacked, attack_each
from monai_amat.robustness.figure import NoiseWindow, new_figure, row_name, save_figure
from monai_amat.tasks.detection.average_iou import MIN_SCORE, average_iou, iou_sums
from monai_amat.tasks.detection.detections import Decode, samples
from monai_amat.tasks.detection.drawing import class_colour

__all__ = ["DetectionExample", "DetectionExamples", "make_detection_examples", "plot_detection_examples"]


@dataclass(frozen=True)
class DetectionExample:
    """A row of the picture; boxes are x1 y1 x2 y2 in pixels of the image.

    Args:
        arm: what the row is called.
        epsilon: noise level.
        clean: `(3, H, W)` image, in the units the network sees.
        noisy: `(3, H, W)`, the same under attack.
        truth: `(m, 5)`, class and box of the true objects.
        clean_found: `(n, 6)`, box, score and class of what is found in `clean`.
        noisy_found: the same in `noisy`.
        clean_iou: average IoU of the true objects in `clean`; NaN where there are none.
        noisy_iou: the same in `noisy`.
    """

    arm: str
    epsilon: float
    clean: np.ndarray
    noisy: np.ndarray
    truth: np.ndarray
    clean_found: np.ndarray
    noisy_found: np.ndarray
    clean_iou: float
    noisy_iou: float


def make_detection_examples(
    attacked: Iterable[Attacked],
    *,
    classes: int,
    decode: Decode | None = None,
    min_score: float = MIN_SCORE,
) -> list[DetectionExample]:
    """The first image of an attacked batch, under each network; its targets are `(B, max_boxes, 5)`.

    Args:
        attacked: a batch under each network, from `attack_each`.
        classes: number of classes.
        decode: makes detections of what the loss's `prediction` gives, where that is not detections already.
        min_score: detections below are neither shown nor counted.

    Returns:
        one example per arm; of an image with another number of channels than three the first is shown.
    """
    examples = []
    for one in attacked:
        looked = [samples(pred, one.target, classes, decode=decode)[0] for pred in one.preds]
        found = []
        for sample in looked:
            rows = torch.cat([sample.found, sample.scores[:, None], sample.found_classes[:, None].float()], dim=1)
            found.append(rows[sample.scores >= min_score].numpy())
        ious = [average_iou(iou_sums([sample], classes, min_score=min_score)).mean.item() for sample in looked]
        examples.append(
            DetectionExample(
                arm=one.arm,
                epsilon=one.epsilon,
                clean=_colours(one.images[0][0]),
                noisy=_colours(one.images[1][0]),
                truth=torch.cat([looked[0].true_classes[:, None].float(), looked[0].true], dim=1).numpy(),
                clean_found=found[0],
                noisy_found=found[1],
                clean_iou=ious[0],
                noisy_iou=ious[1],
            )
        )
    return examples


def plot_detection_examples(
    examples: Sequence[DetectionExample], path: str | Path, *, class_names: Sequence[str]
) -> None:
    """Draw the grid: truth on the clean image, noise magnified, noisy image, what is found in the clean and in it.

    True boxes are dotted beneath the predicted ones. All rows share one window of intensities and one
    magnification, which is written above the noise.

    Args:
        examples: one per row.
        path: `.png`, `.pdf` or `.svg` to write, whole or not at all.
        class_names: names of the classes, for the legend.

    Raises:
        ValueError: without any example, or with a class that has no name.
    """
    if not examples:
        raise ValueError("no example to draw")
    highest = max((int(e.truth[:, 0].max()) for e in examples if len(e.truth)), default=-1)
    highest = max([highest, *(int(f[:, 5].max()) for e in examples for f in (e.clean_found, e.noisy_found) if len(f))])
    if highest >= len(class_names):
        raise ValueError(f"class {highest} needs a name, got class_names={list(class_names)}")
    window = NoiseWindow.of([(example.clean, example.noisy) for example in examples])
    low, high, half, factor = window.low, window.high, window.half, window.factor
    height, width = examples[0].clean.shape[1:]
    panel = 2.8
    figure = new_figure(5 * panel, len(examples) * (panel * min(max(height / width, 0.5), 2.0) + 0.25) + 0.4)
    grid = figure.subplots(len(examples), 5, squeeze=False)
    for row, example in zip(grid, examples, strict=True):
        truth, noise, noisy, clean_found, noisy_found = row
        _image(truth, example.clean, low, high, "truth")
        _boxes(truth, example.truth[:, 1:], example.truth[:, 0])
        _image(noise, (example.noisy - example.clean) * factor, -half, half, f"noise × {factor:g}")
        _image(noisy, example.noisy, low, high, f"noisy image (ε = {example.epsilon:g})")
        for axes, image, found, name, iou in (
            (clean_found, example.clean, example.clean_found, "clean", example.clean_iou),
            (noisy_found, example.noisy, example.noisy_found, "noisy", example.noisy_iou),
        ):
            score = "undefined" if math.isnan(iou) else f"{iou:.2f}"
            _image(axes, image, low, high, f"on {name}: {len(found)} found, IoU {score}")
            _boxes(axes, example.truth[:, 1:], example.truth[:, 0], dotted=True)
            _boxes(axes, found[:, :4], found[:, 5])
        truth.set_ylabel(row_name(example.arm), fontsize=11)
    keys = [Line2D([], [], color=class_colour(c), label=name) for c, name in enumerate(class_names)]
    keys.append(Line2D([], [], color="black", linestyle=":", linewidth=0.9, label="truth"))
    figure.legend(handles=keys, loc="outside lower center", ncols=len(keys), frameon=False, fontsize=9)
    save_figure(figure, path)


class DetectionExamples:
    """Draws one image of a data set under each of several networks; what a bundle's `examples` names.

    Args:
        loss: what the attack raises.
        attack: the attack, as in the curve.
        epsilon: noise level, in the units of the network's input.
        class_names: names of the classes.
        decode: makes detections of what the loss's `prediction` gives, where that is not detections already.
        min_score: detections below are neither shown nor counted.
        prepare_batch: the workflow's own, whose target is `(B, max_boxes, 5)`; MONAI's default takes `image` and
            `label`.
        inferer: how the network is applied; a plain forward by default.
        target_key: where the items of the data set carry their targets `(max_boxes, 5)`.
    """

    def __init__(
        self,
        *,
        loss: PerSampleLoss,
        attack: Attack,
        epsilon: float,
        class_names: Sequence[str],
        decode: Decode | None = None,
        min_score: float = MIN_SCORE,
        prepare_batch: PrepareBatch | None = None,
        inferer: Inferer | None = None,
        target_key: str = "targets",
    ) -> None:
        self.loss = loss
        self.attack = attack
        self.epsilon = epsilon
        self.class_names = tuple(class_names)
        self.decode = decode
        self.min_score = min_score
        self.prepare_batch = prepare_batch
        self.inferer = inferer
        self.target_key = target_key

    def draw(self, networks: Mapping[str, nn.Module], dataset: Sequence[Mapping[str, Any]], path: str | Path) -> None:
        """Choose an image, attack it under each network, draw the grid.

        Of the images with the most classes it is the one with the fewest objects, so that boxes rarely overlap; the
        first of equals.

        Raises:
            ValueError: when there is no image.
        """
        attacked = attack_each(
            networks,
            list_data_collate([self._choose(dataset)]),
            loss=self.loss,
            attack=self.attack,
            epsilon=self.epsilon,
            prepare_batch=self.prepare_batch,
            inferer=self.inferer,
        )
        examples = make_detection_examples(
            attacked, classes=len(self.class_names), decode=self.decode, min_score=self.min_score
        )
        plot_detection_examples(examples, path, class_names=self.class_names)

    def _choose(self, dataset: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        chosen, best = None, (0, 0)
        for i in range(len(dataset)):
            item = dataset[i]
            present = [label for label in item[self.target_key][:, 0].tolist() if label >= 0]
            rank = len(set(present)), -len(present)
            if chosen is None or rank > best:
                chosen, best = item, rank
        if chosen is None:
            raise ValueError("there is no image to show")
        return chosen


def _colours(image: Tensor) -> np.ndarray:
    """`(3, H, W)`."""
    values = image.detach().cpu().numpy()
    return np.asarray(values if len(values) == 3 else np.broadcast_to(values[:1], (3, *values.shape[1:])))


def _image(axes: Axes, values: np.ndarray, low: float, high: float, title: str) -> None:
    window = np.clip((values - low) / max(high - low, 1e-6), 0, 1)
    # Boxes are given by edges, and pixel i reaches from i to i + 1.
    height, width = values.shape[1:]
    axes.imshow(window.transpose(1, 2, 0), interpolation="nearest", extent=(0, width, height, 0))
    axes.set_title(title, fontsize=9)
    axes.set_xticks([])
    axes.set_yticks([])


def _boxes(axes: Axes, boxes: np.ndarray, labels: np.ndarray, *, dotted: bool = False) -> None:
    for (x1, y1, x2, y2), label in zip(boxes.tolist(), labels.tolist(), strict=True):
        colour = "black" if dotted else class_colour(int(label))
        style, width = (":", 0.9) if dotted else ("-", 1.3)
        axes.add_patch(
            Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linestyle=style, linewidth=width)
        )
