"""When is a noisy sample still good enough? Line 9 of Algorithm 1 and section 2.3, as objects that combine."""

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
    """What was measured on some samples.

    Args:
        terms: name to `(n,)`: the loss terms and their weighted sum `"total"`.
        pred: what metrics look at (`PerSampleLoss.prediction`), sample at dim 0.
        target: the targets, sample at dim 0.
    """

    terms: Mapping[str, Tensor]
    pred: Any = None
    target: Any = None


class ThresholdSource(Protocol):
    """Fixed or running ξ."""

    @property
    def values(self) -> Mapping[str, float]:
        """ξ by term."""

    @property
    def ready(self) -> bool:
        """Whether ξ may be relied upon yet."""


class Acceptance(ABC):
    """`acceptance(noisy, clean) -> (n,)` bool; combine with `&` and `|`."""

    @abstractmethod
    def __call__(self, noisy: Measurement, clean: Measurement | None) -> Tensor:
        """Judge noisy samples. `clean` is given where `needs_clean` says so."""

    @property
    def needs_clean(self) -> bool:
        """Whether the verdict depends on what was measured on the clean sample."""
        return False

    @property
    def ready(self) -> bool:
        """False while a threshold is still warming up; margins wait."""
        return True

    @property
    def judged(self) -> frozenset[str]:
        """Names of the loss terms it has thresholds for, as far as they are known before training."""
        return frozenset()

    @property
    def running(self) -> tuple[RunningThresholds, ...]:
        """The thresholds that training must update for it, each once."""
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
        """Those of both; an object that both use counts once."""
        return tuple({id(running): running for running in (*self.first.running, *self.second.running)}.values())


class _Both(_Pair):
    def __call__(self, noisy: Measurement, clean: Measurement | None) -> Tensor:
        return self.first(noisy, clean) & self.second(noisy, clean)


class _Either(_Pair):
    def __call__(self, noisy: Measurement, clean: Measurement | None) -> Tensor:
        return self.first(noisy, clean) | self.second(noisy, clean)


@dataclass(frozen=True)
class Absolute(Acceptance):
    """Every judged term below its own threshold: line 9, and section 2.3 for several terms.

    Args:
        thresholds: `Thresholds`,
            `RunningThresholds` or a plain mapping from term to ξ.

    Example:
        >>> Absolute({"total": 1.0})(Measurement({"total": torch.tensor([0.5, 1.0])}), None)
        tensor([ True, False])
    """

    thresholds: ThresholdSource | Mapping[str, float]

    def __post_init__(self) -> None:
        if isinstance(self.thresholds, Mapping) and not self.thresholds:
            raise ValueError("Absolute needs a threshold ξ for at least one term")

    @property
    def ready(self) -> bool:
        """Fixed thresholds always are."""
        return isinstance(self.thresholds, Mapping) or self.thresholds.ready

    @property
    def judged(self) -> frozenset[str]:
        """The terms that have a ξ."""
        return frozenset(self._values)

    @property
    def running(self) -> tuple[RunningThresholds, ...]:
        """The thresholds, where they are kept while training."""
        return (self.thresholds,) if isinstance(self.thresholds, RunningThresholds) else ()

    @property
    def _values(self) -> Mapping[str, float]:
        return self.thresholds if isinstance(self.thresholds, Mapping) else self.thresholds.values

    def __call__(self, noisy: Measurement, clean: Measurement | None) -> Tensor:
        """`(n,)`; a term that is NaN is not below anything."""
        values = self._values
        missing = sorted(set(values) - set(noisy.terms))
        if missing:
            raise ValueError(
                f"thresholds are for the terms {sorted(values)}, but the loss gives {sorted(noisy.terms)}; "
                "calibrate with the loss that is trained"
            )
        if not values:  # running thresholds before their first step
            return torch.zeros_like(next(iter(noisy.terms.values())), dtype=torch.bool)
        return torch.stack([noisy.terms[name] < value for name, value in values.items()]).all(dim=0)


@dataclass(frozen=True)
class Relative(Acceptance):
    """A term that grew by less than `tolerance` over the same sample's clean value.

    For samples whose clean loss is above ξ already: with ξ = mean(V) about half of them.

    Args:
        tolerance: τ, in the units of the loss.
        term: which term; the total by default.

    Example:
        >>> noisy, clean = Measurement({"total": torch.tensor([1.5])}), Measurement({"total": torch.tensor([1.4])})
        >>> Relative(0.2)(noisy, clean)
        tensor([True])
    """

    tolerance: float
    term: str = "total"

    @property
    def needs_clean(self) -> bool:
        """Always."""
        return True

    @property
    def judged(self) -> frozenset[str]:
        """Its term."""
        return frozenset({self.term})

    def __call__(self, noisy: Measurement, clean: Measurement | None) -> Tensor:
        """`(n,)` bool."""
        if clean is None:
            raise ValueError("Relative acceptance needs what was measured on the clean samples")
        for measured in (noisy, clean):
            if self.term not in measured.terms:
                raise ValueError(f"Relative judges the term '{self.term}', but the loss gives {sorted(measured.terms)}")
        return noisy.terms[self.term] - clean.terms[self.term] < self.tolerance


@dataclass(frozen=True)
class MetricAtLeast(Acceptance):
    """A per-sample metric of at least `threshold`: with hard Dice, the authors' nnU-Net code.

    Args:
        metric: `metric(pred, target) -> (n,)`, larger is better.
        threshold: least acceptable value.

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
