"""The arithmetic of the Dice indices: voxel counts per sample, and the two averages made of them."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from monai.utils import convert_to_tensor
from torch import Tensor

__all__ = [
    "DiceIndex",
    "Prediction",
    "Slices",
    "average_dice",
    "dice",
    "dice_counts",
    "foreground",
    "foreground_classes",
    "total_dice",
]

Prediction = Literal["softmax", "sigmoid"]
"""What the network's channels are: `softmax` exclusive classes with the background first, `sigmoid` foreground
classes alone, each on its own."""

Slices = Literal["any", "every"]
"""Which samples count: those whose truth holds `any` foreground class, or `every` one."""


class DiceIndex(NamedTuple):
    """A Dice index and its parts; NaN where nothing counts. `R` stands for the leading axes of the weights, if any.

    Args:
        mean: `(*R)`, the index itself.
        per_class: `(*R, C)`, the same for each foreground class.
    """

    mean: Tensor
    per_class: Tensor


def foreground_classes(num_classes: int, prediction: Prediction) -> int:
    """How many of the network's `num_classes` output channels are foreground.

    Raises:
        ValueError: when none is.

    Example:
        >>> foreground_classes(3, "softmax"), foreground_classes(3, "sigmoid")
        (2, 3)
    """
    classes = num_classes - (prediction == "softmax")
    if classes < 1:
        raise ValueError(
            f"num_classes={num_classes} with prediction={prediction!r} leaves no foreground class; num_classes counts "
            "the network's output channels, the background among them with 'softmax'; a network of one channel is "
            "measured with prediction='sigmoid'"
        )
    return classes


def foreground(values: Tensor, classes: int, *, prediction: Prediction, truth: bool = False) -> Tensor:
    """Which voxels belong to each foreground class.

    Args:
        values: a prediction `(B, channels, *spatial)`: logits, or one-hot (with `softmax`, probabilities too). A truth,
            and with `softmax` a prediction, may also be a label map `(B, 1, *spatial)`, whose value c is foreground
            class c, 0 being background. A truth of several channels holds 0 and 1 alone.
        classes: foreground classes C; `softmax` has one channel more.
        prediction: what the channels are.
        truth: whether `values` are the truth.

    Returns:
        `(B, C, *spatial)` bool, without gradient.

    Raises:
        ValueError: for another number of channels, a label map with a value that is not a class, or a truth of several
            channels that are not masks.

    Example:
        >>> foreground(torch.tensor([[[0, 1, 2]]]), 2, prediction="softmax", truth=True).int().tolist()
        [[[0, 1, 0], [0, 0, 1]]]
    """
    if prediction not in ("softmax", "sigmoid"):
        raise ValueError(f"prediction must be 'softmax' or 'sigmoid', got {prediction!r}")
    plain = convert_to_tensor(values, track_meta=False).detach()
    channels = classes + (prediction == "softmax")
    if plain.ndim < 3:
        raise ValueError(f"expected (B, channels, *spatial), got shape {tuple(plain.shape)}")
    what = "the truth" if truth else "the prediction"
    if plain.shape[1] == 1 and (truth or prediction == "softmax"):
        labels = plain.long()
        if plain.numel() and (bool((labels != plain).any()) or int(labels.amin()) < 0 or int(labels.amax()) > classes):
            raise ValueError(
                f"{what} is a label map, which must hold whole numbers from 0 to {classes}, got values from "
                f"{plain.amin().item():g} to {plain.amax().item():g}; check num_classes and the label transform, or "
                "give the evaluator's postprocessing"
            )
    elif plain.shape[1] != channels:
        shapes = f"(B, {channels}, *spatial) or a label map (B, 1, *spatial)"
        raise ValueError(
            f"{what} must be {shapes} with {prediction} and {classes} foreground classes, got shape "
            f"{tuple(plain.shape)}"
        )
    elif truth and not bool(((plain == 0) | (plain == 1)).all()):
        one_hot = " be one-hot with 'softmax' and" if prediction == "softmax" else ""
        raise ValueError(
            f"a truth of {channels} channels must{one_hot} hold 0 and 1 alone, one channel per class, got values "
            f"from {plain.amin().item():g} to {plain.amax().item():g}; coordinates and other numbers that are not "
            "masks need a metric of their own"
        )
    elif prediction == "sigmoid":
        # A logit of 0 is a probability of one half; the 0 and 1 of a one-hot map fall on the right sides too.
        return plain > (0.5 if truth else 0.0)
    else:
        if truth and not bool((plain.sum(dim=1) == 1).all()):
            raise ValueError(
                "a truth with one channel per class must be one-hot with 'softmax', one 1 at each place; masks of 0 "
                "and 1 that may overlap are measured with prediction='sigmoid'"
            )
        labels = plain.argmax(dim=1, keepdim=True)
    return labels == torch.arange(1, classes + 1, device=labels.device).view(1, -1, *(1,) * (plain.ndim - 2))


def dice_counts(pred: Tensor, target: Tensor, classes: int, *, prediction: Prediction = "softmax") -> Tensor:
    """True positives, false positives and false negatives of every sample and foreground class.

    Args:
        pred: `(B, channels, *spatial)`, see `foreground`.
        target: label map `(B, 1, *spatial)` or one-hot.
        classes: foreground classes C.
        prediction: what the channels of `pred` are.

    Returns:
        `(B, C, 3)` int64, in voxels.

    Raises:
        ValueError: when the shapes do not fit each other or `classes`.

    Example:
        >>> dice_counts(torch.tensor([[[3.0, 1.0], [0.0, 2.0]]]), torch.tensor([[[1, 1]]]), 1).tolist()
        [[[1, 0, 1]]]
    """
    predicted = foreground(pred, classes, prediction=prediction)
    true = foreground(target, classes, prediction=prediction, truth=True).to(predicted.device)
    if predicted.shape != true.shape:
        raise ValueError(f"prediction {tuple(pred.shape)} and truth {tuple(target.shape)} differ in batch or space")
    parts = (predicted & true, predicted & ~true, ~predicted & true)
    return torch.stack([part.flatten(2).sum(dim=2) for part in parts], dim=2)


def dice(counts: Tensor) -> Tensor:
    """`2·TP / (2·TP + FP + FN)` (equation 2) of counts `(…, 3)`: `(…)` float64, NaN where all three are 0.

    Example:
        >>> dice(torch.tensor([[3, 1, 1], [0, 2, 0], [0, 0, 0]])).tolist()
        [0.75, 0.0, nan]
    """
    tp, fp, fn = counts.double().unbind(-1)
    return 2 * tp / (2 * tp + fp + fn)


def average_dice(counts: Tensor, *, slices: Slices = "any", weights: Tensor | None = None) -> DiceIndex:
    """ADI (equation 2): Dice per foreground class, mean over the sample's classes, mean over samples.

    A class that a sample has neither in its truth nor in its prediction is left out of that sample's mean; one that
    is predicted where there is none counts 0.

    Args:
        counts: `(N, C, 3)` of `dice_counts`.
        slices: samples that count: those with `any` foreground in their truth, or, as the authors have it, those
            with `every` foreground class.
        weights: `(*R, N)`, how often each sample counts; once by default.

    Returns:
        the index; `per_class` is the mean of the same class values over the same samples.

    Raises:
        ValueError: for an unknown `slices` or counts of another shape.

    Example:
        >>> counts = torch.tensor([[[1, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 0, 0]]])
        >>> round(average_dice(counts).mean.item(), 4), round(average_dice(counts, slices="every").mean.item(), 4)
        (0.6667, 0.3333)
    """
    _check(counts)
    present = counts[..., 0] + counts[..., 2] > 0
    if slices == "any":
        counted = present.any(dim=1)
    elif slices == "every":
        counted = present.all(dim=1)
    else:
        raise ValueError(f"slices must be 'any' or 'every', got {slices!r}")
    scores = dice(counts).masked_fill(~counted[:, None], torch.nan)
    columns = torch.cat([scores.nanmean(dim=1, keepdim=True), scores], dim=1)
    shares = torch.ones(len(counts), dtype=torch.float64) if weights is None else weights.double()
    shares = shares.to(columns.device)
    # A weighted mean over what is defined; 0/0 gives the NaN that says so where nothing is.
    means = (shares @ columns.nan_to_num(nan=0.0)) / (shares @ columns.isfinite().double())
    return DiceIndex(means[..., 0], means[..., 1:])


def total_dice(counts: Tensor, *, weights: Tensor | None = None) -> DiceIndex:
    """TVDI: counts summed over all samples, Dice per foreground class, mean over classes.

    A class found nowhere, neither true nor predicted, is left out of the mean.

    Args:
        counts: `(N, C, 3)` of `dice_counts`.
        weights: `(*R, N)`, how often each sample counts; once by default.

    Returns:
        the index and its class values.

    Raises:
        ValueError: for counts of another shape.

    Example:
        >>> total_dice(torch.tensor([[[1, 1, 0]], [[2, 0, 1]]])).mean.item()
        0.75
    """
    _check(counts)
    table = counts.double()
    sums = (
        table.sum(dim=0) if weights is None else (weights.double() @ table.flatten(1)).unflatten(-1, counts.shape[1:])
    )
    per_class = dice(sums)
    return DiceIndex(per_class.nanmean(dim=-1), per_class)


def _check(counts: Tensor) -> None:
    if counts.ndim != 3 or counts.shape[2] != 3:
        raise ValueError(f"counts must be (samples, classes, 3) with tp, fp, fn last, got shape {tuple(counts.shape)}")
