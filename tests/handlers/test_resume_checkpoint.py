from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from monai.data import CacheDataset, DataLoader
from monai.engines import SupervisedTrainer
from monai.handlers import LrScheduleHandler
from monai.transforms import Compose, EnsureTyped, RandFlipd, RandGaussianNoised
from torch import nn
from torch.utils.data import IterableDataset

from monai_amat.data.indexed import IndexedDataset
from monai_amat.data.sampler import SeededSampler
from monai_amat.handlers.epoch_seed import EpochSeedHandler
from monai_amat.handlers.gradient_clip import GradientClipHandler
from monai_amat.handlers.non_finite_guard import NonFiniteGuard
from monai_amat.handlers.resume_checkpoint import ResumeCheckpoint

DATA = [{"image": np.random.RandomState(i).rand(1, 8, 8).astype(np.float32), "label": np.ones(1)} for i in range(8)]


class KilledError(Exception):
    """Stands for a kill in the middle of an epoch."""


class KillAt:
    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        if engine.state.iteration == self.iteration:
            raise KilledError


class Run:
    """A small training with all that is random in one: crops of noise, dropout, order, loader workers."""

    def __init__(
        self,
        folder: Path,
        *handlers: Any,
        epochs: int = 4,
        width: int = 2,
        workers: int = 0,
        persistent: bool = False,
        batch: int = 2,
        start: int = 0,
        optimizer: type[torch.optim.Optimizer] = torch.optim.Adam,
        settings: dict[str, Any] | None = None,
        **trainer: Any,
    ) -> None:
        torch.manual_seed(start)
        network = nn.Sequential(
            nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.Dropout(0.3), nn.Flatten(), nn.Linear(36 * width, 1)
        )
        transform = Compose(
            [EnsureTyped(("image", "label"), dtype=torch.float32), RandGaussianNoised("image", prob=0.5)]
        )
        dataset = IndexedDataset(
            CacheDataset(DATA, Compose([transform, RandFlipd("image", prob=0.5)]), progress=False), seed=1
        )
        self.loader = DataLoader(
            dataset,
            sampler=SeededSampler(8, num_samples=12, seed=1),
            batch_size=batch,
            num_workers=workers,
            persistent_workers=persistent,
        )
        self.network = network
        self.optimizer = optimizer(network.parameters(), lr=0.05)  # type: ignore[call-arg]
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 1, gamma=0.7)
        self.guard = NonFiniteGuard()
        objects = {"scheduler": self.scheduler, "guard": self.guard}
        self.checkpoint = ResumeCheckpoint(folder, **{"objects": objects, **(settings or {})})
        self.engine = SupervisedTrainer(
            "cpu",
            epochs,
            self.loader,
            network,
            self.optimizer,
            nn.MSELoss(),
            # Listed ahead of the scheduler on purpose.
            train_handlers=[
                self.checkpoint,
                EpochSeedHandler(1),
                GradientClipHandler(1.0),
                self.guard,
                LrScheduleHandler(self.scheduler, print_lr=False),  # type: ignore[arg-type]
                *handlers,
            ],
            **trainer,
        )

    def run(self) -> Run:
        self.engine.run()
        # Persistent workers that are left to the cyclic garbage collector cost it five seconds each.
        self.loader._iterator = None
        return self

    def killed(self) -> Run:
        with pytest.raises(KilledError):
            self.run()
        self.loader._iterator = None
        return self

    def ends_like(self, other: Run) -> bool:
        mine, theirs = self.network.state_dict(), other.network.state_dict()
        moments = zip(self.optimizer.state.values(), other.optimizer.state.values(), strict=True)
        return (
            all(torch.equal(value, theirs[name]) for name, value in mine.items())
            and all(torch.equal(a[name], b[name]) for a, b in moments for name in a)
            and self.scheduler.state_dict() == other.scheduler.state_dict()
        )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


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
    assert any("resume_epoch=0003.pt cannot be read" in record.getMessage() for record in caplog.records)
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


# --------------------------------------------------------------- files of other runs


def refused(match: str, folder: Path, **other: Any) -> None:
    with pytest.raises(RuntimeError, match=match) as error:
        Run(folder, **other).run()
    assert "resume_epoch=0001.pt" in str(error.value)


class Margins:
    """Refuses the state of another data set, as the margins do."""

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint

    def state_dict(self) -> dict[str, str]:
        return {"fingerprint": self.fingerprint}

    def load_state_dict(self, state: dict[str, str]) -> None:
        if state["fingerprint"] != self.fingerprint:
            raise ValueError("margins belong to another data set")


