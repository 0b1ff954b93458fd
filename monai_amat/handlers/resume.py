"""ResumeHandler: a killed run goes on where its last complete epoch ended, to the same numbers."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from torch import Tensor, nn

from monai_amat.changes import refuse_changed
from monai_amat.checks import check_within
from monai_amat.ending import say_how_to_go_on
from monai_amat.engines import describe, unwrap
from monai_amat.engines.checkpoint_file import load_checkpoint, save_checkpoint
from monai_amat.engines.weights import check_finite_weights
from monai_amat.files import whole_file
from monai_amat.handlers.plain_state import plain_state
from monai_amat.handlers.ranks import is_distributed, rank
from monai_amat.locks import FolderLock

__all__ = ["ResumeHandler"]

logger = logging.getLogger(__name__)

_FORMAT = 1
_AUTOMATIC = ("network", "optimizer", "scaler")


class ResumeHandler:
    """Save the whole state of training at the end of epochs, and start from the newest such file there is.

    Files `<name>_epoch=0003.pt` hold the network (without DDP and compile wrappers, so that runs with and without
    them can continue each other), the optimiser, the `GradScaler` if one is active, and `objects`. They appear
    whole or not at all, and load with `torch.load(weights_only=True)`, which runs no code. Saving comes after every
    handler that was attached to `EPOCH_COMPLETED` before the run, wherever this one stands in the list, so that a
    scheduler's step is in the file.

    When training starts, the newest readable file is restored, and the trainer goes on with the next epoch; a finished
    run completes at once. A broken epoch is done again from its start: with
    `EpochSeedHandler` it sees the same data and the same random numbers. A
    trainer whose `run` is called again after a complete epoch keeps its state in memory.

    Under DDP rank 0 writes while the others wait; all read, so `save_dir` must be a folder that all ranks can read.

    Args:
        save_dir: folder for the files; made if missing.
        objects: what else belongs to the state, by name: learning-rate scheduler, margins, thresholds, guards; anything
            with `state_dict` and `load_state_dict`.
        every: save after every so many epochs; the last epoch of a run is always saved.
        keep: how many of the newest files stay.
        name: how file names begin.
        fingerprint: names the data set (`IndexedDataset.fingerprint`); a file made on
            another one is refused.
        settings: what else the outcome depends on, by name: numbers, strings, containers, or objects such as the loss,
            the attack with its acceptance and margins, the optimizer and the transforms, which are described by their
            classes and public attributes (`monai_amat.engines.describe`). A file made under other settings is refused,
            so that two runs that share a folder by mistake are not mixed.

    Attributes:
        resumed_from: the file that the run started from; None if it started afresh.

    Raises:
        ValueError: for settings out of range, reserved names in `objects`, or a trainer without an epoch length.
        TypeError: if one of `objects` has no state, or its state holds more than tensors, numbers, strings and plain
            containers of them.
        RuntimeError: at attaching, if the folder cannot be written; at the start of training, naming the file, if it
            does not belong to this run (other epoch length, objects, architecture or data set), if none of the files
            can be read, or if another process trains in the folder.
        ValueError: if a weight of the network is not finite, in the file or at the end of an epoch; then no file is
            written.

    Example:
        >>> import tempfile
        >>> from monai.engines import SupervisedTrainer
        >>> def trainer(epochs, checkpoint):
        ...     network, loader = nn.Linear(1, 1), [{"image": torch.ones(1, 1), "label": torch.ones(1, 1)}]
        ...     optimizer = torch.optim.SGD(network.parameters(), 0.1)
        ...     return SupervisedTrainer(
        ...         "cpu", epochs, loader, network, optimizer, nn.MSELoss(), train_handlers=[checkpoint]
        ...     )
        >>> folder = tempfile.mkdtemp()
        >>> trainer(2, ResumeHandler(folder)).run()
        >>> checkpoint = ResumeHandler(folder)
        >>> trainer(3, checkpoint).run()
        >>> checkpoint.resumed_from.name, sorted(path.name for path in Path(folder).iterdir())
        ('resume_epoch=0002.pt', ['resume_epoch=0002.pt', 'resume_epoch=0003.pt'])
    """

    def __init__(
        self,
        save_dir: str | Path,
        objects: Mapping[str, Any] | None = None,
        *,
        every: int = 1,
        keep: int = 2,
        name: str = "resume",
        fingerprint: str | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        check_within("every (epochs)", every, 1)
        check_within("keep (files)", keep, 1)
        self.save_dir = Path(save_dir)
        self.objects = dict(objects or {})
        self.every = every
        self.keep = keep
        self.name = name
        self.fingerprint = fingerprint
        self.settings: dict[str, Any] = describe(dict(settings or {}))
        self.resumed_from: Path | None = None
        self._lock = FolderLock(self.save_dir / f".{name}.lock", "a training")
        for key, value in self.objects.items():
            if key in _AUTOMATIC:
                raise ValueError(f"objects[{key!r}]: the trainer's {key} is saved anyway; leave it out or rename it")
            if not (hasattr(value, "state_dict") and hasattr(value, "load_state_dict")):
                raise TypeError(f"objects[{key!r}] is a {type(value).__name__} without state_dict and load_state_dict")

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI trainer, and check that files can be written and that no other process writes them."""
        if rank() == 0:
            self._prepare_folder()
        engine.add_event_handler(Events.COMPLETED, self._finish)
        engine.add_event_handler(Events.STARTED, self._start)

    def _prepare_folder(self) -> None:
        probe = self.save_dir / f".{self.name}.probe"
        try:
            with whole_file(probe) as stream:
                stream.write(b"ok")
            probe.unlink()
            self._lock.acquire()
            for unfinished in self.save_dir.glob(f".{self.name}_epoch=*"):  # what a kill in mid-writing left behind
                unfinished.unlink()
        except OSError as error:
            raise RuntimeError(f"checkpoints cannot be written to {self.save_dir}: {error}") from error

    def _start(self, engine: Any) -> None:
        if engine.state.epoch_length is None:
            raise ValueError(
                "ResumeHandler needs the trainer's epoch_length, got None from a data loader without length; set it"
            )
        # At STARTED, so as to come last on EPOCH_COMPLETED, behind schedulers and metrics.
        if not engine.has_event_handler(self._epoch_completed, Events.EPOCH_COMPLETED):
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch_completed)
        if rank() == 0:
            self._lock.acquire()
        # Unfit states are found before an epoch's work hangs on them.
        self._states(engine)
        if engine.state.epoch > 0 and engine.state.iteration == engine.state.epoch * engine.state.epoch_length:
            return
        found = self._newest()
        self._check_ranks_agree(0 if found is None else found[1]["epoch"])
        if found is not None:
            self._restore(engine, *found)
        _say_how_to_go_on(engine.state.epoch, engine.state.max_epochs)

    def _finish(self, engine: Any) -> None:
        self._lock.release()

    # ------------------------------------------------------------------ saving

    def _epoch_completed(self, engine: Any) -> None:
        epoch = engine.state.epoch
        if epoch % self.every and epoch != engine.state.max_epochs and not engine.should_terminate:
            return
        for name, value in self._all_objects(engine).items():
            if isinstance(value, nn.Module):
                check_finite_weights(value.state_dict(), f"after epoch {epoch}, {name!r}")
        payload = {
            "format": _FORMAT,
            "epoch": epoch,
            "epoch_length": engine.state.epoch_length,
            "fingerprint": self.fingerprint,
            "settings": self.settings,
            "objects": self._states(engine),  # on every rank: a state may need all of them
            "engine": _numbers(engine.state),
        }
        if rank() == 0:
            save_checkpoint(payload, self.save_dir / f"{self.name}_epoch={epoch:04d}.pt")
            for old in self._files()[self.keep :]:
                old.unlink()
        if is_distributed():
            dist.barrier()
        _say_how_to_go_on(epoch, engine.state.max_epochs)

    def _states(self, engine: Any) -> dict[str, Any]:
        return {name: plain_state(value.state_dict(), name) for name, value in self._all_objects(engine).items()}

    def _all_objects(self, engine: Any) -> dict[str, Any]:
        found = {name: getattr(engine, name, None) for name in _AUTOMATIC}
        if found["scaler"] is not None and not found["scaler"].is_enabled():
            found["scaler"] = None
        present = {name: value for name, value in found.items() if value is not None}
        return {
            name: unwrap(value) if isinstance(value, nn.Module) else value
            for name, value in {**present, **self.objects}.items()
        }

    def _files(self) -> list[Path]:
        """The checkpoints in the folder, newest first."""
        pattern = re.compile(re.escape(self.name) + r"_epoch=(\d+)\.pt")
        matches = [(pattern.fullmatch(path.name), path) for path in self.save_dir.glob("*.pt")]
        numbered = [(int(match[1]), path) for match, path in matches if match]
        return [path for _, path in sorted(numbered, reverse=True)]

    # --------------------------------------------------------------- restoring

    def _newest(self) -> tuple[Path, dict[str, Any]] | None:
        files = self._files()
        for path in files:
            try:
                payload = load_checkpoint(path)
            except ValueError as error:
                logger.warning("%s; trying the checkpoint before it", error)
                continue
            if not isinstance(payload, dict) or payload.get("format") != _FORMAT:
                raise RuntimeError(f"{path} is not a checkpoint of format {_FORMAT}; give another save_dir or name")
            return path, payload
        if files:
            names = ", ".join(path.name for path in files)
            raise RuntimeError(
                f"none of the checkpoints in {self.save_dir} can be read ({names}); remove them to start anew"
            )
        return None

    def _check_ranks_agree(self, epoch: int) -> None:
        if is_distributed():
            first = [epoch]
            dist.broadcast_object_list(first, src=0)
            if first[0] != epoch:
                raise RuntimeError(
                    f"rank 0 resumes after epoch {first[0]}, rank {rank()} after epoch {epoch}: {self.save_dir} must "
                    "be one folder that all ranks can read"
                )

    def _restore(self, engine: Any, path: Path, payload: dict[str, Any]) -> None:
        objects, states = self._all_objects(engine), payload["objects"]
        self._check_belongs(engine, path, payload, set(objects))
        for name, value in objects.items():
            if isinstance(value, nn.Module):
                _check_architecture(path, name, value, states[name])
                check_finite_weights(states[name], str(path))
        for name, value in objects.items():
            try:
                value.load_state_dict(states[name])
                if isinstance(value, torch.optim.Optimizer):
                    _check_settings(value)
            except Exception as error:
                raise RuntimeError(f"{path}: cannot restore {name!r}: {error}") from error
        # Never epoch_length and max_epochs, which belong to the run that goes on.
        engine.state.epoch = payload["epoch"]
        engine.state.iteration = payload["epoch"] * engine.state.epoch_length
        for name, number in payload["engine"].items():
            setattr(engine.state, name, number)
        self.resumed_from = path
        logger.info("resumed from %s after epoch %d of %d", path, payload["epoch"], engine.state.max_epochs)

    def _check_belongs(self, engine: Any, path: Path, payload: dict[str, Any], expected: set[str]) -> None:
        refuse_changed(
            path,
            payload["epoch_length"],
            engine.state.epoch_length,
            "use the same data, batch size and number of processes, or another save_dir",
            name="iterations per epoch",
        )
        if self.fingerprint and payload["fingerprint"]:
            refuse_changed(
                path,
                payload["fingerprint"],
                self.fingerprint,
                "use the same list of data, or another save_dir",
                name="a data set of fingerprint",
            )
        refuse_changed(
            path, payload["settings"], self.settings, "go on with the same settings, or use another save_dir"
        )
        missing, unexpected = expected - set(payload["objects"]), set(payload["objects"]) - expected
        if missing or unexpected:
            raise RuntimeError(
                f"{path} does not fit this run: it lacks {sorted(missing) or 'nothing'}, and holds "
                f"{sorted(unexpected) or 'nothing'} that the run does not have; give ResumeHandler the same objects "
                "and the trainer the same amp as before, or use another save_dir"
            )


