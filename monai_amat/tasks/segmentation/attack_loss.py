"""A smooth form of the average Dice index, for attacks on the very metric that is reported."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from monai_amat.checks import check_positive
from monai_amat.losses.attack import Activation, PixelLoss, decisions
from monai_amat.losses.base import PerSampleLoss, full_precision

__all__ = ["SmoothDiceIndex"]


class SmoothDiceIndex(PerSampleLoss):
    r"""One minus a smooth form of a sample's ADI (equation 2); attacks raise it.

    With the margin $m_k(v) = z_k - \max_{j \ne k} z_j$ of foreground class k at pixel v (with sigmoid the logit
    itself), $p_k = \sigma(m_k / \tau)$ and the truth $t_k$,

    $$
    D_k = \frac{2 \sum_v p_k t_k}{\sum_v p_k + \sum_v t_k}, \qquad
    a_k = \sigma\left(\max_v m_k(v)\right), \qquad
    L = 1 - \frac{\sum_{k \in P} D_k}{|P| + \sum_{k \notin P} a_k},
    $$

    P being the classes present in the truth. ADI gives 0 to an absent class as soon as one pixel is predicted, and
    leaves it out where none is; so $a_k$ counts how near one pixel is to the absent class. Where no class is
    present the loss is the mean of the $a_k$.

    As training minimises losses and attacks raise them, the same object serves both; it is written for attacks.

    Args:
        activation: `"softmax"` (class 0 is background) or `"sigmoid"` (every channel is a foreground class).
        temperature: τ, greater than 0, in the units of the logits.

    Raises:
        ValueError: if a setting is out of range.

    Example:
        >>> logits = torch.tensor([[[4.0, -4.0, -4.0], [-4.0, 4.0, 4.0], [-9.0, -9.0, -9.0]]]).unsqueeze(2)
        >>> labels = torch.tensor([[[[0, 1, 1]]]])
        >>> round(SmoothDiceIndex()(logits, labels).item(), 4)  # class 1 found, class 2 absent and not predicted
        0.0
        >>> logits[0, 2, 0, 0] = 9.0  # one pixel of class 2
        >>> round(SmoothDiceIndex()(logits, labels).item(), 4)
        0.4983
    """

    def __init__(self, *, activation: Activation = "softmax", temperature: float = 0.5) -> None:
        super().__init__()
        if activation not in ("softmax", "sigmoid"):
            raise ValueError(f"activation must be 'softmax' or 'sigmoid', got {activation!r}")
        check_positive("temperature", temperature)
        self.activation: Activation = activation
        self.temperature = float(temperature)

    def terms(self, pred: Any, target: Tensor) -> dict[str, Tensor]:
        """The loss of each sample, `{"smooth_adi": (B,)}`.

        Args:
            pred: logits `(B, C, *spatial)`, stacked heads `(B, H, C, *spatial)` or a list of heads, of which the first
                counts.
            target: label map `(B, 1, *spatial)` or one-hot; with sigmoid `(B, C, *spatial)`.

        Raises:
            ValueError: if logits and truth do not fit.
        """
        logits = self.prediction(pred, target)
        with torch.autocast(logits.device.type, enabled=False):
            return {"smooth_adi": self._loss(*self._margins(logits, target))}

    def prediction(self, pred: Any, target: Tensor) -> Tensor:
        """The head of full resolution, `(B, C, *spatial)`."""
        return PixelLoss.prediction(self, pred, target)  # type: ignore[arg-type]

    def extra_repr(self) -> str:
        """The settings."""
        return f"activation={self.activation!r}, temperature={self.temperature:g}"

    def _margins(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Margins and truth `(B, K, V)` of the foreground classes."""
        if self.activation == "sigmoid":
            decisions(logits, target, "sigmoid")  # checks the shapes
            margins = full_precision(logits).flatten(2)
            return margins, (target.as_subclass(Tensor).to(margins.device).flatten(2) > 0.5).to(margins.dtype)
        flat, labels = decisions(logits, target, "softmax")
        # The best of the other classes is the second best where the class itself is the best.
        best, second = flat.topk(2, dim=1).values.unbind(1)
        others = torch.where(flat == best.unsqueeze(1), second.unsqueeze(1), best.unsqueeze(1))
        classes = torch.arange(1, flat.shape[1], device=flat.device).view(1, -1, 1)
        return (flat - others)[:, 1:], (labels.unsqueeze(1) == classes).to(flat.dtype)

    def _loss(self, margins: Tensor, truth: Tensor) -> Tensor:
        p = torch.sigmoid(margins / self.temperature)
        size = truth.sum(2)
        present = size > 0
        dice = 2 * (p * truth).sum(2) / (p.sum(2) + size).clamp_min(1e-12)
        predicted = torch.sigmoid(margins.amax(2))
        absent = torch.where(present, 0.0, predicted).sum(1)
        count = present.sum(1)
        score = torch.where(present, dice, 0.0).sum(1) / (count + absent).clamp_min(1e-12)
        return torch.where(count > 0, 1 - score, predicted.mean(1))
