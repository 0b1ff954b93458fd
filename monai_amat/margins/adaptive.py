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
        before: margins before the step, the radius of the attack.
        after: margins after the step; equal to `before` where they did not move.
        steps: gradient evaluations.
        stalled: steps without a usable gradient.
        clean_losses: losses of the clean samples, by judged term.
        noisy_losses: losses of the noisy samples, by judged term.
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
        """The visits whose noise and losses are finite; only they can move a margin."""
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
    """Margins that move by the verdicts on their samples, for any training loop.

    A training loop gets the radius of a batch from `radius`, runs the attack, calls `judge` with the measurements (line
    9) and, when it is known whether the step was skipped, `move` (lines 10 and 12). With MONAI,
    `PrepareBatchAdversarial(radius=…)` and `AdaptiveMarginHandler` do this.

    `move` also updates the `RunningThresholds` of the acceptance.

    Args:
        margins: E(i) of every sample.
        acceptance: whether a noisy sample is accepted (line 9).
        rule: how a margin changes (lines 10 and 12).

    Raises:
        ValueError: if the acceptance is not ready and has no running thresholds.

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
                "move; its property `running` must return the RunningThresholds that it uses"
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
        """The same as `radius`, so that the margins are a `RadiusSource`."""
        return self.radius(ids)

    def start_batch(self) -> None:
        """Count a batch that is made with these margins; call it before each attack.

        Raises:
            RuntimeError: if several batches were made since the last call of `move`.
        """
        # One step may end in an exception and be repeated; several in a row mean that `move` is never called.
        if self._batches_since_move > int(self._has_moved):
            raise RuntimeError(
                f"{self._batches_since_move} batches were made with these margins and none of them moved a margin, "
                "so that this would be training with fixed noise; attach AdaptiveMarginHandler(prepare_batch) to the "
                "trainer. A bundle attaches it under 'initialize'; a later configuration file must use '+initialize', "
                "because 'initialize' replaces it"
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
        """Judge the noisy samples (line 9).

        Args:
            ids: `(n,)` sample IDs.
            radius: `(n,)` margins before the step, the radius of the attack.
            noise_norm: `(n,)` `‖x̃ − x‖`, in the units of the image.
            result: the result of the attack.
            clean: losses and predictions of the clean samples.
            noisy: losses and predictions of the noisy samples.
            terms: names of the judged loss terms (`PerSampleLoss.judged`).

        Returns:
            the visits, whose margins have not moved yet.

        Raises:
            ValueError: if the rule judges every iterate and the attack returned no verdicts.
        """
        accepted = result.all_accepted if self.judges_path else self.acceptance(noisy, clean)
        if accepted is None:
            raise ValueError(
                f"{type(self.rule).__name__} needs a verdict on every iterate, got none from the attack; let its "
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
        """Move the margins of the samples whose noise and losses are finite (lines 10 and 12).

        Args:
            visits: the results of `judge`, of all processes.
            skipped: whether the optimizer skipped the step; then neither margins nor thresholds move.
            epoch_ended: whether this is the last step of an epoch, where a rule with `by_epoch` moves the margins.

        Returns:
            the finite visits, with the margins after the step.
        """
        self._batches_since_move, self._has_moved = 0, True
        visits = visits.finite()
        ready = self.acceptance.ready  # before the thresholds take in the losses of this step
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
        """Drop the visits of an epoch that was interrupted, because the epoch is run again."""
        self._epoch, self._batches_since_move = [], 0

    def state_dict(self) -> dict[str, Any]:
        """The state of the margins, with that of the running thresholds as `"running"`: tensors, numbers, strings."""
        return {**self.margins.state_dict(), "running": [running.state_dict() for running in self.acceptance.running]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state that `state_dict` returned.

        Raises:
            ValueError: if it belongs to another data set or to other running thresholds.
        """
        saved, here = state.get("running", []), self.acceptance.running
        if len(saved) != len(here):
            raise ValueError(
                f"saved margins must hold {len(here)} running thresholds, as this acceptance does, got {len(saved)}; "
                "use the acceptance that the margins were trained with"
            )
        self.margins.load_state_dict(dict(state))
        for running, values in zip(here, saved, strict=True):
            running.load_state_dict(values)


def _on_cpu(values: Tensor) -> Tensor:
    return values.detach().cpu()
