"""Killed and resumed runs end like whole ones; their files are whole."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from torch import nn

from tests.handlers.resuming import KillAt, Run, names


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run that nobody interrupts."""
    return Run(tmp_path_factory.mktemp("whole")).run()


@pytest.mark.parametrize("workers", [{}, {"workers": 2}, {"workers": 2, "persistent": True}])
@pytest.mark.parametrize(("iteration", "saved"), [(12, 1), (15, 2)])
def test_killed_and_resumed_equals_uninterrupted(
    tmp_path: Path, whole: Run, workers: dict[str, Any], iteration: int, saved: int
) -> None:
    """Six iterations an epoch: killed at the end of the second epoch ahead of its saving, or amid the third."""
    Run(tmp_path, KillAt(iteration), **workers).killed()
    resumed = Run(tmp_path, start=99, **workers).run()
    assert resumed.checkpoint.resumed_from == tmp_path / f"resume_epoch=000{saved}.pt"
    assert resumed.ends_like(whole)
    assert (resumed.engine.state.epoch, resumed.engine.state.iteration) == (4, 24)


def test_accumulation_resumes_alike(tmp_path: Path) -> None:
    whole = Run(tmp_path / "whole", accumulation_steps=4).run()
    Run(tmp_path / "cut", KillAt(15), accumulation_steps=4).killed()
    assert Run(tmp_path / "cut", start=99, accumulation_steps=4).run().ends_like(whole)


def test_longer_training_goes_on_where_the_shorter_ended(tmp_path: Path, whole: Run) -> None:
    Run(tmp_path, epochs=2).run()
    assert Run(tmp_path, epochs=4, start=99).run().ends_like(whole)


def test_finished_run_completes_at_once(tmp_path: Path) -> None:
    first = Run(tmp_path, epochs=2).run()
    seen: list[str] = []
    again = Run(tmp_path, epochs=2, start=99)
    again.engine.add_event_handler(Events.ITERATION_STARTED, lambda engine: seen.append("iteration"))
    again.engine.add_event_handler(Events.COMPLETED, lambda engine: seen.append("completed"))
    again.run()
    assert seen == ["completed"]
    assert again.engine.state.epoch == 2
    assert again.ends_like(first)


def test_run_called_again_keeps_its_state_in_memory(tmp_path: Path, whole: Run) -> None:
    run = Run(tmp_path, epochs=3, settings={"every": 2}).run()
    (tmp_path / "resume_epoch=0003.pt").unlink()  # the older file must not turn training back
    run.engine.state.max_epochs = 4
    run.run()
    assert run.checkpoint.resumed_from is None
    assert run.engine.state.epoch == 4
    theirs = whole.network.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in run.network.state_dict().items())


def test_broken_epoch_is_done_again_in_the_same_process(tmp_path: Path, whole: Run) -> None:
    run = Run(tmp_path)
    with run.engine.add_event_handler(Events.ITERATION_COMPLETED(once=15), lambda engine: engine.terminate()):
        run.run()
    assert run.engine.state.iteration == 15
    assert run.run().ends_like(whole)
    assert run.checkpoint.resumed_from == tmp_path / "resume_epoch=0002.pt"


def test_fresh_folder_starts_afresh(whole: Run) -> None:
    assert whole.checkpoint.resumed_from is None


def test_counts_of_the_guard_come_back(tmp_path: Path) -> None:
    first = Run(tmp_path, epochs=1)
    first.guard.total = 7
    first.run()
    assert Run(tmp_path, epochs=2).run().guard.total == 7


def test_best_metric_comes_back(tmp_path: Path) -> None:
    first = Run(tmp_path, epochs=1)
    first.engine.state.best_metric = torch.tensor([0.75])
    first.engine.state.best_metric_epoch = 1
    first.run()
    second = Run(tmp_path, epochs=1).run()
    assert (second.engine.state.best_metric, second.engine.state.best_metric_epoch) == (0.75, 1)


# ------------------------------------------------------------------------------ files


def test_newest_files_are_kept_and_the_last_epoch_saved(tmp_path: Path) -> None:
    (tmp_path / "model_epoch=0001.pt").write_text("somebody else's")
    Run(tmp_path, epochs=5, settings={"every": 2, "keep": 2, "name": "state"}).run()
    assert names(tmp_path) == ["model_epoch=0001.pt", "state_epoch=0004.pt", "state_epoch=0005.pt"]


def test_terminated_run_saves_its_last_epoch(tmp_path: Path) -> None:
    run = Run(tmp_path, epochs=9, settings={"every": 4})
    run.engine.add_event_handler(Events.EPOCH_COMPLETED(once=3), lambda engine: engine.terminate())
    run.run()
    assert names(tmp_path) == ["resume_epoch=0003.pt"]


@pytest.mark.parametrize("damage", ["cut", "empty", "noise"])
def test_damaged_newest_file_falls_back_to_the_one_before(
    tmp_path: Path, whole: Run, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    Run(tmp_path, epochs=3).run()
    newest = tmp_path / "resume_epoch=0003.pt"
    content = newest.read_bytes()
    newest.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "noise": b"\x93noise" * 100}[damage])
    with caplog.at_level(logging.WARNING):
        resumed = Run(tmp_path, start=99).run()
    assert resumed.checkpoint.resumed_from == tmp_path / "resume_epoch=0002.pt"
    assert resumed.ends_like(whole)
    assert any("trying the checkpoint before it" in record.getMessage() for record in caplog.records)
    torch.load(newest, weights_only=True)


