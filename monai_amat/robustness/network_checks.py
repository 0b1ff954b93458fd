"""What an attack sees of a network: whether two forwards agree, and whether its outputs leave the loss a gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from monai_amat.attacks import L2, AttackResult, Norm, Objective
from monai_amat.engines.objective import BatchObjective

__all__ = ["RANDOM", "SATURATED", "NetworkCheck", "is_probability", "saturated_share"]

RANDOM = 1e-3
"""Two forwards that differ by more than this share of the largest output are random."""

SATURATED = 17.0
"""From this lead of the best logit on, single precision rounds the softmax to 1 and its gradient to 0."""


def is_probability(pred: Tensor) -> bool:
    """Whether an output `(B, C, …)` holds probabilities: values in 0..1 whose sum over the channels is 1.

    Example:
        >>> is_probability(torch.tensor([[0.25, 0.75]])), is_probability(torch.tensor([[0.25, 2.0]]))
        (True, False)
    """
    if pred.ndim < 2 or pred.shape[1] < 2:
        return False
    return bool(((pred >= 0) & (pred <= 1)).all() and ((pred.sum(1) - 1).abs() < 1e-2).all())


def saturated_share(pred: Tensor) -> float:
    """Share of the places of logits `(B, C, …)` whose softmax is 1 in single precision; 0 for a single channel.

    Example:
        >>> saturated_share(torch.tensor([[0.0, 20.0], [0.0, 2.0]]))
        0.5
    """
    if pred.ndim < 2 or pred.shape[1] < 2 or not pred.numel():
        return 0.0
    first, second = pred.float().topk(2, dim=1).values.unbind(1)
    return float((first - second > SATURATED).float().mean())


@dataclass
class NetworkCheck:
    """An attack that changes nothing, and notes what the attacked network is like.

    It takes the place of an attack in a `PrepareBatch…`, and so sees network, inferer and loss just as the attack does.

    Args:
        difference: largest difference of two forwards of the same images, as a share of the largest output.
        saturated: share of the places whose softmax is 1 in single precision, of the batches so far.
        probabilities: whether the output holds probabilities, for each batch so far.
    """

    norm: Norm = field(default_factory=L2)
    difference: float = 0.0
    saturated: list[float] = field(default_factory=list)
    probabilities: list[bool] = field(default_factory=list)

    @property
    def needs_verdicts(self) -> bool:
        """Never."""
        return False

    def __call__(
        self, objective: Objective, inputs: Tensor, radius: Tensor | float, *, seeds: Sequence[int] | None = None
    ) -> AttackResult:
        """Two forwards of the clean images.

        Raises:
            TypeError: for an objective that is not a `BatchObjective`.
        """
        if not isinstance(objective, BatchObjective):
            raise TypeError(f"a network is checked through a BatchObjective, got {type(objective).__name__}")
        rows = torch.arange(len(inputs), device=inputs.device)
        with torch.no_grad():
            first, second = (floats(objective.predict(inputs, rows)) for _ in range(2))
            pred = objective.loss.prediction(objective.predict(inputs, rows), objective.target)
        for one, other in zip(first, second, strict=True):
            if one.numel():
                scale = float(one.abs().max()) or 1.0
                self.difference = max(self.difference, float((one - other).abs().max()) / scale)
        if isinstance(pred, Tensor) and pred.is_floating_point():
            self.probabilities.append(is_probability(pred))
            self.saturated.append(saturated_share(pred))
        count = torch.zeros(len(inputs), dtype=torch.int64, device=inputs.device)
        return AttackResult(inputs.detach().clone(), None, None, count, count.clone())

    def report(self) -> dict[str, Any]:
        """What was found, for JSON."""
        return {
            "difference_of_two_forwards": self.difference,
            "random": self.difference > RANDOM,
            "probabilities": bool(self.probabilities) and all(self.probabilities),
            "saturated": sum(self.saturated) / len(self.saturated) if self.saturated else 0.0,
        }


def floats(tree: Any) -> list[Tensor]:
    """The floating-point tensors of an output, in single precision."""
    leaves = (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.is_floating_point())
    return [leaf.as_subclass(Tensor).float() for leaf in leaves]
