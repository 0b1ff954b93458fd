"""AMATDetectionTrainer: adversarial training with adaptive margins in the training loop of ultralytics."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from monai_amat.data.source import source_fingerprint
from monai_amat.engines import PrepareBatchAdversarial, PrepareBatchTargets, frozen
from monai_amat.engines.objective import measure
from monai_amat.integrations.ultralytics.halved_criterion import DOUBLED, HalvedCriterion
from monai_amat.integrations.ultralytics.margin_files import load_margins, margin_file, save_margins
from monai_amat.integrations.ultralytics.settings import AMATSettings
from monai_amat.margins import AdaptiveMargins, SampleMargins
from monai_amat.seeding import fold
from monai_amat.tasks.detection import DetectionLoss, DetectionParts
from monai_amat.tasks.detection.network.quiet_import import from_ultralytics, opencv_in_one_thread, torchvision_left_out

__all__ = ["AMATDetectionTrainer", "padded_targets"]

logger = logging.getLogger("ultralytics")  # the log of ultralytics' trainer

_MIXING = ("mosaic", "mixup", "cutmix", "copy_paste", "multi_scale")


class AMATDetectionTrainer(from_ultralytics("DetectionTrainer")):  # type: ignore[misc]
    """Training with ultralytics' own commands: `YOLO("yolov5n.yaml").train(trainer=AMATDetectionTrainer, data=…)`.

    Loop, optimiser, averaged weights, validation and checkpoints are those of `DetectionTrainer` of ultralytics. Each
    batch becomes `[x ; x̃]`, and the loss is the mean of the model's criterion over both halves (equation 1). The attack
    raises `DetectionLoss` per image, measured on the frozen network (`frozen`), and the same loss judges the noise with
    one threshold for each of its three terms. At radius 0 the gradients equal those of `DetectionTrainer`.

    There is one margin per image: mosaic, mixup, cutmix, copy-paste and `multi_scale` are off, and switching one on is
    an error. The ID of an image is its position in the sorted list of files.

    Margins are saved beside the checkpoints, `last_margins.pt` beside `last.pt`, and are restored when training is
    resumed (`YOLO("…/last.pt").train(resume=True, trainer=…)`). Weights are resumed as in `DetectionTrainer`: from
    averaged weights in half precision, not to the digit.

    Training runs on one device. The model's head must give box distributions: YOLOv5, v8, v9, 11.

    Args:
        cfg: as `DetectionTrainer` takes it.
        overrides: as `DetectionTrainer` takes them.
        _callbacks: as `DetectionTrainer` takes them.
        settings: margins, attack and thresholds. `train(trainer=…)` calls with the first three only: give
            `functools.partial(AMATDetectionTrainer, settings=AMATSettings(…))`, or a subclass with a class attribute
            `settings`.

    Attributes:
        margins: after the start of training, the margins in the order of `image_files`; None at a constant radius.
        image_files: the training images.

    Raises:
        ValueError: for images that are mixed, or more than one device.
    """

    settings: AMATSettings = AMATSettings()

    def __init__(
        self,
        cfg: Any = None,
        overrides: Mapping[str, Any] | None = None,
        _callbacks: Any = None,
        *,
        settings: AMATSettings | None = None,
    ) -> None:
        self.settings = type(self).settings if settings is None else settings
        self.margins: AdaptiveMargins | None = None
        self.image_files: list[str] = []
        self._places: dict[str, int] = {}
        self._prepare: PrepareBatchAdversarial | None = None
        self._epoch_started: tuple[int, dict[str, Any]] | None = None
        self._verdicts: list[Tensor] = []
        self._steps_of_epoch = 0
        self._without_torchvision: Callable[[], AbstractContextManager[None]] = nullcontext
        defaults = from_ultralytics("DEFAULT_CFG")
        opencv_in_one_thread()
        super().__init__(defaults if cfg is None else cfg, _unmixed(overrides or {}), _callbacks)
        mixing = [name for name in _MIXING if getattr(self.args, name, 0)]
        if mixing:
            raise ValueError(f"the run that is resumed has {', '.join(mixing)} on, which mixes images; start anew")
        if self.world_size > 1:
            raise ValueError(f"AMATDetectionTrainer trains on one device, got device={self.args.device!r}")
        self.add_callback("on_train_start", lambda trainer: trainer._start_training())
        self.add_callback("on_train_epoch_start", lambda trainer: trainer._start_epoch())
        self.add_callback("on_train_batch_end", lambda trainer: trainer._move_margins())
        self.add_callback("on_train_epoch_end", lambda trainer: trainer._log_margins())

    def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Preprocess as ultralytics does, and append the noisy images to the clean ones."""
        batch = super().preprocess_batch(batch)
        if self._prepare is None:  # before training: the calibration of quantised models
            return batch
        ids = torch.tensor([self._places[str(file)] for file in batch["im_file"]])
        targets = padded_targets(batch["batch_idx"], batch["cls"], batch["bboxes"], batch["img"])
        seeds = torch.tensor([fold(self.args.seed, self.epoch, int(number)) for number in ids])
        data = {"image": batch["img"], "targets": targets, "sample_id": ids, "sample_seed": seeds}
        doubled, _ = self._prepare(data, self.device)
        self._measure_halves(targets)
        self._model_train()  # layers that ultralytics froze stay frozen
        return _doubled(batch, doubled)

    def get_validator(self) -> Any:
        """The validator of ultralytics, also where torchvision cannot be imported, as with some CPU-only builds."""
        try:
            return super().get_validator()
        except (ImportError, OSError, RuntimeError):  # the errors of a broken build; another cause raises again
            self._without_torchvision = torchvision_left_out
            with torchvision_left_out():
                return super().get_validator()

    def final_eval(self) -> None:
        """The last evaluation, also where torchvision cannot be imported."""
        with self._without_torchvision():
            super().final_eval()

    def save_model(self) -> Any:
        """Save the checkpoints of ultralytics, and the margins beside each."""
        if self.margins is None:
            return super().save_model()
        save_margins(self.last, self.epoch, self._state(), self._made_under())
        written = super().save_model()
        others = [self.best] if self.best_fitness == self.fitness else []
        if self.save_period > 0 and self.epoch % self.save_period == 0:
            others.append(self.wdir / f"epoch{self.epoch}.pt")
        for checkpoint in others:
            margin_file(checkpoint).unlink(missing_ok=True)  # of an earlier epoch
            save_margins(checkpoint, self.epoch, self._state(), self._made_under())
        return written

    def _start_training(self) -> None:
        model = from_ultralytics("unwrap_model")(self.model)
        loss = DetectionLoss(DetectionParts(model))
        self.image_files = [str(file) for file in self.train_loader.dataset.im_files]
        self._places = {file: place for place, file in enumerate(self.image_files)}
        settings = self.settings
        radius: float | AdaptiveMargins
        if settings.radius is None:
            fingerprint = source_fingerprint(self.image_files)
            radius = self.margins = AdaptiveMargins(
                SampleMargins(len(self.image_files), settings.step, fingerprint=fingerprint),
                acceptance=settings.acceptance(self._total_steps()),
                rule=settings.rule(),
            )
        else:
            radius = settings.radius
        self._prepare = PrepareBatchAdversarial(
            network=model,
            loss=loss,
            attack=settings.attack(),
            radius=radius,
            prepare_batch=PrepareBatchTargets(targets=["targets"]),
        )
        model.criterion = HalvedCriterion(model.init_criterion())
        if self.resume and self.margins is not None:
            self._restore(load_margins(self.args.model, self.start_epoch - 1, self._made_under()))
        elif self.resume and margin_file(self.args.model).is_file():
            raise ValueError(
                f"{self.args.model} is of a run with margins, {margin_file(self.args.model)} beside it, got radius="
                f"{settings.radius}; go on with the same settings, or start anew from its weights"
            )

    def _total_steps(self) -> int:
        return int(self.epochs) * len(self.train_loader)

    def _made_under(self) -> dict[str, Any]:
        # Noise is measured over the whole image: on one of another size a margin would mean something else.
        return {**self.settings.plain(self._total_steps()), "imgsz": self.args.imgsz}

    def _start_epoch(self) -> None:
        """An epoch that is done again, after weights that were not finite or too little memory, starts as before."""
        if self.margins is None:
            return
        if self._epoch_started is not None and self._epoch_started[0] == self.epoch:
            self._restore(self._epoch_started[1])
        self.margins.start_epoch()
        self._epoch_started = self.epoch, self._state()
        self._verdicts = []
        self._steps_of_epoch = 0

    def _measure_halves(self, targets: Tensor) -> None:
        """Measure the losses that the attack did not: those of a network without BatchNorm, or beside path verdicts."""
        assert self._prepare is not None
        last = self._prepare.last
        if self.margins is None or last is None or (last.clean_measured and last.noisy_measured):
            return
        loss, target = self._prepare.loss, targets.to(last.radius.device)
        with torch.no_grad(), frozen(self._prepare.network) as network:
            self._prepare.last = replace(
                last,
                clean_measured=last.clean_measured or measure(loss, network(last.clean), target),
                noisy_measured=last.noisy_measured or measure(loss, network(last.noisy), target),
            )

    def _move_margins(self) -> None:
        """Lines 9 to 13 of Algorithm 1."""
        if self.margins is None or self._prepare is None:
            return
        last = self._prepare.last
        if last is None or last.ids is None:
            return
        if last.clean_measured is None or last.noisy_measured is None:
            raise RuntimeError(
                "margins need the losses of the clean and the noisy images, got none: the batch was not prepared by "
                "preprocess_batch; call preprocess_batch before each step"
            )
        visits = self.margins.judge(
            ids=last.ids,
            radius=last.radius,
            noise_norm=last.noise_norm,
            result=last.result,
            clean=last.clean_measured,
            noisy=last.noisy_measured,
            terms=self._prepare.loss.judged,
        )
        ready, skipped = self.margins.acceptance.ready, not bool(torch.isfinite(self.loss))
        self._steps_of_epoch += 1
        epoch_ended = self._steps_of_epoch == len(self.train_loader)
        visits = self.margins.move(visits, skipped=skipped, epoch_ended=epoch_ended)
        if ready and not skipped:
            self._verdicts.append(visits.accepted)

    def _log_margins(self) -> None:
        if self.margins is None:
            return
        values = self.margins.values
        waiting = [
            f"margins wait for the thresholds, which have seen {running.steps} of {running.warmup} steps"
            for running in self.margins.acceptance.running
            if not running.ready
        ]
        share = f"{torch.cat(self._verdicts).float().mean():.0%}" if self._verdicts else "; ".join(waiting) or "none"
        logger.info(
            f"margins: mean {values.mean():.3g}, {values.min():.3g} to {values.max():.3g}; noise accepted: {share}"
        )

    def _state(self) -> dict[str, Any]:
        assert self.margins is not None
        return self.margins.state_dict()

    def _restore(self, state: Mapping[str, Any]) -> None:
        assert self.margins is not None
        self.margins.load_state_dict(state)


