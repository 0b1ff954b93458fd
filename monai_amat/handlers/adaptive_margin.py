"""AdaptiveMarginHandler: lines 9–13 of Algorithm 1 in a MONAI trainer."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from ignite.engine import Events
from monai.engines.utils import IterationEvents

from monai_amat.engines import PrepareBatchAdversarial
from monai_amat.handlers.adversarial_output import AdversarialOutputHandler
from monai_amat.handlers.ranks import check_same, gather_named
from monai_amat.margins import AdaptiveMargins, Visits

__all__ = ["AdaptiveMarginHandler"]

_LARGE_LAG = 0.1  # of the threshold
_logger = logging.getLogger(__name__)


class AdaptiveMarginHandler:
    """Judge the noisy samples of every step and move their margins.

    Verdicts are taken after the loss, margins move at the end of the iteration: a step that `NonFiniteGuardHandler`
    skips moves none. Samples whose loss or noise is not finite move none either. Visits are gathered from all
    processes, so that margins are the same everywhere.

    It brings its own `AdversarialOutputHandler`. After every iteration `visits` holds the judged samples.

    Args:
        prepare_batch: the trainer's, with `radius=AdaptiveMargins(…)`.

    Raises:
        TypeError: when its radius is not `AdaptiveMargins`.

    Example:
        >>> from monai_amat.attacks import InnerStart, ProjectedGradientDescent
        >>> from monai_amat.tasks.segmentation import DiceCELoss
        >>> from monai_amat.margins import Absolute, PaperRule, SampleMargins
        >>> margins = AdaptiveMargins(
        ...     SampleMargins(100, initial=2.5), acceptance=Absolute({"total": 0.4}), rule=PaperRule(step=2.5)
        ... )
        >>> prepare_batch = PrepareBatchAdversarial(
        ...     network=torch.nn.Conv2d(1, 2, 3, padding=1),
        ...     loss=DiceCELoss(),
        ...     attack=ProjectedGradientDescent(steps=20, rel_step=0.2, random_start=InnerStart(2.5)),
        ...     radius=margins,
        ... )
        >>> handler = AdaptiveMarginHandler(prepare_batch)  # train_handlers=[handler, …]
    """

    def __init__(self, prepare_batch: PrepareBatchAdversarial) -> None:
        if prepare_batch.adaptive is None:
            raise TypeError(
                "the radius of PrepareBatchAdversarial must be AdaptiveMargins for its margins to move, got "
                f"{prepare_batch.radius!r}; give radius=AdaptiveMargins(SampleMargins(…), acceptance=…, rule=…)"
            )
        self.prepare_batch = prepare_batch
        self.adaptive: AdaptiveMargins = prepare_batch.adaptive
        self.output = AdversarialOutputHandler(prepare_batch)
        self.visits: Visits | None = None
        self._judged: Visits | None = None

    def attach(self, engine: Any) -> None:
        """Attach to a `SupervisedTrainer`."""
        self.output.attach(engine)
        engine.add_event_handler(Events.STARTED, self._check_processes)
        engine.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self._judge)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._move)
        engine.add_event_handler(Events.COMPLETED, self._complain)

    def attached_to(self, engine: Any) -> bool:
        """Whether it moves margins in this trainer already."""
        return bool(engine.has_event_handler(self._move, Events.ITERATION_COMPLETED))

    def _check_processes(self, engine: Any) -> None:
        margins = self.adaptive.margins
        data = getattr(getattr(engine.data_loader, "dataset", None), "fingerprint", "")
        check_same(
            f"{len(margins)} samples, margins of {margins.fingerprint or 'no fingerprint'}, data {data or 'unknown'}",
            "sample IDs that name",
            "an ID must name the same sample everywhere: give every process the whole list, not a part of it (as "
            "partition_dataset makes), and let the sampler deal it out (SeededSampler)",
        )

    def _start_epoch(self, engine: Any) -> None:
        self.adaptive.start_epoch()

    def _judge(self, engine: Any) -> None:
        """Line 9."""
        last, clean, noisy = self.prepare_batch.last, self.output.clean, self.output.noisy
        assert last is not None and last.ids is not None and clean is not None and noisy is not None
        visits = self.adaptive.judge(
            ids=last.ids,
            radius=last.radius,
            noise_norm=last.noise_norm,
            result=last.result,
            clean=clean,
            noisy=noisy,
            terms=self.prepare_batch.loss.judged,
        )
        self._judged = _gather(visits, last.radius.device)

    def _move(self, engine: Any) -> None:
        """Lines 10 and 12."""
        assert self._judged is not None
        self.visits = self.adaptive.move(
            self._judged,
            skipped=bool(getattr(engine.state, "step_skipped", False)),
            epoch_ended=engine.state.iteration % engine.state.epoch_length == 0,
        )

    def _complain(self, engine: Any) -> None:
        for running in self.adaptive.acceptance.running:
            if not running.ready:
                _logger.warning(
                    "No margin has moved: the warm-up of the running thresholds takes %d steps, but training ended "
                    "after %d of them, so that every sample was trained with its first margin; train longer, or "
                    "shorten warmup",
                    running.warmup,
                    running.steps,
                )
                continue
            for name, xi in running.values.items():
                if running.lag[name] > _LARGE_LAG * abs(xi):
                    _logger.warning(
                        "The running threshold of '%s' is %.3g, %.3g above what the present clean losses give, "
                        "since losses fell faster than it follows; more noise was accepted than it means and margins "
                        "may all be at their cap. Use thresholds fitted to a trained network (ThresholdHandler), or a "
                        "smaller momentum",
                        name,
                        xi,
                        running.lag[name],
                    )


def _gather(visits: Visits, device: torch.device) -> Visits:
    """The visits of all processes, field by field and term by term."""
    named = {
        (name, term): values
        for name, field in vars(visits).items()
        for term, values in (field.items() if isinstance(field, Mapping) else [("", field)])
    }
    gathered = gather_named({f"{name}/{term}": values for (name, term), values in named.items()}, device)
    fields: dict[str, Any] = {}
    for name, term in named:
        values = gathered[f"{name}/{term}"]
        if term:
            fields.setdefault(name, {})[term] = values
        else:
            fields[name] = values
    return Visits(**fields)
