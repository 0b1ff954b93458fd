"""Steps at once: none before what it needs, never more than asked for, none started after a failure."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monai_amat.study import schedule
from monai_amat.study.arms import Bundle
from monai_amat.study.process import Processes
from monai_amat.study.schedule import run_steps, worker_environments
from monai_amat.study.steps import Step, StepError

ROOT = Path("/study")


@dataclass(frozen=True)
class Diary:
    """What happened, in order."""

    events: list[tuple[str, str]] = field(default_factory=list)
    environments: list[Mapping[str, str] | None] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        return [name for event, name in self.events if event == "start"]

    @property
    def most(self) -> int:
        """How many were under way at most."""
        count = [1 if event == "start" else -1 for event, _ in self.events]
        return max(sum(count[: i + 1]) for i in range(len(count)))


class Noted(Step):
    """A step that writes into a diary instead of running anything."""

    def run(self, processes: Processes | None = None, environment: Mapping[str, str] | None = None) -> float:
        diary: Diary = self.values["diary"]
        diary.events.append(("start", self.name))
        diary.environments.append(environment)
        try:
            self.values["work"]()
        finally:
            diary.events.append(("end", self.name))
        return float(self.name)

    def done(self) -> bool:
        return False


def noted(name: int, diary: Diary, *after: Step, work: Callable[[], object] = lambda: time.sleep(0.001)) -> Noted:
    bundle = Bundle.__new__(Bundle)
    return Noted(str(name), bundle, [], ROOT / "arms" / "a", {"diary": diary, "work": work}, after=after)


def quiet(text: str) -> None:
    """Say nothing."""


@given(
    needs=st.lists(st.sets(st.integers(0, 11), max_size=3), min_size=1, max_size=12),
    jobs=st.integers(1, 4),
    shuffle=st.randoms(use_true_random=False),
)
def test_each_step_runs_once_and_after_what_it_needs(needs: list[set[int]], jobs: int, shuffle: Any) -> None:
    diary = Diary()
    steps: list[Noted] = []
    for number, of_step in enumerate(needs):
        steps.append(noted(number, diary, *(steps[i] for i in of_step if i < number)))
    listed = list(steps)
    shuffle.shuffle(listed)
    seconds = run_steps(listed, root=ROOT, jobs=jobs, say=quiet)
    # What each took, in the order of the steps, whichever ended first.
    assert list(seconds.items()) == [(f"arms/a/{step.name}", float(step.name)) for step in listed]
    assert sorted(diary.names) == sorted(step.name for step in steps)
    assert diary.most <= jobs
    for step in steps:
        for needed in step.after:
            assert diary.events.index(("end", needed.name)) < diary.events.index(("start", step.name))


def test_one_job_runs_in_the_order_given() -> None:
    diary = Diary()
    steps = [noted(number, diary) for number in (3, 1, 2)]
    said: list[str] = []
    run_steps(steps, root=ROOT, say=said.append)
    assert diary.names == ["3", "1", "2"]
    assert said == [f"==> [{i}/3] arms/a: {name} (log: /study/arms/a/{name}.log)" for i, name in enumerate("312", 1)]
    assert diary.environments == [{}] * 3


def test_steps_that_need_nothing_of_each_other_run_at_once() -> None:
    """Each waits for the other: one after the other they would never end."""
    meet = threading.Barrier(3)
    diary = Diary()
    said: list[str] = []
    steps = [noted(number, diary, work=meet.wait) for number in range(3)]
    last = noted(3, diary, *steps)
    run_steps([*steps, last], root=ROOT, jobs=3, say=said.append)
    assert diary.most == 3
    assert diary.names[-1] == "3"
    assert [line.split("]")[0] for line in said[:3]] == ["==> [1/4", "==> [2/4", "==> [3/4"]
    assert said[-2:] == ["==> [4/4] arms/a: 3 (log: /study/arms/a/3.log)", "<== [4/4] arms/a: 3: done in 3 s"]


def test_a_failure_lets_the_others_end_and_starts_no_more() -> None:
    diary = Diary()
    failed = threading.Event()
    said: list[str] = []

    def fail() -> None:
        failed.set()
        raise StepError("the culprit")

    def outlast() -> None:
        failed.wait(20)
        time.sleep(0.1)

    steps = [noted(0, diary, work=fail), noted(1, diary, work=outlast), noted(2, diary), noted(3, diary)]
    with pytest.raises(StepError, match="the culprit"):
        run_steps(steps, root=ROOT, jobs=2, say=said.append)
    assert diary.names == ["0", "1"]
    assert diary.events[-1] == ("end", "1")
    assert said[2:] == [
        "<== [1/4] arms/a: 0: failed: the culprit",
        "no further step is started; 1 under way may end (or press Ctrl-C)",
        "<== [2/4] arms/a: 1: done in 1 s",
    ]


def test_of_several_failures_the_first_is_raised_and_all_are_said() -> None:
    diary = Diary()
    failed = threading.Event()
    said: list[str] = []

    def fail() -> None:
        failed.set()
        raise StepError("the first")

    def fail_later() -> None:
        failed.wait(20)
        time.sleep(0.1)
        raise OSError("the second")

    with pytest.raises(StepError, match="the first"):
        run_steps([noted(0, diary, work=fail_later), noted(1, diary, work=fail)], root=ROOT, jobs=2, say=said.append)
    assert "<== [1/2] arms/a: 0: failed: the second" in said


def test_what_cannot_be_run_is_refused_before_anything_is(tmp_path: Path) -> None:
    diary = Diary()
    first, second = noted(0, diary), noted(1, diary)
    with pytest.raises(ValueError, match="jobs must be at least 1, got 0"):
        run_steps([first], root=ROOT, jobs=0)
    with pytest.raises(ValueError, match="arms/a/2 needs arms/a/1, which is not among the steps"):
        run_steps([first, noted(2, diary, second)], root=ROOT)

    class Other(Noted):
        def done(self) -> bool:
            raise RuntimeError("holds this step with other settings")

    with pytest.raises(RuntimeError, match="holds this step with other settings"):
        run_steps([first, Other("9", first.bundle, [], ROOT / "arms/b", first.values)], root=ROOT)
    assert not diary.events


class Script(Step):
    """A step whose process runs a line of Python instead of a bundle."""

    def command(self) -> list[str]:
        return ["-c", str(self.values["code"])]


def scripts(root: Path, codes: Sequence[str]) -> list[Script]:
    (root / "bundle" / "configs").mkdir(parents=True)
    (root / "bundle" / "configs" / "train.json").write_text("{}")
    bundle = Bundle(root / "bundle")
    return [Script("train", bundle, ["train"], root / str(i), {"code": code}) for i, code in enumerate(codes)]


def test_an_interruption_kills_every_step_under_way(tmp_path: Path) -> None:
    code = "import os, pathlib, time; pathlib.Path(r'{}').write_text(str(os.getpid())); time.sleep(60)"
    files = [tmp_path / f"pid{i}" for i in range(3)]
    steps = scripts(tmp_path, [code.format(file) for file in files])

    main = threading.get_ident()

    def interrupt() -> None:
        while not all(file.is_file() and file.read_text() for file in files[:2]):
            time.sleep(0.01)
        signal.pthread_kill(main, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background ignore Ctrl-C
    try:
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            run_steps(steps, root=tmp_path, jobs=2, say=quiet)
    finally:
        signal.signal(signal.SIGINT, before)
    for file in files[:2]:
        with pytest.raises(ProcessLookupError):
            os.kill(int(file.read_text()), 0)
    assert not files[2].exists()
    assert not steps[0].done()


def test_several_threads_leave_the_umask_and_files_as_open_as_it_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        steps = scripts(tmp_path, ["import os; print(oct(os.umask(0)))"] * 4)
        run_steps(steps, root=tmp_path, jobs=4, say=quiet)
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    for step in steps:
        assert (step.output_dir / "train.log").read_text().strip() == "0o27"
        assert step.output_dir.stat().st_mode & 0o777 == 0o750
        assert [path.stat().st_mode & 0o777 for path in step.output_dir.iterdir()] == [0o640] * 2


# --------------------------------------------------------------------------------- the machine


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes this look like another machine."""

    def make(*, cores: int, devices: int, **variables: str) -> None:
        for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(schedule, "_cores", lambda: cores)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)

    return make


