"""Lines 9–13 of Algorithm 1 as an Ignite handler: judge the noisy samples of a step, then move their margins."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

import torch
from ignite.engine import Events
from monai.engines.utils import IterationEvents
from monai.utils.dist import evenly_divisible_all_gather
from torch import Tensor

from monai_amat.engines import PrepareBatchAdversarial
from monai_amat.handlers.adversarial_output import AdversarialOutputHandler
from monai_amat.handlers.ranks import is_distributed
from monai_amat.margins import MarginRule, RunningThresholds, SampleMargins

__all__ = ["AdaptiveMarginHandler", "Visits"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Visits:
    """The judged samples of one step, of all ranks, in the same order on every rank; each field is `(n,)`.

    Args:
        ids: sample IDs.
        accepted: verdict on the noisy sample.
        clean_accepted: what the same judge says of the clean sample.
        noise_norm: `‖x̃ − x‖`.
        before: margins the noise was made with.
        after: margins now; those of before where they have not moved.
        steps: gradient evaluations.
        stalled: steps without a usable gradient.
    """

    ids: Tensor
    accepted: Tensor
    clean_accepted: Tensor
    noise_norm: Tensor
    before: Tensor
    after: Tensor
    steps: Tensor
    stalled: Tensor


class AdaptiveMarginHandler:
    """Move each visited sample's margin by a rule.

    Verdicts are taken after the loss, margins move at the end of the iteration: a step that
    `NonFiniteGuardHandler` skips moves none. Samples whose loss or noise is not
    finite move none either. Visits are gathered from all ranks, so that margins are the same everywhere.

    Args:
        prepare_batch: the trainer's; its `radius` must be the margins and its `acceptance` set.
        rule: see `monai_amat.margins.rules`.
        running: thresholds to keep from the clean losses of this training, where the acceptance uses such.

    Raises:
        TypeError: when the radius is not `SampleMargins`.
        ValueError: when acceptance and rule do not fit the attack.

    Example:
        >>> from monai_amat.attacks import InnerStart, ProjectedGradientDescent
        >>> from monai_amat.tasks.segmentation import DiceCELoss
        >>> from monai_amat.margins import Absolute, PaperRule
        >>> prepare_batch = PrepareBatchAdversarial(
        ...     network=torch.nn.Conv2d(1, 2, 3, padding=1),
        ...     loss=DiceCELoss(),
        ...     attack=ProjectedGradientDescent(steps=20, rel_step=0.2, random_start=InnerStart(2.5)),
        ...     radius=SampleMargins(100, initial=2.5),
        ...     acceptance=Absolute({"total": 0.4}),
        ... )
        >>> handler = AdaptiveMarginHandler(prepare_batch, PaperRule(step=2.5))  # train_handlers=[handler, …]
    """

    def __init__(
        self,
        prepare_batch: PrepareBatchAdversarial,
        rule: MarginRule,
        *,
        running: RunningThresholds | None = None,
    ) -> None:
        if not isinstance(prepare_batch.radius, SampleMargins):
            raise TypeError(
                "adaptive margins need PrepareBatchAdversarial(radius=SampleMargins(…)), "
                f"but its radius is {prepare_batch.radius!r}"
            )
        if prepare_batch.acceptance is None:
            raise ValueError("adaptive margins need PrepareBatchAdversarial(acceptance=…): when is noise too much?")
        if prepare_batch.judge_path and not rule.judges_path:
            raise ValueError(
                f"{type(prepare_batch.attack).__name__} returns points that are accepted by construction; "
                f"{type(rule).__name__} would only ever grow margins: use BoundaryRule"
            )
        if running is None and not prepare_batch.acceptance.ready:
            raise ValueError(
                "the acceptance waits for running thresholds that nobody keeps: give them here too, running=…"
            )
        self.prepare_batch = prepare_batch
        self.margins: SampleMargins = prepare_batch.radius
        self.acceptance = prepare_batch.acceptance
        self.rule = rule
        self.running = running
        self.output = AdversarialOutputHandler(prepare_batch)
        self.visits: Visits | None = None
        self._epoch: list[Visits] = []
        self._clean_losses: dict[str, Tensor] = {}

    def attach(self, engine: Any) -> None:
        """Attach to a `SupervisedTrainer`."""
        if self.rule.judges_path:
            self.prepare_batch.judge_path = True
        self.output.attach(engine)
        engine.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self._judge)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._move)
        engine.add_event_handler(Events.COMPLETED, self._complain)

    def attached_to(self, engine: Any) -> bool:
        """Whether it moves margins in this trainer already."""
        return bool(engine.has_event_handler(self._move, Events.ITERATION_COMPLETED))

    def _start_epoch(self, engine: Any) -> None:
        self._epoch = []  # what a broken epoch left is done again

    def _judge(self, engine: Any) -> None:
        """Line 9: is the noise acceptable?"""
        last, clean, noisy = self.prepare_batch.last, self.output.clean, self.output.noisy
        assert last is not None and last.ids is not None and clean is not None and noisy is not None
        accepted = last.result.all_accepted if self.rule.judges_path else self.acceptance(noisy, clean)
        assert accepted is not None
        names = self.prepare_batch.loss.judged
        columns = torch.stack(
            [
                # On the CPU in double: an ID must not be rounded, and some devices have no such numbers.
                values.detach().cpu().double()
                for values in (
                    last.ids,
                    accepted,
                    self.acceptance(clean, clean),
                    last.noise_norm,
                    last.radius,
                    last.result.steps,
                    last.result.stalled,
                    *(clean.terms[name] for name in names),
                    *(noisy.terms[name] for name in names),
                )
            ],
            dim=1,
        )
        if is_distributed():
            columns = evenly_divisible_all_gather(columns.to(last.radius.device), concat=True).cpu()
        clean_losses = columns[:, 7 : 7 + len(names)]
        usable = torch.isfinite(columns).all(dim=1)
        self._clean_losses = {name: clean_losses[usable, i] for i, name in enumerate(names)}
        columns = columns[usable]
        self.visits = Visits(
            ids=columns[:, 0].long(),
            accepted=columns[:, 1].bool(),
            clean_accepted=columns[:, 2].bool(),
            noise_norm=columns[:, 3],
            before=columns[:, 4],
            after=columns[:, 4],
            steps=columns[:, 5].long(),
            stalled=columns[:, 6].long(),
        )

    def _move(self, engine: Any) -> None:
        """Lines 10 and 12."""
        visits = self.visits
        assert visits is not None
        skipped = bool(getattr(engine.state, "step_skipped", False))
        ready = self.acceptance.ready
        if self.running is not None and not skipped:
            self.running.update(self._clean_losses)
        if not skipped and ready and self.rule.by_epoch:
            self._epoch.append(visits)
        elif not skipped and ready:
            self.margins.update(visits.ids, visits.accepted, visits.noise_norm, self.rule)
        if self._epoch and engine.state.iteration % engine.state.epoch_length == 0:
            ids, accepted, norms = (
                torch.cat([getattr(step, name) for step in self._epoch]) for name in ("ids", "accepted", "noise_norm")
            )
            self.margins.update_epoch(ids, accepted, norms, self.rule)
            self._epoch = []
        self.visits = replace(visits, after=self.margins[visits.ids].double())

    def _complain(self, engine: Any) -> None:
        if self.running is not None and not self.acceptance.ready:
            _logger.warning(
                "No margin has moved: the thresholds' warm-up takes %d steps and training ended after %d of them, so "
                "that it was training with one fixed noise level. Train longer, or shorten the warmup.",
                self.running.warmup,
                self.running.steps,
            )
