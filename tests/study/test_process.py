"""Programs under way: what reaches the terminal, the log and the program, and that all can be killed at once."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import pytest

from monai_amat.study.process import Processes

BAR = "import sys; sys.stderr.write('\\r 50 %\\r      \\ra warning\\n'); sys.stderr.write('no bar\\n')"


def python(processes: Processes, log: Path, code: str, environment: dict[str, str] | None = None) -> tuple[int, str]:
    with log.open("ab") as stream:
        return processes.run([sys.executable, "-c", code], stream, environment)


@pytest.mark.parametrize("bars", [True, False])
def test_bars_are_shown_or_dropped_and_never_logged(
    bars: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, errors = python(Processes(bars=bars), tmp_path / "log", BAR)
    assert code == 0
    assert errors.endswith("a warning\nno bar\n")
    assert ("50 %" in capsys.readouterr().err) is bars
    assert (tmp_path / "log").read_text() == "a warning\nno bar\n"


def test_variables_are_set_beside_those_of_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAYS", "as it is")
    monkeypatch.setenv("CHANGES", "before")
    code = "import os; print(os.environ['STAYS'], os.environ['CHANGES'], os.environ['PYTHONUNBUFFERED'])"
    python(Processes(), tmp_path / "log", code, {"CHANGES": "after"})
    assert (tmp_path / "log").read_text() == "as it is after 1\n"


def test_all_are_killed_at_once_and_none_is_started_afterwards(tmp_path: Path) -> None:
    processes = Processes()
    ended: list[int] = []

    def run(number: int) -> None:
        code = f"import os, pathlib, time; pathlib.Path(r'{tmp_path}/{number}').write_text(str(os.getpid()))"
        ended.append(python(processes, tmp_path / f"log{number}", f"{code}; time.sleep(60)")[0])

    threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    started = [tmp_path / str(number) for number in range(3)]
    while not all(file.is_file() and file.read_text() for file in started):
        time.sleep(0.01)
    processes.kill()
    for thread in threads:
        thread.join()
    assert ended == [-9] * 3
    for file in started:
        with pytest.raises(ProcessLookupError):
            os.kill(int(file.read_text()), 0)
    with pytest.raises(RuntimeError, match="no further program is started"):
        python(processes, tmp_path / "log", "pass")


def test_a_program_that_is_silent_before_it_ends_is_killed_too(tmp_path: Path) -> None:
    """It has closed its error stream, which is what is read of it."""
    processes = Processes()
    gate = tmp_path / "gate"
    code = f"import os, pathlib, time; os.close(2); pathlib.Path({str(gate)!r}).touch(); time.sleep(60)"
    ended: list[int] = []
    thread = threading.Thread(target=lambda: ended.append(python(processes, tmp_path / "log", code)[0]))
    thread.start()
    while not gate.exists():
        time.sleep(0.01)
    time.sleep(0.1)
    processes.kill()
    thread.join()
    assert ended == [-9]
