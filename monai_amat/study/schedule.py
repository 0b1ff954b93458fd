"""Steps of a study, one after the other or several at once, each once those that it needs are done."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

import torch

from monai_amat.study.process import Processes
from monai_amat.study.steps import Step

__all__ = ["run_steps", "worker_environments"]


def run_steps(
    steps: Sequence[Step], *, root: Path, jobs: int = 1, say: Callable[[str], object] = print
) -> dict[str, float]:
    """Run steps, in their order as far as what they need is done.

    When one fails, no other is started; those under way are let finish, for theirs may be the work of hours, and then
    the error is raised. An interruption kills them all.

    Args:
        steps: what to run.
        root: folder of the study; steps are called by their place in it.
        jobs: how many may run at once. Several share the processor's cores and the CUDA devices, see
            `worker_environments`, and show no progress bars. One at a time shows bars on a terminal.
        say: what announces each step.

    Returns:
        seconds by `<place>/<name>`, all attempts together, in the order of `steps`.

    Raises:
        ValueError: for less than one job, or a step that needs one that is not among them.
        RuntimeError: when a step is done with other settings, before any is run; or another process is at one.
        StepError: when one ends with an error.
    """
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    known = {step.record for step in steps}
    for step in steps:
        for needed in step.after:
            if needed.record not in known:
                raise ValueError(f"{_called(step, root)} needs {_called(needed, root)}, which is not among the steps")
        step.done()
    return _Run(steps, root, jobs, say).run()


class _Run:
    """What is waited for, what is under way and what is done; announced from one thread alone."""

    def __init__(self, steps: Sequence[Step], root: Path, jobs: int, say: Callable[[str], object]) -> None:
        self.steps = steps
        self.root = root
        self.jobs = jobs
        self.say = say
        self.processes = Processes(bars=jobs == 1 and sys.stderr.isatty())
        self.environments = worker_environments(jobs)
        self.free = list(range(jobs))
        self.waiting = list(range(len(steps)))
        self.running: dict[Future[float], tuple[int, int]] = {}  # step and worker
        self.seconds: dict[int, float] = {}
        self.failed: Exception | None = None

    def run(self) -> dict[str, float]:
        with ThreadPoolExecutor(self.jobs) as pool:
            try:
                self._start(pool)
                while self.running:
                    done = wait(self.running, return_when=FIRST_COMPLETED).done
                    for future in sorted(done, key=self.running.__getitem__):
                        self._finish(future)
                    self._start(pool)
            except BaseException:
                self.processes.kill()
                raise
        if self.failed is not None:
            raise self.failed
        return {_called(step, self.root): self.seconds[i] for i, step in enumerate(self.steps)}

    def _start(self, pool: ThreadPoolExecutor) -> None:
        done = {self.steps[i].record for i in self.seconds}
        for i in tuple(self.waiting):
            step = self.steps[i]
            if self.failed is not None or not self.free:
                return
            if all(needed.record in done for needed in step.after):
                self.waiting.remove(i)
                worker = self.free.pop(0)
                self.say(f"==> {self._title(i)} (log: {step.output_dir / step.name}.log)")
                self.running[pool.submit(step.run, self.processes, self.environments[worker])] = (i, worker)

    def _finish(self, future: Future[float]) -> None:
        i, worker = self.running.pop(future)
        self.free = sorted([*self.free, worker])
        error = future.exception()
        if error is None:
            self.seconds[i] = future.result()
            if self.jobs > 1:
                self.say(f"<== {self._title(i)}: done in {self.seconds[i]:.0f} s")
            return
        if not isinstance(error, Exception):
            raise error
        if self.jobs > 1:
            self.say(f"<== {self._title(i)}: failed: {error}")
            if self.running:
                self.say(f"no further step is started; {len(self.running)} under way may end (or press Ctrl-C)")
        self.failed = self.failed or error

    def _title(self, i: int) -> str:
        step = self.steps[i]
        return f"[{i + 1}/{len(self.steps)}] {step.output_dir.relative_to(self.root)}: {step.name}"


def worker_environments(jobs: int) -> list[dict[str, str]]:
    """Variables to set for the programs of each worker, so that several at once share the machine.

    `OMP_NUM_THREADS` is the number of cores over that of workers, unless the user has set it. Where several CUDA
    devices are visible, each worker sees one, in turn. A single worker has it all, and nothing is set.

    Example:
        >>> worker_environments(1)
        [{}]
    """
    if jobs == 1:
        return [{}]
    shared = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(max(1, _cores() // jobs))}
    devices = _cuda_devices()
    if len(devices) < 2:
        return [dict(shared) for _ in range(jobs)]
    return [{**shared, "CUDA_VISIBLE_DEVICES": devices[slot % len(devices)]} for slot in range(jobs)]


def _cores() -> int:
    # Where a process may be bound to some of the machine's cores, those count.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cuda_devices() -> list[str]:
    """Names of the visible devices, as `CUDA_VISIBLE_DEVICES` takes them."""
    count = torch.cuda.device_count()
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [name.strip() for name in given.split(",")][:count] if given else [str(i) for i in range(count)]


def _called(step: Step, root: Path) -> str:
    return f"{step.output_dir.relative_to(root).as_posix()}/{step.name}"
