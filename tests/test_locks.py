"""FolderLock: one process at a time, whatever the file system can do."""

from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from monai_amat.locks import FolderLock

HOLDER = """
import sys
from monai_amat.locks import FolderLock
lock = FolderLock(sys.argv[1], "a training")
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("kill", [False, True])
def test_another_process_is_refused_until_the_holder_is_gone(kill: bool, tmp_path: Path) -> None:
    file = tmp_path / ".lock"
    command = [sys.executable, "-c", HOLDER, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RuntimeError, match=rf"a training of another process .process {holder.pid} on .*wait until"):
            FolderLock(file, "a training").acquire()
        if kill:
            holder.kill()
        else:
            holder.communicate("")
    lock = FolderLock(file, "a training")
    lock.acquire()
    FolderLock(file, "a training").acquire()  # the process holds it already
    lock.release()
    assert not file.exists()
    lock.release()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS])
def test_a_file_system_without_locks_is_used_with_a_warning(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(code, "no locks available")

    monkeypatch.setattr(fcntl, "lockf", fail)
    lock = FolderLock(tmp_path / ".lock", "a training")
    lock.acquire()
    assert "cannot be locked (no locks available)" in caplog.text
    lock.release()
