"""Losses for attacks on classifiers and segmentation networks, one value per sample, for softmax and sigmoid."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from monai_amat.checks import check_within
from monai_amat.losses.base import PerSampleLoss, full_precision

__all__ = [
    "AttackCrossEntropy",
    "CosPGDLoss",
    "JensenShannon",
    "MarginRatio",
    "PixelLoss",
    "SegPGDLoss",
    "SphericalLoss",
]

Activation = Literal["softmax", "sigmoid"]


class PixelLoss(PerSampleLoss):
    """A loss of each pixel, averaged over the pixels of a sample; the base of the losses in this file.

    - *softmax*: logits `(B, C, *spatial)` and a label map `(B, 1, *spatial)` or one-hot truth `(B, C, *spatial)`; for a
      classifier logits `(B, C)` and labels `(B,)` or `(B, 1)`.
    - *sigmoid*: logits and truth `(B, C, *spatial)`; each channel of each pixel is a decision between two classes,
      whose logits are ±z/2.

    Of several heads, stacked `(B, H, C, *spatial)` or in a list, the first is used: it is the prediction.
    Everything is computed in float32, under autocast too, or in float64 if the logits are float64.

    A subclass implements `pixels`.

    Args:
        activation: `"softmax"` or `"sigmoid"`.

    Raises:
        ValueError: if the activation is unknown.
    """

    def __init__(self, *, activation: Activation = "softmax") -> None:
        super().__init__()
        if activation not in get_args(Activation):
            raise ValueError(f"activation must be one of {get_args(Activation)}, got {activation!r}")
        self.activation = activation

    @abstractmethod
    def pixels(self, logits: Tensor, truth: Tensor) -> Tensor:
        """The loss of each pixel.

        Args:
            logits: `(B, C, V)` of the V pixels; with sigmoid C = 2 and V counts the pixels of all channels.
            truth: `(B, V)` int64, the class of each pixel.

        Returns:
            `(B, V)`.
        """

    def terms(self, pred: Any, target: Any) -> dict[str, Tensor]:
        """The mean over the pixels of each sample, `{"pixels": (B,)}`.

        Raises:
            ValueError: if the shapes of logits and truth do not match.
        """
        logits, truth = decisions(self.prediction(pred, target), target, self.activation)
        with torch.autocast(logits.device.type, enabled=False):
            return {"pixels": self.pixels(logits, truth).mean(1)}

    def prediction(self, pred: Any, target: Any) -> Any:
        """The head of full resolution."""
        if isinstance(pred, list | tuple):
            return pred[0]
        return pred[:, 0] if isinstance(target, Tensor) and pred.ndim == target.ndim + 1 and target.ndim > 2 else pred

    def extra_repr(self) -> str:
        """The settings."""
        return f"activation={self.activation!r}"


def decisions(logits: Tensor, target: Tensor, activation: Activation) -> tuple[Tensor, Tensor]:
    """Logits and truth of every decision of each sample.

    Returns:
        logits `(B, C, V)` and classes `(B, V)` int64; with sigmoid C is 2 and V counts all channels' pixels.

    Raises:
        ValueError: if the shapes do not match, or a label is outside the classes.

    Example:
        >>> logits, truth = decisions(torch.tensor([[3.0, -1.0]]), torch.tensor([[1.0, 0.0]]), "sigmoid")
        >>> logits.tolist(), truth.tolist()
        ([[[-1.5, 0.5], [1.5, -0.5]]], [[1, 0]])
    """
    flat = full_precision(logits).flatten(2) if logits.ndim > 2 else full_precision(logits).unsqueeze(-1)
    truth = target.as_subclass(Tensor).detach().to(flat.device)
    shapes = f"logits {tuple(logits.shape)}, truth {tuple(target.shape)}"
    if activation == "sigmoid":
        if truth.shape != logits.shape:
            raise ValueError(f"with sigmoid, truth must have the shape of the logits, got {shapes}")
        half = flat.flatten(1).unsqueeze(1) / 2
        return torch.cat([-half, half], dim=1), (truth.flatten(1) > 0.5).long()
    batch, channels, pixels = flat.shape
    if channels < 2:
        raise ValueError(f"softmax needs at least 2 channels, got {shapes}; use activation='sigmoid'")
    if truth.shape == logits.shape and truth.ndim > 1:
        return flat, truth.reshape(flat.shape).argmax(1)
    if truth.numel() != batch * pixels or len(truth) != batch:
        raise ValueError(f"truth must be a label map (B, 1, *spatial) or one-hot like the logits, got {shapes}")
    labels = truth.reshape(batch, pixels).long()
    if labels.device.type == "cpu" and labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < channels:
        raise ValueError(f"labels must lie in 0..{channels - 1}, got {int(labels.min())}..{int(labels.max())}")
    return flat, labels


def true_logit(logits: Tensor, truth: Tensor) -> Tensor:
    """The logit of the true class, `(B, V)`."""
    return logits.gather(1, truth.unsqueeze(1)).squeeze(1)


def right(logits: Tensor, truth: Tensor) -> Tensor:
    """Whether each pixel is predicted correctly, `(B, V)` bool."""
    return logits.detach().argmax(1) == truth


def class_weights(truth: Tensor, classes: int) -> Tensor:
    """Weight of each pixel, `(B, V)`: the same sum for each class that occurs in the sample, mean 1 over its pixels.

    Example:
        >>> class_weights(torch.tensor([[0, 0, 0, 1]]), 3).tolist()[0]
        [0.6666666865348816, 0.6666666865348816, 0.6666666865348816, 2.0]
    """
    counts = truth.new_zeros(len(truth), classes).scatter_add_(1, truth, torch.ones_like(truth))
    present = (counts > 0).sum(1, keepdim=True)
    weights = truth.shape[1] / (counts.clamp(min=1) * present)
    return weights.gather(1, truth)


class AttackCrossEntropy(PixelLoss):
    r"""Cross-entropy $w_y\,m\,(-\log p_y)$ of each pixel, balanced or masked or both.

    Masked: only pixels that are predicted correctly count (m = 1), so that the attack spends nothing on pixels that
    are wrong already. Balanced: each class that occurs in a sample has the same weight, so that the background does
    not dominate. Masked and balanced is the strongest single loss for IoU in Croce, Singh and Hein 2024.

    Args:
        balanced: whether the classes of a sample have the same weight.
        masked: whether only pixels that are predicted correctly count.
        activation: see `PixelLoss`.

    Example:
        >>> logits, labels = torch.tensor([[[2.0, -1.0], [0.0, 0.0]]]), torch.tensor([[[0, 0]]])
        >>> [round(AttackCrossEntropy(masked=m)(logits, labels).item(), 4) for m in (False, True)]
        [0.7201, 0.0635]
    """

    def __init__(self, *, balanced: bool = False, masked: bool = False, activation: Activation = "softmax") -> None:
        super().__init__(activation=activation)
        self.balanced = balanced
        self.masked = masked

    def pixels(self, logits: Tensor, truth: Tensor) -> Tensor:
        """The loss of each pixel; see the class."""
        loss = functional.cross_entropy(logits, truth, reduction="none")
        if self.balanced:
            loss = loss * class_weights(truth, logits.shape[1])
        return loss * right(logits, truth) if self.masked else loss

    def extra_repr(self) -> str:
        """The settings."""
        return f"balanced={self.balanced}, masked={self.masked}, {super().extra_repr()}"


class JensenShannon(PixelLoss):
    r"""Jensen-Shannon divergence of prediction and truth, $\ln 2 + \frac12[p \ln p - (1 + p) \ln(1 + p)]$.

    p is the probability of the true class. The loss is at most ln 2: the gradient of a pixel that is clearly wrong
    vanishes without a mask.

    Example:
        >>> loss = JensenShannon()(torch.tensor([[0.0, 0.0], [-60.0, 60.0]]), torch.tensor([0, 0]))
        >>> [round(value, 4) for value in loss.tolist()]
        [0.2158, 0.6931]
    """

    def pixels(self, logits: Tensor, truth: Tensor) -> Tensor:
        """The loss of each pixel; see the class."""
        log_p = true_logit(functional.log_softmax(logits, dim=1), truth)
        p = log_p.exp()
        return math.log(2) + 0.5 * (p * log_p - (1 + p) * torch.log1p(p))


class SphericalLoss(PixelLoss):
    r"""Minus the true logit over the length of the logits, $-m\,z_y/\lVert z \rVert_2$.

    Only pixels that are predicted correctly count (m = 1). The loss does not depend on the scale of the logits, so
    that its gradient stays useful where the softmax is saturated. With sigmoid the length is the root mean square of
    the sample's logits, because the length of a single logit is the logit itself.

    Example:
        >>> logits = torch.tensor([[3.0, 4.0]], requires_grad=True)
        >>> SphericalLoss()(1e6 * logits, torch.tensor([1])).backward()
        >>> logits.grad.norm().item() > 0.01
        True
    """

    def pixels(self, logits: Tensor, truth: Tensor) -> Tensor:
        """The loss of each pixel; see the class."""
        # The logits are first divided by the largest, because the squares of large logits overflow.
        axes = (1, 2) if self.activation == "sigmoid" else (1,)
        largest = logits.detach().abs().amax(dim=axes, keepdim=True)
        scaled = logits / torch.where(largest > 0, largest, 1.0)
        squares = scaled[:, 1].square().mean(1, keepdim=True) if len(axes) == 2 else scaled.square().sum(1)
        length = torch.where(squares > 0, squares, 1.0).sqrt()
        return -true_logit(scaled, truth) / length * right(logits, truth)


class SegPGDLoss(PixelLoss):
    r"""Cross-entropy whose weight moves from correct to wrong pixels along the attack (Gu et al. 2022, SegPGD).

    $(1 - \lambda)\,CE$ on pixels that are predicted correctly and $\lambda\,CE$ on wrong pixels, with
    $\lambda = t/(2T)$ at step t of T. An attack with a fixed number of steps gives its progress to the objective,
    which gives it to the loss (`at`); attacks that compare the losses of their steps use λ = ½, the final form.

    Args:
        progress: t/T, from 0 to 1; 1 by default.
        activation: see `PixelLoss`.

    Raises:
        ValueError: if the progress is outside [0, 1].

    Example:
        >>> logits, labels = torch.tensor([[[2.0, -1.0], [0.0, 0.0]]]), torch.tensor([[[0, 0]]])
        >>> [round(SegPGDLoss().at(progress)(logits, labels).item(), 4) for progress in (0.0, 1.0)]
        [0.0635, 0.36]
    """

    def __init__(self, *, progress: float = 1.0, activation: Activation = "softmax") -> None:
        super().__init__(activation=activation)
        check_within("progress", progress, 0, 1)
        self.progress = float(progress)

    def at(self, progress: float) -> SegPGDLoss:
        """The loss at a share of an attack's steps, from 0 to 1."""
        return SegPGDLoss(progress=progress, activation=self.activation)

    def pixels(self, logits: Tensor, truth: Tensor) -> Tensor:
        """The loss of each pixel; see the class."""
        loss = functional.cross_entropy(logits, truth, reduction="none")
        wrong_share = self.progress / 2
        return loss * torch.where(right(logits, truth), 1 - wrong_share, wrong_share)


