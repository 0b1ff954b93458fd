"""Several attacks, each with its own loss, of which the worst result per sample is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from monai_amat.attacks.base import Attack, AttackResult, Evaluation, Objective, as_evaluation, check_attack
from monai_amat.attacks.norms import Norm
from monai_amat.attacks.progress import at_progress
from monai_amat.checks import check_per_sample

__all__ = ["Member", "SampleMetric", "SwitchableObjective", "WorstOf"]

SampleMetric = Callable[[Any, Any], Tensor]
"""`metric(pred, target) -> (B,)`: one value per sample; NaN if a sample has none."""


@runtime_checkable
class SwitchableObjective(Protocol):
    """An objective that can raise another loss on the same samples, and measure a metric on them."""

    def __call__(self, noisy: Tensor, rows: Tensor) -> Evaluation | Tensor:
        """See `Objective`."""

    def raising(self, loss: Any) -> Objective:
        """The same objective with another loss."""

    def score(self, metric: SampleMetric, noisy: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The metric and the objective's own loss of the rows at `noisy`, `(n,)` each, from one forward."""


@dataclass(frozen=True)
class Member:
    """One attack of a suite.

    Args:
        attack: the attack itself.
        loss: the loss that it raises; None for the loss of the objective.
    """

    attack: Attack
    loss: Any = None