def test_files_of_other_runs_are_refused_by_name(tmp_path: Path) -> None:
    Run(tmp_path, epochs=1).run()
    refused("made with 6 iterations an epoch, this run has 4", tmp_path, batch=3)
    refused(
        r"another architecture of 'network'.*0\.weight: \(2, 1, 3, 3\) there, \(3, 1, 3, 3\) here", tmp_path, width=3
    )
    refused(r"cannot restore 'optimizer'.*no SGD", tmp_path, optimizer=torch.optim.SGD)
    refused(r"lacks nothing, and holds \['guard', 'scheduler'\]", tmp_path, settings={"objects": None})
    margins = {"margins": Margins("a")}
    refused(r"lacks \['margins'\], and holds \['guard', 'scheduler'\]", tmp_path, settings={"objects": margins})


def test_another_data_set_is_refused(tmp_path: Path) -> None:
    settings = {"objects": {"margins": Margins("a")}, "fingerprint": "a"}
    Run(tmp_path, epochs=1, settings=settings).run()
    refused("another data set .fingerprint a, here b", tmp_path, settings={**settings, "fingerprint": "b"})
    other = {"objects": {"margins": Margins("b")}, "fingerprint": None}
    refused("cannot restore 'margins': margins belong to another data set", tmp_path, settings=other)


def test_file_of_another_format_is_refused(tmp_path: Path) -> None:
    torch.save({"format": 2}, tmp_path / "resume_epoch=0001.pt")
    refused("no checkpoint of format 1", tmp_path)


# ----------------------------------------------------------------------- settings


class Odd:
    def __init__(self, state: Any) -> None:
        self.state = state

    def state_dict(self) -> Any:
        return self.state

    def load_state_dict(self, state: Any) -> None:
        self.state = state


def test_state_that_needs_code_to_load_is_refused_before_training(tmp_path: Path) -> None:
    odd = Odd({"history": [1, {"path": Path("x")}]})
    with pytest.raises(TypeError, match=r"Path at odd\['history'\]\[1\]\['path'\]"):
        Run(tmp_path, settings={"objects": {"odd": odd}}).run()
    assert names(tmp_path) == []


def test_numpy_numbers_are_saved_as_pythons(tmp_path: Path) -> None:
    first = Odd({"best": np.float64(0.5), 3: (np.int64(2), None, True, "text", torch.ones(2))})
    Run(tmp_path, epochs=1, settings={"objects": {"odd": first}}).run()
    second = Odd(None)
    second.state = {}
    Run(tmp_path, epochs=1, settings={"objects": {"odd": second}}).run()
    assert second.state["best"] == 0.5
    assert second.state[3][:4] == (2, None, True, "text")


@pytest.mark.parametrize(
    "scheduler",
    [
        lambda optimizer: torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2]),
        lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=9),
        lambda optimizer: torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer),
        lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.9),
        lambda optimizer: torch.optim.lr_scheduler.SequentialLR(
            optimizer, [torch.optim.lr_scheduler.ConstantLR(optimizer)] * 2, [2]
        ),
    ],
)
def test_torch_schedulers_can_be_saved(tmp_path: Path, scheduler: Any) -> None:
    optimizer = torch.optim.AdamW(nn.Linear(1, 1).parameters())
    objects = {"scheduler": scheduler(optimizer)}
    Run(tmp_path, epochs=1, settings={"objects": objects}).run()
    Run(tmp_path, epochs=1, settings={"objects": objects}).run()


def test_objects_are_checked(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"objects\['bad'\] is a int"):
        ResumeCheckpoint(tmp_path, {"bad": 3})
    with pytest.raises(ValueError, match=r"objects\['network'\]"):
        ResumeCheckpoint(tmp_path, {"network": nn.Linear(1, 1)})
    with pytest.raises(ValueError, match="every=0"):
        ResumeCheckpoint(tmp_path, every=0)


def test_loader_without_length_is_refused(tmp_path: Path) -> None:
    class Stream(IterableDataset):
        def __iter__(self) -> Iterator[dict]:
            return iter(())

    network = nn.Linear(1, 1)
    engine = SupervisedTrainer(
        "cpu", 1, DataLoader(Stream()), network, torch.optim.SGD(network.parameters(), 0.1), nn.MSELoss()
    )
    ResumeCheckpoint(tmp_path).attach(engine)
    with pytest.raises(ValueError, match="no length"):
        engine.run()


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


def test_a_run_under_other_settings_is_refused(tmp_path: Path) -> None:
    """Two arms that share a folder by mistake have the same objects, data and epoch length."""
    Run(tmp_path, epochs=1, settings={"settings": {"arm": "sat", "epsilon": 5.0}}).engine.run()
    other = Run(tmp_path, epochs=2, settings={"settings": {"arm": "sat", "epsilon": 10.0}})
    with pytest.raises(RuntimeError, match=r"other settings \(epsilon: 5\.0 there, 10\.0 here\)"):
        other.engine.run()
    same = Run(tmp_path, epochs=2, settings={"settings": {"arm": "sat", "epsilon": 5.0}})
    same.engine.run()
    assert same.checkpoint.resumed_from is not None
