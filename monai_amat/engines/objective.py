"""The objective of an attack: the loss of a frozen network on one batch, and the verdict per sample."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from monai.inferers import Inferer, SimpleInferer
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from monai_amat.attacks import Evaluation, SampleMetric
from monai_amat.checks import check_per_sample
from monai_amat.engines.trees import select
from monai_amat.losses.base import PerSampleLoss
from monai_amat.margins.acceptance import Acceptance, Measurement

__all__ = ["BatchObjective", "measure"]


def measure(loss: PerSampleLoss, pred: Any, target: Any) -> Measurement:
    """Loss terms, their total, and what metrics look at, without a graph.

    Raises:
        ValueError: when a term is not one value per sample.
    """
    with torch.no_grad():
        terms = loss.terms(pred, target)
        count = tree_leaves(pred)[0].shape[0]
        for name, value in terms.items():
            check_per_sample(value, count, f"loss term {name!r}")
        return Measurement({**terms, "total": loss.total(terms)}, loss.prediction(pred, target), target)


@dataclass
class BatchObjective:
    """`objective(noisy, rows)` of one prepared batch; see `Objective`.

    Args:
        network: the frozen network.
        loss: the loss that is trained.
        target: targets of the whole batch.
        args: further positional network inputs, each a tree.
        kwargs: further named network inputs, each a tree.
        inferer: how the network is applied.
        acceptance: where verdicts are wanted.
        clean: what was measured on the whole clean batch, where the acceptance needs it.
    """

    network: nn.Module
    loss: PerSampleLoss
    target: Any
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    inferer: Inferer = field(default_factory=SimpleInferer)
    acceptance: Acceptance | None = None
    clean: Measurement | None = None

    def __call__(self, noisy: Tensor, rows: Tensor) -> Evaluation:
        """Loss `(n,)` of the rows at `noisy` and, with an acceptance, the verdict."""
        target = select(self.target, rows)
        pred = self.predict(noisy, rows)
        terms = self.loss.terms(pred, target)
        total = self.loss.total(terms)
        if self.acceptance is None:
            return Evaluation(total)
        with torch.no_grad():
            noisy_measured = Measurement({**terms, "total": total}, self.loss.prediction(pred, target), target)
            return Evaluation(total, self.acceptance(noisy_measured, self._clean_rows(rows)))

    def predict(self, inputs: Tensor, rows: Tensor) -> Any:
        """The network's raw output for some rows."""
        args = tuple(select(arg, rows) for arg in self.args)
        kwargs = {name: select(value, rows) for name, value in self.kwargs.items()}
        return self.inferer(inputs, self.network, *args, **kwargs)

    def at(self, progress: float) -> BatchObjective:
        """The objective at a share of the attack's steps, for a loss that changes along the attack (`SegPGDLoss`)."""
        at = getattr(self.loss, "at", None)
        return self if at is None else replace(self, loss=at(progress))

    def raising(self, loss: PerSampleLoss) -> BatchObjective:
        """The same objective with another loss, without verdicts."""
        return replace(self, loss=loss, acceptance=None)

    def score(self, metric: SampleMetric, noisy: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The metric and the loss of the rows at `noisy`, `(n,)` each, from one forward without a graph."""
        with torch.no_grad():
            target, pred = select(self.target, rows), self.predict(noisy, rows)
            return metric(self.loss.prediction(pred, target), target), self.loss.total(self.loss.terms(pred, target))

    def measure(self, inputs: Tensor) -> Measurement:
        """What the whole batch measures at `inputs`, without a graph."""
        with torch.no_grad():
            return measure(self.loss, self.predict(inputs, _all(inputs)), self.target)

    def judge(self, inputs: Tensor) -> Tensor | None:
        """The verdict `(B,)` on the whole batch at `inputs`; None without an acceptance."""
        with torch.no_grad():
            return self(inputs, _all(inputs)).accepted

    def _clean_rows(self, rows: Tensor) -> Measurement | None:
        if self.clean is None:
            return None
        clean = self.clean
        terms = {name: value[rows] for name, value in clean.terms.items()}
        return Measurement(terms, select(clean.pred, rows), select(clean.target, rows))


def _all(inputs: Tensor) -> Tensor:
    return torch.arange(len(inputs), device=inputs.device)
