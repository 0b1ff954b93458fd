"""kill -9 at any moment: a resumed training ends with the margins, losses and weights of one that was never killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import monai.bundle
import pytest
import torch

if TYPE_CHECKING:
    from tests.bundles.conftest import BundleRunner

EPOCHS = 5
# By bundle: iterations an epoch, thresholds that some samples meet, and steps that take long enough to be hit in the
# middle. Landmarks besides with another way of the training forward, which has a state of its own to resume.
LENGTH = {"hippocampus_amat": 4, "cephalometric_amat": 2}
THRESHOLDS = {
    "hippocampus_amat": {"total": 2.1},
    "cephalometric_amat": {"heatmap": 0.99, "offset_y": 0.51, "offset_x": 0.51},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "hippocampus_amat": {"iterations_per_epoch": 4, "attack_steps": 12},
    "cephalometric_amat": {"attack_steps": 6},
}
OVERLAYS = {"hippocampus_amat": ["amat"], "cephalometric_amat": ["amat", "own_statistics"]}


class Training:
    """AMAT with every loss written down as it is computed."""

    def __init__(self, bundle: BundleRunner, folder: Path, **changes: Any) -> None:
        self.bundle = bundle
        self.name = bundle.root.name
        self.output = folder / "out"
        self.losses_file = folder / "losses.txt"
        line = "'%d %s\\n' % (engine.state.iteration, float(engine.state.output['loss']).hex())"
        note = f"lambda engine: open({str(self.losses_file)!r}, 'a').write({line})"
        event = "monai.engines.utils.IterationEvents.LOSS_COMPLETED"
        self.overlay = folder / "note.json"
        lines = [
            # Loader workers are forked as in any other process, although this one comes from a server.
            "$torch.multiprocessing.set_start_method('fork', force=True)",
            f"$@train#trainer.add_event_handler({event}, {note})",
        ]
        self.overlay.write_text(json.dumps({"+initialize": lines}))
        thresholds = folder / "thresholds.json"
        thresholds.write_text(json.dumps({"format": 1, "thresholds": THRESHOLDS[self.name], "provenance": {}}))
        self.changes = {"output_dir": str(self.output), "thresholds_file": str(thresholds), "max_epochs": EPOCHS}
        self.changes |= {**SETTINGS[self.name], **changes}

    def start(self) -> BaseProcess:
        """Run in a process of its own, forked off a server that has everything imported."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["monai.bundle", "monai.engines", "monai.handlers", "monai_amat.handlers"])
        files = self.bundle.files(*OVERLAYS[self.name], self.overlay)
        values = self.bundle.values(self.changes)
        process = context.Process(
            target=monai.bundle.run, kwargs={"config_file": files, "logging_file": False, **values}
        )
        process.start()
        return process

    def finish(self) -> None:
        process = self.start()
        process.join()
        assert process.exitcode == 0

    def kill_after(self, losses: int, delay: float) -> None:
        """SIGKILL some seconds after so many losses more were written down."""
        goal = len(self.lines()) + losses
        process = self.start()
        while len(self.lines()) < goal and process.is_alive():
            time.sleep(0.002)
        time.sleep(delay)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL, "it was over before it could be killed"

    def lines(self) -> list[str]:
        return self.losses_file.read_text().splitlines() if self.losses_file.is_file() else []

    def losses(self) -> dict[int, str]:
        """Loss by iteration; an iteration that was done again must have come to the same."""
        found: dict[int, str] = {}
        for line in self.lines():
            iteration, loss = line.split()
            assert found.setdefault(int(iteration), loss) == loss, f"iteration {iteration} was done again differently"
        return found

    def ends_like(self, other: Training) -> None:
        assert self.losses() == other.losses()
        names = [f"models/resume_epoch={EPOCHS:04d}.pt", f"models/resume_epoch={EPOCHS - 1:04d}.pt", "models/model.pt"]
        for name in names:
            mine, theirs = (torch.load(run.output / name, weights_only=True) for run in (self, other))
            assert identical(mine, theirs), name
        assert (self.output / "margins.csv").read_text() == (other.output / "margins.csv").read_text()
        leftovers = {path.name for path in (self.output / "models").iterdir()} - {Path(name).name for name in names}
        assert not leftovers


def identical(first: Any, second: Any) -> bool:
    """Equal to the last bit, through dictionaries and lists."""
    if isinstance(first, torch.Tensor):
        return isinstance(second, torch.Tensor) and first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(identical(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(identical, first, second))
    return bool(first == second)


def finished(bundle: BundleRunner, folder: Path) -> Training:
    training = Training(bundle, folder)
    training.finish()
    assert sorted(training.losses()) == list(range(1, EPOCHS * LENGTH[training.name] + 1))
    margins = torch.load(training.output / "models" / f"resume_epoch={EPOCHS:04d}.pt", weights_only=True)
    # Or there would be little to get wrong.
    assert len(margins["objects"]["margins"]["values"].unique()) > 2
    return training


@pytest.fixture(scope="module")
def uninterrupted(bundle: BundleRunner, tmp_path_factory: pytest.TempPathFactory) -> Training:
    return finished(bundle, tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def uninterrupted_landmarks(cephalometric: BundleRunner, tmp_path_factory: pytest.TempPathFactory) -> Training:
    return finished(cephalometric, tmp_path_factory.mktemp("whole_landmarks"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("which", "workers"), [("uninterrupted", 0), ("uninterrupted", 2), ("uninterrupted_landmarks", 0)]
)
def test_a_killed_training_ends_like_one_that_was_not(
    request: pytest.FixtureRequest, which: str, workers: int, tmp_path: Path
) -> None:
    whole: Training = request.getfixturevalue(which)
    length = LENGTH[whole.name]
    training = Training(whole.bundle, tmp_path, num_workers=workers)
    moments = random.Random(workers)
    # Once in the first epoch or so, when there may be nothing to resume from, once later.
    for earliest, latest in ((1, length - 1), (length, 2 * length)):
        training.kill_after(moments.randint(earliest, latest), moments.uniform(0, 0.1))
    training.finish()
    training.ends_like(whole)


def test_a_finished_training_is_not_done_again_but_exported_again(uninterrupted: Training, tmp_path: Path) -> None:
    """As if it had been killed between its last checkpoint and its export."""
    before = uninterrupted.lines()
    file = uninterrupted.output / "models" / "model.pt"
    weights = torch.load(file, weights_only=True)
    file.unlink()
    uninterrupted.finish()
    assert uninterrupted.lines() == before
    assert identical(torch.load(file, weights_only=True), weights)
