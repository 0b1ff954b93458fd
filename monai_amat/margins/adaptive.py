"""AdaptiveMargins: lines 9–13 of Algorithm 1, for any training loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from monai_amat.attacks import AttackResult
from monai_amat.margins.acceptance import Acceptance, Measurement
from monai_amat.margins.margins import SampleMargins
from monai_amat.margins.rules import MarginRule

__all__ = ["AdaptiveMargins", "Visits"]


@dataclass(frozen=True)
class Visits:
    """The judged samples of one step; every field is `(n,)`, on the CPU.

    Args:
        ids: sample IDs.
        accepted: verdict on the noisy sample (line 9).
        clean_accepted: verdict of the same acceptance on the clean sample.
        noise_norm: `‖x̃ − x‖`, in the units of the image.
        before: margins that the noise was made with.
        after: margins after the step; equal to `before` where they have not moved.
        steps: gradient evaluations.
        stalled: steps without a usable gradient.
        clean_losses: loss of the clean sample by judged term.
        noisy_losses: loss of the noisy sample by judged term.
    """

    ids: Tensor
    accepted: Tensor
    clean_accepted: Tensor
    noise_norm: Tensor
    before: Tensor
    after: Tensor
    steps: Tensor
    stalled: Tensor
    clean_losses: Mapping[str, Tensor]
    noisy_losses: Mapping[str, Tensor]

    def finite(self) -> Visits:
        """The visits whose noise and losses are finite; the others say nothing about a margin."""
        values = [self.noise_norm, self.before, *self.clean_losses.values(), *self.noisy_losses.values()]
        usable = torch.stack([torch.isfinite(value) for value in values]).all(dim=0)
        chosen: dict[str, Any] = {
            name: {term: losses[usable] for term, losses in value.items()}
            if isinstance(value, Mapping)
            else value[usable]
            for name, value in vars(self).items()
        }
        return Visits(**chosen)


class AdaptiveMargins:
    """Margins that move by the verdicts on their samples, whatever the training loop.

    A training loop takes the radius of a batch from here (`radius`), attacks, calls `judge` with what was measured
    (line 9) and, once it is known whether the step counts, `move` (lines 10 and 12). With MONAI,
    `PrepareBatchAdversarial(radius=…)` and `AdaptiveMarginHandler` do that.

    Thresholds that are kept while training (`RunningThresholds` in the acceptance) are updated by `move`.

    Args:
        margins: E(i) of every sample.
        acceptance: when a noisy sample is still good enough (line 9).
        rule: how a margin changes (lines 10 and 12).

    Raises:
        ValueError: when the acceptance is not ready and has no running thresholds that could make it so.

    Example:
        >>> from monai_amat.margins import Absolute, PaperRule
        >>> margins = AdaptiveMargins(
        ...     SampleMargins(2, initial=1.0), acceptance=Absolute({"total": 3.0}), rule=PaperRule(step=1.0)
        ... )
        >>> visits = margins.judge(
        ...     ids=torch.tensor([0, 1]),
        ...     radius=margins.radius(torch.tensor([0, 1])),
        ...     noise_norm=torch.tensor([1.0, 0.5]),
        ...     result=AttackResult(torch.zeros(2, 1), None, None, torch.tensor([20, 20]), torch.tensor([0, 0])),
        ...     clean=Measurement({"total": torch.tensor([1.0, 2.0])}),
        ...     noisy=Measurement({"total": torch.tensor([2.0, 4.0])}),
        ... )
        >>> margins.move(visits).after
        tensor([2.0000, 0.7500], dtype=torch.float64)
    """

    def __init__(self, margins: SampleMargins, *, acceptance: Acceptance, rule: MarginRule) -> None:
        self.margins = margins
        self.acceptance = acceptance
        self.rule = rule
        if not acceptance.ready and not acceptance.running:
            raise ValueError(
                f"{type(acceptance).__name__} is not ready and has no running thresholds, so that margins would never "
                "move; let its property `running` return the RunningThresholds that it uses"
            )
        self._epoch: list[Visits] = []
        self._batches_since_move = 0
        self._has_moved = False

    @property
    def judges_path(self) -> bool:
        """Whether a sample counts as accepted only if every iterate of its attack was accepted."""
        return self.rule.judges_path

    @property
    def values(self) -> Tensor:
        """E(i) of every sample, `(size,)`, on the CPU."""
        return self.margins.values

    def __len__(self) -> int:
        return len(self.margins)

    def radius(self, ids: Tensor) -> Tensor:
        """E(i) `(n,)` of the samples `ids` `(n,)`, on the CPU."""
        return self.margins[ids]

    def __getitem__(self, ids: Tensor) -> Tensor:
        """The same, as a `RadiusSource`."""
        return self.radius(ids)

    def start_batch(self) -> None:
        """Note that a batch is made with these margins; what makes the batches calls it.

        Raises:
            RuntimeError: when earlier batches were made and `move` was not called after them.
        """
        # A step that ended in an exception may be done again; more than one in a row is no such step.
        if self._batches_since_move > int(self._has_moved):
            raise RuntimeError(
                f"{self._batches_since_move} batches were made with these margins and none of them moved a margin, "
                "so that this would be training with fixed noise; attach AdaptiveMarginHandler(prepare_batch) to the "
                "trainer. In a bundle that is done under 'initialize', which a later file may have replaced: it must "
                "say '+initialize'"
            )
        self._batches_since_move += 1

    def judge(
        self,
        *,
        ids: Tensor,
        radius: Tensor,
        noise_norm: Tensor,
        result: AttackResult,
        clean: Measurement,
        noisy: Measurement,
        terms: Sequence[str] = ("total",),
    ) -> Visits:
        """Line 9: is the noise acceptable?

        Args:
            ids: `(n,)` sample IDs.
            radius: `(n,)` margins that the noise was made with.
            noise_norm: `(n,)` `‖x̃ − x‖`.
            result: what the attack returned.
            clean: what was measured on the clean samples.
            noisy: what was measured on the noisy samples.
            terms: names of the judged loss terms (`PerSampleLoss.judged`).

        Raises:
            ValueError: when the path is judged and the attack gave no verdicts.
        """
        accepted = result.all_accepted if self.judges_path else self.acceptance(noisy, clean)
        if accepted is None:
            raise ValueError(
                f"{type(self.rule).__name__} judges every iterate, but the attack returned no verdicts; let its "
                "objective return Evaluation(loss, accepted)"
            )
        before = _on_cpu(radius).double()
        return Visits(
            ids=_on_cpu(ids).long(),
            accepted=_on_cpu(accepted),
            clean_accepted=_on_cpu(self.acceptance(clean, clean)),
            noise_norm=_on_cpu(noise_norm).double(),
            before=before,
            after=before,
            steps=_on_cpu(result.steps).long(),
            stalled=_on_cpu(result.stalled).long(),
            clean_losses={name: _on_cpu(clean.terms[name]).double() for name in terms},
            noisy_losses={name: _on_cpu(noisy.terms[name]).double() for name in terms},
        )

    def move(self, visits: Visits, *, skipped: bool = False, epoch_ended: bool = False) -> Visits:
        """Lines 10 and 12, for the samples whose noise and losses are finite.

        Args:
            visits: from `judge`, of all processes.
            skipped: whether the step was thrown away; then neither margins nor thresholds move.
            epoch_ended: whether this is the last step of an epoch, at which rules that go by epoch move the margins.

        Returns:
            the visits that count, with the margins that they left.
        """
        self._batches_since_move, self._has_moved = 0, True
        visits = visits.finite()
        ready = self.acceptance.ready  # before this step's own losses
        if not skipped:
            for running in self.acceptance.running:
                running.update(visits.clean_losses)
            if ready and self.rule.by_epoch:
                self._epoch.append(visits)
            elif ready:
                self.margins.update(visits.ids, visits.accepted, visits.noise_norm, self.rule)
        if epoch_ended and self._epoch:
            ids, accepted, norms = (
                torch.cat([getattr(step, name) for step in self._epoch]) for name in ("ids", "accepted", "noise_norm")
            )
            self.margins.update_epoch(ids, accepted, norms, self.rule)
            self._epoch = []
        return replace(visits, after=self.margins[visits.ids].double())

    def start_epoch(self) -> None:
        """Forget the visits of an epoch that was broken off: they are made again."""
        self._epoch, self._batches_since_move = [], 0

    def state_dict(self) -> dict[str, Any]:
        """The margins' state and the running thresholds' under `"running"`: plain tensors, numbers and strings."""
        return {**self.margins.state_dict(), "running": [running.state_dict() for running in self.acceptance.running]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned.

        Raises:
            ValueError: when it is of another data set or of other running thresholds.
        """
        saved, here = state.get("running", []), self.acceptance.running
        if len(saved) != len(here):
            raise ValueError(
                f"the saved margins have {len(saved)} running thresholds, but this acceptance has {len(here)}; use the "
                "acceptance that the margins were trained with"
            )
        self.margins.load_state_dict(dict(state))
        for running, values in zip(here, saved, strict=True):
            running.load_state_dict(values)


def _on_cpu(values: Tensor) -> Tensor:
    return values.detach().cpu()