def _say_how_to_go_on(saved: int, last: int) -> None:
    where = f"goes on from epoch {saved + 1} of {last}" if saved < last else "finds the training complete"
    say_how_to_go_on(f"the same command {where}")


def _numbers(state: Any) -> dict[str, float]:
    """The trainer's best metric so far and its epoch, as Python numbers; a metric that is not a number is left out."""
    found = {}
    for name in ("best_metric", "best_metric_epoch"):
        value = getattr(state, name, None)
        if isinstance(value, (Tensor, np.generic, np.ndarray)) and np.prod(value.shape) == 1:
            value = value.item()
        if isinstance(value, (int, float)):
            found[name] = value
    return found


def _check_architecture(path: Path, name: str, module: nn.Module, state: Mapping[str, Any]) -> None:
    here, there = _shapes(module.state_dict()), _shapes(state)
    differing = [key for key in {**here, **there} if here.get(key) != there.get(key)]
    if differing:
        shown = "; ".join(
            f"{key}: {there.get(key, 'absent')} there, {here.get(key, 'absent')} here" for key in differing[:3]
        )
        raise RuntimeError(
            f"{path} holds another architecture of {name!r}: {len(differing)} entries differ ({shown}); build the "
            "network that the run began with, or use another save_dir"
        )


def _shapes(state: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value.shape) if isinstance(value, Tensor) else type(value) for key, value in state.items()}


def _check_settings(optimizer: torch.optim.Optimizer) -> None:
    # Loading replaces an optimiser's settings without looking at their names; the first step would fail obscurely.
    for group in optimizer.param_groups:
        lacking = [key for key in optimizer.defaults if key not in group]
        if lacking:
            raise ValueError(
                f"the file's optimiser is not {type(optimizer).__name__}: it lacks the setting {lacking[0]!r}"
            )
