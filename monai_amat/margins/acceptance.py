"""Whether a noisy sample is accepted: line 9 of Algorithm 1 and section 2.3, as objects that can be combined."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from monai_amat.margins.thresholds import RunningThresholds

__all__ = ["Absolute", "Acceptance", "Measurement", "MetricAtLeast", "Relative", "ThresholdSource"]


@dataclass(frozen=True)
class Measurement:
    """Losses and predictions of some samples.

    Args:
        terms: name to `(n,)`: the loss terms and their weighted sum `"total"`.
        pred: the predictions for metrics (`PerSampleLoss.prediction`), sample at dim 0.
        target: the targets, sample at dim 0.
    """

    terms: Mapping[str, Tensor]
    pred: Any = None
    target: Any = None


class ThresholdSource(Protocol):
    """Fixed or running thresholds ξ."""

    @property
    def values(self) -> Mapping[str, float]:
        """ξ by term."""

    @property
    def ready(self) -> bool:
        """Whether ξ may be used already."""


class Acceptance(ABC):
    """`acceptance(noisy, clean) -> (n,)` bool; combine two of them with `&` and `|`."""

    @abstractmethod
    def __call__(self, noisy: Measurement, clean: Measurement | None) -> Tensor:
        """Judge noisy samples; `clean` is required if `needs_clean` is true."""

    @property
    def needs_clean(self) -> bool:
        """Whether the verdict depends on what was measured on the clean sample."""
        return False

    @property
    def ready(self) -> bool:
        """Whether all thresholds are warmed up; margins do not move before that."""
        return True

    @property
    def judged(self) -> frozenset[str]:
        """Names of the loss terms that have a threshold, as far as they are known before training."""
        return frozenset()

    @property
    def running(self) -> tuple[RunningThresholds, ...]:
        """The running thresholds that the training must update, each once."""
        return ()

    def __and__(self, other: Acceptance) -> Acceptance:
        return _Both(self, other)

    def __or__(self, other: Acceptance) -> Acceptance:
        return _Either(self, other)


@dataclass(frozen=True)
class _Pair(Acceptance):
    first: Acceptance
    second: Acceptance

    @property
    def needs_clean(self) -> bool:
        return self.first.needs_clean or self.second.needs_clean

    @property
    def ready(self) -> bool:
        return self.first.ready and self.second.ready

    @property
    def judged(self) -> frozenset[str]:
        return self.first.judged | self.second.judged

    @property
    def running(self) -> tuple[RunningThresholds, ...]:
        """The running thresholds of both; an object that both use is listed once."""
        return tuple({id(running): running for running in (*self.first.running, *self.second.running)}.values())


class _Both(_Pair):
    def __call__(self, noisy: Measurement, clean: Measurement | None) -> Tensor:
        return self.first(noisy, clean) & self.second(noisy, clean)


class _Either(_Pair):
    def __call__(self, noisy: Measurement, clean: Measurement | None) -> Tensor:
        return self.first(noisy, clean) | self.second(noisy, clean)


@dataclass(frozen=True)
class Absolute(Acceptance):
    """Accept a sample if every judged term is below its threshold: line 9, and section 2.3 for several terms.

    Args:
        thresholds: `Thresholds`, `RunningThresholds` or a plain mapping from term to ξ.

    Raises:
        ValueError: if a plain mapping is empty.

    Example:
        >>> Absolute({"total": 1.0})(Measurement({"total": torch.tensor([0.5, 1.0])}), None)
        tensor([ True, False])
    """

    thresholds: ThresholdSource | Mapping[str, float]

    def __post_init__(self) -> None:
        if isinstance(self.thresholds, Mapping) and not self.thresholds:
            raise ValueError("thresholds must hold ξ for at least one term, got none")

    @property
    def ready(self) -> bool:
        """True for fixed thresholds."""
        return isinstance(self.thresholds, Mapping) or self.thresholds.ready

    @property
    def judged(self) -> frozenset[str]:
        """The terms that have a ξ."""
        return frozenset(self._values)

    @property
    def running(self) -> tuple[RunningThresholds, ...]:
        """The thresholds, if they are running thresholds."""
        return (self.thresholds,) if isinstance(self.thresholds, RunningThresholds) else ()

    @property
    def _values(self) -> Mapping[str, float]:
        return self.thresholds if isinstance(self.thresholds, Mapping) else self.thresholds.values

    def __call__(self, noisy: Measurement, clean: Measurement | None) -> Tensor:
        """`(n,)` bool; a sample with a term that is NaN is rejected."""
        values = self._values
        missing = sorted(set(values) - set(noisy.terms))
        if missing:
            raise ValueError(
                f"the loss must give the terms {sorted(values)} that have thresholds, got {sorted(noisy.terms)}; "
                "calibrate with the loss of the training"
            )
        if not values:  # running thresholds before their first step
            return torch.zeros_like(next(iter(noisy.terms.values())), dtype=torch.bool)
        return torch.stack([noisy.terms[name] < value for name, value in values.items()]).all(dim=0)


@dataclass(frozen=True)
class Relative(Acceptance):
    """Accept a sample if noise raises a term by less than `tolerance` over its clean value.

    It is meant for samples whose clean loss is above ξ already: with ξ = mean(V) about half of all samples.

    Args:
        tolerance: τ, in the units of the loss.
        term: name of the judged term; the total by default.

    Example:
        >>> noisy, clean = Measurement({"total": torch.tensor([1.5])}), Measurement({"total": torch.tensor([1.4])})
        >>> Relative(0.2)(noisy, clean)
        tensor([True])
    """

    tolerance: float
    term: str = "total"

    @property
    def needs_clean(self) -> bool:
        """True: the clean value is the reference."""
        return True

    @property
    def judged(self) -> frozenset[str]:
        """The name of its term."""
        return frozenset({self.term})

    def __call__(self, noisy: Measurement, clean: Measurement | None) -> Tensor:
        """`(n,)` bool."""
        if clean is None:
            raise ValueError("Relative needs the measurement of the clean samples, got None")
        for measured in (noisy, clean):
            if self.term not in measured.terms:
                raise ValueError(f"the loss must give the judged term '{self.term}', got {sorted(measured.terms)}")
        return noisy.terms[self.term] - clean.terms[self.term] < self.tolerance


@dataclass(frozen=True)
class MetricAtLeast(Acceptance):
    """Accept a sample if its metric is at least `threshold`: with hard Dice, the authors' nnU-Net code.

    Args:
        metric: `metric(pred, target) -> (n,)`, larger is better.
        threshold: least accepted value.

    Example:
        >>> same = MetricAtLeast(lambda pred, target: (pred == target).float().mean(dim=1), 0.75)
        >>> same(Measurement({}, torch.tensor([[1, 1, 0, 0]]), torch.tensor([[1, 1, 1, 0]])), None)
        tensor([True])
    """

    metric: Callable[[Any, Any], Tensor]
    threshold: float

    def __call__(self, noisy: Measurement, clean: Measurement | None) -> Tensor:
        """`(n,)` bool."""
        return self.metric(noisy.pred, noisy.target) >= self.threshold
