"""The last line of a run that ends early names the cause, or says how to go on."""

from __future__ import annotations

import functools
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from monai_amat.attacks import ProjectedGradientDescent
from monai_amat.ending import cause, error_line

BROKEN = {"_target_": "monai_amat.attacks.ProjectedGradientDescent", "steps": -1}
MESSAGE = "error: ValueError: steps must"


def chained(own: bool) -> BaseException:
    """An error of ours, or of another, inside others as MONAI wraps them."""
    try:
        try:
            try:
                if own:
                    ProjectedGradientDescent(steps=-1)
                raise KeyError("first")
            except Exception as error:
                raise RuntimeError("Failed to instantiate") from error
        except RuntimeError as error:
            raise RuntimeError("Failed to evaluate ConfigExpression") from error
    except RuntimeError as error:
        return error


def test_the_cause_is_our_own_error_or_else_the_first() -> None:
    assert str(cause(chained(own=True))).startswith("steps must")
    assert error_line(chained(own=False)) == "error: KeyError: 'first'"


def test_our_error_that_replaces_anothers_is_the_cause(tmp_path: Path) -> None:
    from monai_amat.templates import SegmentationSettings

    file = tmp_path / "settings.json"
    file.write_text("{")
    with pytest.raises(ValueError, match="not the settings") as caught:
        SegmentationSettings.read(file)
    assert cause(caught.value) is caught.value


@pytest.mark.slow
def test_importing_the_package_leaves_the_process_alone() -> None:
    code = """
import signal, sys
hooks = sys.excepthook, [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)]
import monai_amat
from monai_amat import ProjectedGradientDescent, RobustnessCurve
import monai_amat.study
assert hooks == (sys.excepthook, [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)])
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def bundle(folder: Path, config: dict[str, Any]) -> list[str]:
    """Arguments that run a configuration."""
    file = folder / "config.json"
    file.write_text(json.dumps({"imports": ["$import monai_amat.bundle_run"], **config}))
    return ["monai.bundle", "run", "--config_file", str(file)]


@pytest.mark.slow
def test_the_last_line_of_a_bundle_run_is_our_message(tmp_path: Path) -> None:
    words = bundle(tmp_path, {"attack": BROKEN, "run": ["$@attack"]})
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith(MESSAGE)


@pytest.mark.slow
def test_torchrun_ends_with_our_message(tmp_path: Path) -> None:
    words = bundle(tmp_path, {"attack": BROKEN, "run": ["$@attack"]})
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    summary = done.stderr[done.stderr.rindex("Root Cause") :]
    assert MESSAGE in summary
    assert "Failed to evaluate" not in summary


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interruption_says_how_to_go_on_and_ends_by_the_signal(number: signal.Signals, tmp_path: Path) -> None:
    code = """
import sys, time
import monai_amat.bundle_run
from monai_amat.ending import say_how_to_go_on
say_how_to_go_on("the same command goes on from epoch 4")
print("ready", flush=True)
time.sleep(600)
"""
    # Tests in the background of a shell, or started with nohup, pass on that signals are ignored.
    default = functools.partial(signal.signal, number, signal.SIG_DFL)
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=default
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        _, errors = process.communicate()
    assert process.returncode == -number
    assert errors.strip() == "interrupted: the same command goes on from epoch 4"


def test_an_ignored_hangup_stays_ignored(tmp_path: Path) -> None:
    """As under nohup."""
    code = """
import os, signal
signal.signal(signal.SIGHUP, signal.SIG_IGN)
import monai_amat.bundle_run
os.kill(os.getpid(), signal.SIGHUP)
print("still here")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "still here\n"


def test_forked_processes_end_in_silence() -> None:
    code = """
import os, signal, time
import monai_amat.bundle_run
ready, started = os.pipe()
child = os.fork()
if child == 0:
    os.write(started, b"1")
    while True:
        time.sleep(1)
os.read(ready, 1)  # a signal that comes during the fork itself is lost
os.kill(child, signal.SIGTERM)
print(os.waitpid(child, 0)[1])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{int(signal.SIGTERM)}\n"
    assert done.stderr == ""