def test_workers_share_the_cores(machine: Callable[..., None]) -> None:
    machine(cores=8, devices=0)
    assert worker_environments(1) == [{}]
    assert worker_environments(3) == [{"OMP_NUM_THREADS": "2"}] * 3
    assert worker_environments(20) == [{"OMP_NUM_THREADS": "1"}] * 20


def test_what_the_user_has_set_stays(machine: Callable[..., None]) -> None:
    machine(cores=8, devices=1, OMP_NUM_THREADS="5")
    assert worker_environments(2) == [{}, {}]


def test_workers_take_the_devices_in_turn(machine: Callable[..., None]) -> None:
    machine(cores=8, devices=2)
    assert [each["CUDA_VISIBLE_DEVICES"] for each in worker_environments(3)] == ["0", "1", "0"]
    machine(cores=8, devices=2, CUDA_VISIBLE_DEVICES="5, GPU-ab")
    assert [each["CUDA_VISIBLE_DEVICES"] for each in worker_environments(3)] == ["5", "GPU-ab", "5"]
    machine(cores=8, devices=1, CUDA_VISIBLE_DEVICES="5")
    assert worker_environments(2) == [{"OMP_NUM_THREADS": "4"}] * 2
    # CUDA sees no device from the first name on that it does not know.
    machine(cores=8, devices=2, CUDA_VISIBLE_DEVICES="3,1,-1,2")
    assert [each["CUDA_VISIBLE_DEVICES"] for each in worker_environments(3)] == ["3", "1", "3"]


def test_no_two_steps_at_once_have_the_same_device(machine: Callable[..., None]) -> None:
    machine(cores=8, devices=3)
    diary = Diary()
    seen: list[list[str]] = []
    meet = threading.Barrier(3)
    steps = [noted(number, diary, work=meet.wait) for number in range(6)]
    run_steps(steps, root=ROOT, jobs=3, say=quiet)
    for first in (0, 3):
        seen.append(sorted(str((each or {})["CUDA_VISIBLE_DEVICES"]) for each in diary.environments[first : first + 3]))
    assert seen == [["0", "1", "2"]] * 2


def test_variables_reach_the_programs(machine: Callable[..., None], tmp_path: Path) -> None:
    machine(cores=6, devices=2)
    code = "import os; print(os.environ['OMP_NUM_THREADS'], os.environ['CUDA_VISIBLE_DEVICES'])"
    steps = scripts(tmp_path, [code] * 2)
    run_steps(steps, root=tmp_path, jobs=2, say=quiet)
    assert [(step.output_dir / "train.log").read_text() for step in steps] == ["3 0\n", "3 1\n"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="cores are counted in another way there")
def test_cores_that_this_process_may_not_use_do_not_count() -> None:
    assert schedule._cores() == len(os.sched_getaffinity(0))