def test_only_damaged_files_are_an_error(tmp_path: Path) -> None:
    Run(tmp_path, epochs=1).run()
    (tmp_path / "resume_epoch=0001.pt").write_bytes(b"")
    with pytest.raises(RuntimeError, match=r"none of .* can be read \(resume_epoch=0001\.pt\)"):
        Run(tmp_path).run()


def test_failure_while_writing_leaves_the_good_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Run(tmp_path, epochs=1).run()
    before = (tmp_path / "resume_epoch=0001.pt").read_bytes()

    def fails(payload: Any, stream: Any) -> None:
        stream.write(b"half of it")
        raise OSError("No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(torch, "save", fails)
        Run(tmp_path, epochs=2).run()
    assert names(tmp_path) == ["resume_epoch=0001.pt"]
    assert (tmp_path / "resume_epoch=0001.pt").read_bytes() == before


def test_what_a_kill_left_half_written_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / ".resume_epoch=0001.pt.x1y2").write_bytes(b"half")
    Run(tmp_path, epochs=1).run()
    assert names(tmp_path) == ["resume_epoch=0001.pt"]


def test_unwritable_folder_is_found_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RuntimeError, match=r"cannot be written to .*file/run"):
        Run(tmp_path / "file" / "run")


def test_file_holds_plain_things_only(tmp_path: Path) -> None:
    Run(tmp_path, epochs=1).run()
    payload = torch.load(tmp_path / "resume_epoch=0001.pt", weights_only=True)
    assert (payload["format"], payload["epoch"], payload["epoch_length"]) == (1, 1, 6)
    assert set(payload["objects"]) == {"network", "optimizer", "scheduler", "guard"}
    assert payload["objects"]["network"]._metadata["1"] == {"version": nn.BatchNorm2d._version}


# ----------------------------------------------------------- wrappers, scaler, ranks


@pytest.mark.filterwarnings("ignore:.*(GradScaler|device_type of 'cuda'):")
def test_scaler_goes_on_at_its_scale(tmp_path: Path) -> None:
    def run(epochs: int, scale: float) -> float:
        scaled = Run(tmp_path, epochs=epochs, amp=True)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=6)

        # What the trainer does itself where there is CUDA.
        class Scales:
            def attach(self, engine: Engine) -> None:
                engine.add_event_handler(Events.STARTED, lambda engine: setattr(engine, "scaler", scaler))

        started = scaled.engine._event_handlers[Events.STARTED]
        Scales().attach(scaled.engine)
        started.insert(0, started.pop())
        scaled.run()
        return scaler.get_scale()

    assert run(1, 8.0) == 16.0
    assert run(2, 1024.0) == 32.0
    with pytest.raises(RuntimeError, match=r"holds \['scaler'\].*the same amp"):
        Run(tmp_path).run()


@pytest.mark.filterwarnings("ignore:.*(GradScaler|device_type of 'cuda'):")
def test_scaler_that_is_off_is_no_part_of_the_state(tmp_path: Path) -> None:
    run = Run(tmp_path, epochs=1, amp=True)
    off = torch.amp.GradScaler("cpu", enabled=False)
    run.engine.add_event_handler(Events.ITERATION_STARTED, lambda engine: setattr(engine, "scaler", off))
    run.run()
    payload = torch.load(tmp_path / "resume_epoch=0001.pt", weights_only=True)
    assert "scaler" not in payload["objects"]


@pytest.fixture
def one_rank(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("one_rank")
def test_wrapped_networks_write_the_same_files(tmp_path: Path, whole: Run) -> None:
    first = Run(tmp_path / "run", KillAt(15))
    first.engine.network = nn.parallel.DistributedDataParallel(first.network)
    first.killed()
    assert Run(tmp_path / "run", start=99).run().ends_like(whole)
    finished = Run(tmp_path / "run", start=99)
    finished.engine.network = torch.compile(finished.network, backend="eager")  # type: ignore[assignment]
    assert finished.run().ends_like(whole)


@pytest.mark.usefixtures("one_rank")
def test_ranks_that_see_different_folders_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Run(tmp_path / "run", epochs=1).run()

    def rank_zero_has_three(values: list[int], src: int) -> None:
        values[0] = 3

    monkeypatch.setattr(dist, "broadcast_object_list", rank_zero_has_three)
    with pytest.raises(RuntimeError, match="rank 0 resumes after epoch 3, rank 0 after epoch 1"):
        Run(tmp_path / "run", epochs=2).run()


def test_other_ranks_wait_and_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[bool] = []
    for name, value in {
        "is_initialized": lambda: True,
        "get_rank": lambda group=None: 1,
        "get_world_size": lambda group=None: 2,
        "barrier": lambda: waited.append(True),
        "broadcast_object_list": lambda values, src: None,
        "all_reduce": lambda tensor, op: None,
    }.items():
        monkeypatch.setattr(dist, name, value)
    Run(tmp_path, epochs=2, batch=1).run()
    assert waited == [True, True]
    assert names(tmp_path) == []
