"""The contract of a per-sample loss: named terms of shape (B,), their weighted sum, and the input of metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from monai_amat.checks import check_not_negative, check_per_sample


def full_precision(tensor: Tensor) -> Tensor:
    """A plain tensor with the same values; half precision becomes float32, float64 and integers keep their type.

    Margins depend on the difference between the losses of a clean and a noisy sample, and half precision would round
    it away.

    Example:
        >>> full_precision(torch.zeros(2, dtype=torch.bfloat16)).dtype
        torch.float32
    """
    # A MetaTensor would carry its metadata through every operation of the loss, and into the result.
    tensor = tensor.as_subclass(Tensor)
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


class PerSampleLoss(nn.Module, ABC):
    """A loss that returns one value per sample, made of named terms.

    MONAI's trainer takes the mean of what the loss returns, so over a doubled batch `[x ; x~]` it minimises
    `(L(f(x)) + L(f(x~))) / 2`, the paper's equation 1. Algorithm 1 compares the loss of each noisy sample with a
    threshold of its own, so nothing in a sample's loss may depend on another sample.

    A subclass implements `terms`. It overrides `prediction` if the network returns more than metrics need.

    Attributes:
        weights: weight of each term in the total, by name; a term that is missing here has weight 1.
        judged: names of the terms that get a threshold, or `"total"`.

    Args:
        weights: weight of each term in the total, by name; finite and at least 0.
        judged: names of the terms that get a threshold, or `"total"`; not empty.

    Raises:
        ValueError: if a weight is negative or not finite, or `judged` is empty.

    Example:
        >>> class Absolute(PerSampleLoss):
        ...     def terms(self, pred, target):
        ...         return {"l1": (pred - target).abs().flatten(1).mean(1)}
        >>> Absolute(weights={"l1": 2.0})(torch.ones(3, 4), torch.zeros(3, 4))
        tensor([2., 2., 2.])
    """

    weights: dict[str, float]
    judged: tuple[str, ...]

    def __init__(self, *, weights: Mapping[str, float] | None = None, judged: Sequence[str] = ("total",)) -> None:
        super().__init__()
        self.weights = {name: float(weight) for name, weight in (weights or {}).items()}
        for name, weight in self.weights.items():
            check_not_negative(f"weight of loss term {name!r}", weight)
        if isinstance(judged, str) or not judged:
            raise ValueError(f"judged must be a non-empty sequence of term names or 'total', got {judged!r}")
        self.judged = tuple(judged)
        self._forward_terms: dict[str, Tensor] | None = None

    @abstractmethod
    def terms(self, pred: Any, target: Any) -> dict[str, Tensor]:
        """The loss of each sample, one tensor per term.

        Args:
            pred: output of the network: a tree (tensor, list, tuple, dict) of tensors with the sample at dim 0.
            target: the truth, a tree of the same kind.

        Returns:
            for each name a tensor of shape `(B,)`, at least float32, differentiable in `pred`; value i depends on
            sample i alone. The name `"total"` is reserved for the weighted sum.
        """

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of the terms, shape `(B,)`.

        Raises:
            ValueError: if there are no terms, a term is called `"total"`, or a weight belongs to an unknown term.
        """
        if not terms or "total" in terms:
            raise ValueError(
                f"{type(self).__name__}.terms must return at least one term, none of them 'total', got {list(terms)}"
            )
        if unknown := self.weights.keys() - terms.keys():
            raise ValueError(f"weights must belong to the loss terms {list(terms)}, got {sorted(unknown)}")
        first, *rest = (self.weights.get(name, 1.0) * value for name, value in terms.items())
        return sum(rest, start=first)

    def forward(self, pred: Any, target: Any) -> Tensor:
        """The weighted sum of all terms, shape `(B,)`.

        Raises:
            TypeError: if a term is not a tensor.
            ValueError: if a term is not of shape `(B,)`.
        """
        terms = self.terms(pred, target)
        batch = tree_leaves(pred)[0].shape[0]
        for name, value in terms.items():
            check_per_sample(value, batch, f"loss term {name!r}")
        total = self.total(terms)
        self._forward_terms = {name: value.detach() for name, value in {**terms, "total": total}.items()}
        return total

    def take_terms(self) -> dict[str, Tensor] | None:
        """The terms and `"total"` of the last `forward`, detached, `(B,)` each, so that they are computed once.

        Each call of `forward` gives one result: None if `forward` was not called since the last `take_terms`.
        """
        terms, self._forward_terms = self._forward_terms, None
        return terms

    def prediction(self, pred: Any, target: Any) -> Any:
        """The part of `pred` that metrics and pictures use: here all of it."""
        return pred