class CosPGDLoss(PixelLoss):
    r"""Cross-entropy weighted by the cosine of prediction and truth (Agnihotri et al. 2024, CosPGD).

    $\frac{p_y}{\lVert p \rVert_2} CE$; the weight has no gradient, and is small for pixels that are clearly wrong.

    Example:
        >>> CosPGDLoss()(torch.tensor([[0.0, 0.0]]), torch.tensor([0]))  # ln 2 / sqrt 2
        tensor([0.4901])
    """

    def pixels(self, logits: Tensor, truth: Tensor) -> Tensor:
        """The loss of each pixel; see the class."""
        with torch.no_grad():
            p = torch.softmax(logits, dim=1)
            weight = true_logit(p, truth) / p.square().sum(1).sqrt()
        return weight * functional.cross_entropy(logits, truth, reduction="none")


class MarginRatio(PixelLoss):
    r"""Difference of logits ratio, $-(z_y - \max_{c \ne y} z_c)/(z_{(1)} - z_{(3)})$ (Croce and Hein 2020).

    The loss does not depend on shift and scale of the logits. It needs softmax with at least 3 classes.

    Raises:
        ValueError: if the activation is sigmoid, or there are fewer than 3 classes.

    Example:
        >>> MarginRatio()(torch.tensor([[3.0, 1.0, -1.0]]), torch.tensor([0]))
        tensor([-0.5000])
    """

    def __init__(self, *, activation: Activation = "softmax") -> None:
        super().__init__(activation=activation)
        if activation != "softmax":
            raise ValueError("MarginRatio needs activation='softmax', got activation='sigmoid'; use SphericalLoss")

    def pixels(self, logits: Tensor, truth: Tensor) -> Tensor:
        """The loss of each pixel; see the class."""
        if logits.shape[1] < 3:
            raise ValueError(f"MarginRatio needs at least 3 classes, got {logits.shape[1]}; use SphericalLoss")
        ordered = logits.topk(3, dim=1).values
        true = true_logit(logits, truth)
        other = torch.where(right(logits, truth), ordered[:, 1], ordered[:, 0])
        return -(true - other) / (ordered[:, 0] - ordered[:, 2]).clamp_min(1e-12)