@dataclass(frozen=True, kw_only=True)
class WorstOf:
    """Run several attacks and keep, for each sample, the noise with the worst metric.

    Where two attacks reach the same metric, or the sample has none (NaN), the noise of higher loss is kept. Losses
    are compared by the objective's own loss, not by those of the members.

    Args:
        attacks: attacks or `Member`s by name, all of one norm. Put cheap attacks first: with `done_at`, later attacks
            skip the samples that are done.
        metric: `metric(pred, target) -> (B,)`; None compares the objective's loss, where the highest is the worst.
        higher_is_better: whether a larger metric means a better prediction.
        done_at: no further attack on a sample whose metric is this bad or worse, such as 0 for Dice; None attacks every
            sample with every attack.

    The number of the attack whose noise was kept is in `AttackResult.winner`, in the order of `names`.

    A member with its own loss, or a metric, needs an objective that can switch (`SwitchableObjective`), such as
    `monai_amat.engines.BatchObjective`.

    Raises:
        TypeError: if a member is not an attack.
        ValueError: if there are no attacks, or their norms differ.

    Example:
        >>> from monai_amat.attacks import AutoProjectedGradientDescent, Square
        >>> suite = WorstOf(attacks={"square": Square(queries=5), "apgd": AutoProjectedGradientDescent(steps=5)})
        >>> result = suite(lambda noisy, rows: noisy.sum(dim=1), torch.zeros(1, 4), 2.0)
        >>> suite.names[int(result.winner)], result.steps.tolist()
        ('apgd', [5])
    """

    attacks: Mapping[str, Attack | Member]
    metric: SampleMetric | None = None
    higher_is_better: bool = True
    done_at: float | None = None

    def __post_init__(self) -> None:
        members = {
            name: member if isinstance(member, Member) else Member(member) for name, member in self.attacks.items()
        }
        if not members:
            raise ValueError("attacks must hold at least one attack, got none")
        for member in members.values():
            check_attack(member.attack)
        norms = {name: repr(member.attack.norm) for name, member in members.items()}
        if len(set(norms.values())) > 1:
            raise ValueError(f"all attacks must measure the radius in one norm, got {norms}")
        if self.done_at is not None and self.metric is None:
            raise ValueError("done_at needs a metric, got none; give metric=")
        object.__setattr__(self, "attacks", members)

    @property
    def members(self) -> dict[str, Member]:
        """The attacks by name, each with its loss."""
        return dict(self.attacks)  # type: ignore[arg-type]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the attacks; `AttackResult.winner` is an index into them."""
        return tuple(self.attacks)

    @property
    def norm(self) -> Norm:
        """The norm of all attacks."""
        return next(iter(self.members.values())).attack.norm

    @property
    def needs_verdicts(self) -> bool:
        """Whether any of the attacks needs verdicts."""
        return any(member.attack.needs_verdicts for member in self.members.values())

    def __call__(
        self, objective: Objective, inputs: Tensor, radius: Tensor | float, *, seeds: Sequence[int] | None = None
    ) -> AttackResult:
        """Attack a batch.

        Args:
            objective: see `Objective`; see `WorstOf` for when it must be a `SwitchableObjective`.
            inputs: `(B, *shape)`, floating point.
            radius: `(B,)` or a number, in the units of `inputs`.
            seeds: one integer per sample, the same for every attack.

        Returns:
            for each sample the result of the worst attack, with the steps of all attacks on it.

        Raises:
            TypeError: if a `SwitchableObjective` is needed, but the objective is none.
        """
        switches = self.metric is not None or any(member.loss is not None for member in self.members.values())
        if switches and not isinstance(objective, SwitchableObjective):
            raise TypeError(
                f"a metric, or a member with its own loss, needs a SwitchableObjective, got "
                f"{type(objective).__name__}; use monai_amat.engines.BatchObjective, or add raising() and score()"
            )
        with torch.inference_mode(False):
            return self._run(objective, inputs, radius, range(len(inputs)) if seeds is None else seeds)

    def _run(self, objective: Objective, inputs: Tensor, radius: Tensor | float, seeds: Sequence[int]) -> AttackResult:
        best: AttackResult | None = None
        bad = loss = torch.empty(0)
        rows = torch.arange(len(inputs), device=inputs.device)
        for number, member in enumerate(self.members.values()):
            if best is None:
                # The first attack gets all samples, and checks the inputs.
                new = member.attack(_raising(objective, member.loss), inputs, radius, seeds=seeds)
                winner = torch.zeros_like(rows)
                best = replace(new, winner=winner)
                bad, loss = self._judge(objective, new.noisy, rows)
            else:
                rows = rows[~self._done(bad[rows])]
                if not len(rows):
                    break
                new = member.attack(
                    _RowsOf(_raising(objective, member.loss), rows),
                    inputs[rows],
                    radius[rows] if isinstance(radius, Tensor) and radius.ndim else radius,
                    seeds=[seeds[row] for row in rows.tolist()],
                )
                new_bad, new_loss = self._judge(objective, new.noisy, rows)
                better = _worse(new_bad, bad[rows], new_loss, loss[rows])
                bad = bad.index_copy(0, rows, torch.where(better, new_bad, bad[rows]))
                loss = loss.index_copy(0, rows, torch.where(better, new_loss, loss[rows]))
                best = _merge(best, new, rows, better, number)
        assert best is not None
        return best

    def _judge(self, objective: Objective, noisy: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The metric of each sample, `(n,)`, larger is worse, NaN if unknown; and the objective's loss, `(n,)`."""
        if not len(rows):
            return torch.zeros(0, device=rows.device), torch.zeros(0, device=rows.device)
        with torch.no_grad():
            if self.metric is None or not isinstance(objective, SwitchableObjective):
                loss = as_evaluation(objective(noisy, rows), len(rows)).loss.detach()
                return torch.full_like(loss, torch.nan), loss
            values, loss = objective.score(self.metric, noisy, rows)
        check_per_sample(values, len(rows), "the metric of WorstOf")
        values = values.to(loss.device, torch.float64)
        return (-values if self.higher_is_better else values), loss.detach()

    def _done(self, bad: Tensor) -> Tensor:
        if self.done_at is None:
            return torch.zeros_like(bad, dtype=torch.bool)
        return bad >= (-self.done_at if self.higher_is_better else self.done_at)


def _raising(objective: Objective, loss: Any) -> Objective:
    if loss is None or not isinstance(objective, SwitchableObjective):
        return objective
    return objective.raising(loss)


@dataclass(frozen=True)
class _RowsOf:
    """An objective for the samples `rows` alone; the attack numbers them from 0."""

    objective: Objective
    rows: Tensor

    def __call__(self, noisy: Tensor, some: Tensor) -> Evaluation | Tensor:
        return self.objective(noisy, self.rows[some])

    def at(self, progress: float) -> _RowsOf:
        return _RowsOf(at_progress(self.objective, progress), self.rows)


def _worse(new_bad: Tensor, bad: Tensor, new_loss: Tensor, loss: Tensor) -> Tensor:
    """Whether the new noise is worse: by the metric, or by the loss if the metrics are equal or unknown."""
    undecided = (new_bad == bad) | (new_bad.isnan() & bad.isnan())
    higher = (new_loss > loss) | (loss.isnan() & ~new_loss.isnan())
    return torch.where(undecided, higher, (new_bad > bad) | (bad.isnan() & ~new_bad.isnan()))


def _merge(best: AttackResult, new: AttackResult, rows: Tensor, better: Tensor, number: int) -> AttackResult:
    """The result with the new noise where `better` is true; steps are summed."""
    won = rows[better]

    def chosen(old: Tensor | None, values: Tensor | None) -> Tensor | None:
        return None if old is None or values is None else old.index_copy(0, won, values[better])

    noisy = best.noisy.index_copy(0, won, new.noisy[better])
    assert best.winner is not None
    return replace(
        best,
        noisy=noisy,
        accepted=chosen(best.accepted, new.accepted),
        all_accepted=chosen(best.all_accepted, new.all_accepted),
        steps=best.steps.index_add(0, rows, new.steps),
        stalled=best.stalled.index_add(0, rows, new.stalled),
        late_gain=chosen(best.late_gain, new.late_gain),
        winner=best.winner.index_fill(0, won, number),
    )
