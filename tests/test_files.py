"""Files written whole: what a reader finds after an exception, a kill in the middle, or in the normal case."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from monai_amat.files import whole_file, write_text_whole


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_writes_what_it_is_given_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "folder" / "a.bin"
    with whole_file(path) as stream:
        stream.write(b"\x00\xff")
        stream.write(b"more")
    assert path.read_bytes() == b"\x00\xffmore"
    assert names(path.parent) == ["a.bin"]


def test_replaces_a_longer_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text_whole(path, "long" * 1000)
    write_text_whole(path, "ξ = größer")
    assert path.read_bytes() == "ξ = größer".encode()
    assert names(tmp_path) == ["a.txt"]


def test_until_it_is_complete_readers_see_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text_whole(path, "old")
    with whole_file(path) as stream:
        stream.write(b"new" * 100_000)
        stream.flush()
        assert path.read_text() == "old"
        fresh = tmp_path / "b.txt"
        with whole_file(fresh) as other:
            other.write(b"x")
            assert not fresh.exists()
    assert path.read_bytes() == b"new" * 100_000


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_the_old_file_and_no_rubbish(error: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text_whole(path, "old")
    with pytest.raises(error), whole_file(path) as stream:
        stream.write(b"half of the n")
        raise error
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]
    with pytest.raises(error), whole_file(tmp_path / "new.txt"):
        raise error
    assert names(tmp_path) == ["a.txt"]


def test_it_is_on_disk_before_it_takes_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut after the rename must not find an empty file: sync the content, rename, sync the folder."""
    path = tmp_path / "a.txt"
    events: list[str] = []
    sync, replace = os.fsync, Path.replace

    def watched_sync(descriptor: int) -> None:
        target = Path(f"/proc/self/fd/{descriptor}").readlink() if sys.platform == "linux" else None
        size = os.fstat(descriptor).st_size
        events.append("folder" if target == tmp_path else f"content of {size}")
        sync(descriptor)

    def watched_replace(self: Path, target: Path) -> Path:
        events.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", watched_sync)
    monkeypatch.setattr(Path, "replace", watched_replace)
    with whole_file(path) as stream:
        stream.write(b"12345")
    if sys.platform == "linux":
        assert events == ["content of 5", "rename", "folder"]


def test_a_result_may_be_read_by_whoever_may_read_the_folder(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text_whole(tmp_path / "a.txt", "x")
        assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640
        os.umask(0o022)
        write_text_whole(tmp_path / "a.txt", "y")
        assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o644
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


def test_the_umask_of_the_process_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread may make files, or start programs, at the same time."""
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("umask was changed"))
    write_text_whole(tmp_path / "a.txt", "x")


def test_a_folder_that_cannot_be_made_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"):
        write_text_whole(tmp_path / "file" / "a.txt", "x")


def child(code: str, path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)


def test_kill_9_in_the_middle_of_a_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_text_whole(path, "old and whole")
    code = """
import sys, time
from pathlib import Path
from monai_amat.files import whole_file
with whole_file(Path(sys.argv[1])) as stream:
    stream.write(b"n" * 1_000_000)
    stream.flush()
    print("half way", flush=True)
    time.sleep(60)
"""
    with child(code, path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half way\n"
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert path.read_text() == "old and whole"


def test_kill_9_at_any_moment_leaves_one_whole_file_or_the_other(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    code = """
import itertools, sys
from pathlib import Path
from monai_amat.files import whole_file
for letter in itertools.cycle((b"a", b"b")):
    with whole_file(Path(sys.argv[1])) as stream:
        for _ in range(20):
            stream.write(letter * 10_000)
    print("written", flush=True)
"""
    for moment in range(4):
        with child(code, path) as process:
            assert process.stdout is not None
            for _ in range(3):
                assert process.stdout.readline() == "written\n"
            time.sleep(0.0007 * moment)
            process.kill()
        content = path.read_bytes()
        assert len(content) == 200_000
        assert content in (b"a" * 200_000, b"b" * 200_000)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_folder_that_cannot_be_synchronised_is_a_warning(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on old CIFS, VirtualBox's shared folders and WSL."""
    sync = os.fsync

    def refuse_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    with pytest.warns(UserWarning, match=f"{tmp_path}: the file system cannot synchronise a folder"):
        write_text_whole(tmp_path / "a.txt", "whole")
    assert (tmp_path / "a.txt").read_text() == "whole"
    assert names(tmp_path) == ["a.txt"]


def test_a_broken_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=f"{tmp_path / 'a.txt'}"):
        write_text_whole(tmp_path / "a.txt", "x")
    assert names(tmp_path) == []