def padded_targets(batch_idx: Tensor, cls: Tensor, bboxes: Tensor, image: Tensor) -> Tensor:
    """Ultralytics' boxes as the padded target of `DetectionLoss`.

    Args:
        batch_idx: `(n,)` which image of the batch, in any order.
        cls: `(n, 1)` or `(n,)` class.
        bboxes: `(n, 4)` centre x and y, width and height, as shares of the image.
        image: `(B, 3, H, W)`.

    Returns:
        `(B, M, 5)` rows of class, x1, y1, x2, y2 in pixels, M the most boxes of an image; class -1 for padding.

    Example:
        >>> boxes = torch.tensor([[0.5, 0.5, 0.5, 1.0]])
        >>> padded_targets(torch.tensor([1.0]), torch.tensor([[2.0]]), boxes, torch.zeros(2, 3, 4, 8))
        tensor([[[-1.,  0.,  0.,  0.,  0.]],
                [[ 2.,  2.,  0.,  6.,  4.]]])
    """
    images = batch_idx.reshape(-1).long()
    order = images.argsort(stable=True)
    counts = torch.bincount(images, minlength=len(image))
    first = counts.cumsum(0) - counts
    target = bboxes.new_zeros((len(image), int(counts.max()), 5), dtype=torch.float32)
    target[..., 0] = -1
    images = images[order]
    column = torch.arange(len(images), device=images.device) - first[images]
    height, width = image.shape[-2:]
    scale = torch.tensor([width, height], dtype=torch.float32, device=bboxes.device)
    centre, sides = (bboxes[order].float().reshape(-1, 2, 2) * scale).unbind(1)
    target[images, column] = torch.cat([cls.reshape(-1, 1)[order].float(), centre - sides / 2, centre + sides / 2], 1)
    return target


def _doubled(batch: dict[str, Any], images: Tensor) -> dict[str, Any]:
    """The batch with every image twice: pictures of training batches look into all of it."""
    count = len(batch["img"])
    both = {
        name: value * 2 if isinstance(value, list | tuple) and len(value) == count else value
        for name, value in batch.items()
    }
    index = batch["batch_idx"]
    both |= {name: torch.cat([batch[name], batch[name]]) for name in ("cls", "bboxes")}
    return {**both, "img": images, "batch_idx": torch.cat([index, index + count]), DOUBLED: True}


def _unmixed(overrides: Mapping[str, Any]) -> dict[str, Any]:
    wrong = {name: overrides[name] for name in _MIXING if overrides.get(name)}
    if wrong:
        raise ValueError(
            f"{', '.join(f'{name}={value}' for name, value in wrong.items())}: there is one margin per image, and "
            "these mix images or their sizes; leave them out"
        )
    known = vars(from_ultralytics("DEFAULT_CFG"))
    return {**overrides, **{name: 0.0 for name in _MIXING if name in known}}
