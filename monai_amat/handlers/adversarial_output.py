"""The trainer's outputs after a doubled forward: the clean half, and the noisy half under its own keys."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from typing import Any

import torch
from ignite.engine import Events
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys
from torch.utils._pytree import tree_map

from monai_amat.engines import AttackedBatch, PrepareBatchAdversarial, measure
from monai_amat.engines.trees import batch_size, like, plain
from monai_amat.handlers.ranks import share_running_statistics
from monai_amat.margins.acceptance import Measurement

__all__ = ["IMAGE_NOISY", "PRED_NOISY", "AdversarialOutputHandler"]

IMAGE_NOISY = "image_noisy"
PRED_NOISY = "pred_noisy"


class AdversarialOutputHandler:
    """Split the trainer's doubled outputs after the loss: `image`, `label` and `pred` become the clean half's.

    Metrics and post-processing then work as in plain training. The noisy half is under `image_noisy` and
    `pred_noisy`. Where a network has several heads, predictions are the full-resolution one. Metadata of the clean
    MetaTensors is restored.

    What both halves measured is kept in `clean` and `noisy` until the next iteration.

    Args:
        prepare_batch: the trainer's.

    SAT needs this handler; `AdaptiveMarginHandler` brings its own.

    Raises:
        RuntimeError: while training, when the outputs are not the doubled batch, as after another such handler.
    """

    def __init__(self, prepare_batch: PrepareBatchAdversarial) -> None:
        self.prepare_batch = prepare_batch
        self.clean: Measurement | None = None
        self.noisy: Measurement | None = None
        self._epoch_warned = False

    def attach(self, engine: Any) -> None:
        """Attach to a `SupervisedTrainer` whose `prepare_batch` is the one given.

        Raises:
            ValueError: when it is another one.
        """
        given = getattr(engine, "prepare_batch", None)
        if given is not self.prepare_batch:
            raise ValueError(
                "the trainer's prepare_batch must be the PrepareBatchAdversarial that its handlers were given, "
                f"got {type(given).__name__}; give both the same object"
            )
        engine.add_event_handler(Events.STARTED, self._check_loss)
        engine.add_event_handler(Events.ITERATION_STARTED(once=1), self._check_compiled)
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._share)

    def _share(self, engine: Any) -> None:
        # One truth for the next attack and for the checkpoint, whichever process a sample falls to.
        share_running_statistics(engine.network)

    def _check_compiled(self, engine: Any) -> None:
        with torch.autocast("cuda", **engine.amp_kwargs) if engine.amp else nullcontext():
            self.prepare_batch.check_compiled(engine.state.batch, engine.network, engine.inferer, engine.state.device)

    def _check_loss(self, engine: Any) -> None:
        # Not at attach: the trainer attaches its handlers before its loss is set.
        if engine.loss_function is not self.prepare_batch.loss:
            warnings.warn(
                f"the trainer minimises {type(engine.loss_function).__name__}, but noise is made and judged by another "
                f"loss object, {type(self.prepare_batch.loss).__name__}; give both the same unless that is meant",
                stacklevel=2,
            )

    def _check_epoch(self, engine: Any) -> None:
        epoch = getattr(getattr(engine.data_loader, "dataset", None), "epoch", None)
        if epoch is not None and epoch != engine.state.epoch and engine.state.epoch > 1 and not self._epoch_warned:
            self._epoch_warned = True
            warnings.warn(
                f"the data set draws for epoch {epoch} in epoch {engine.state.epoch}: augmentation and random starts "
                "repeat themselves; add monai_amat.handlers.EpochSeedHandler to the trainer",
                stacklevel=2,
            )

    def __call__(self, engine: Any) -> None:
        """Measure both halves and split the outputs."""
        self._check_epoch(engine)
        last = self.prepare_batch.last
        assert last is not None, "LOSS_COMPLETED before prepare_batch was called"
        output = engine.state.output
        found = batch_size(output[CommonKeys.LABEL])
        if found != 2 * len(last.clean):
            raise RuntimeError(
                f"a doubled batch of {len(last.clean)} samples must give {2 * len(last.clean)} outputs, got {found}; "
                "another handler may have split them; AdaptiveMarginHandler has its own AdversarialOutputHandler, so "
                "attach only one"
            )
        both = self._measure(engine, last, plain(output[CommonKeys.PRED]), plain(output[CommonKeys.LABEL]))
        self.clean, self.noisy = (_half(both, last, which) for which in (0, 1))
        output[CommonKeys.IMAGE] = last.clean
        output[CommonKeys.LABEL] = last.target
        output[CommonKeys.PRED] = like(self.clean.pred, last.clean)
        output[IMAGE_NOISY] = like(last.noisy, last.clean)
        output[PRED_NOISY] = like(self.noisy.pred, last.clean)
        # What the frozen network measured, where the training forward measures something else, is what counts.
        self.clean = last.clean_measured or self.clean
        self.noisy = last.noisy_measured or self.noisy

    def _measure(self, engine: Any, last: AttackedBatch, pred: Any, label: Any) -> Measurement:
        """What the training forward measured; the trainer's loss has computed its terms already."""
        loss = self.prepare_batch.loss
        terms = loss.take_terms() if engine.loss_function is loss else None
        fits = terms is not None and all(len(values) == 2 * len(last.clean) for values in terms.values())
        if not fits and (last.clean_measured is None or last.noisy_measured is None):
            return measure(loss, pred, label)
        with torch.no_grad():
            return Measurement(terms if terms is not None and fits else {}, loss.prediction(pred, label), label)


def _half(both: Measurement, last: AttackedBatch, which: int) -> Measurement:
    size = len(last.clean)
    rows = slice(which * size, (which + 1) * size)

    def cut(tree: Any) -> Any:
        return tree_map(lambda leaf: leaf[rows].detach(), tree)

    return Measurement({name: value[rows] for name, value in both.terms.items()}, cut(both.pred), cut(both.target))
