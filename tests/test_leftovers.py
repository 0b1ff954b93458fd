"""What kills leave of files in the making is removed, and nothing of processes that still run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from monai_amat.files import whole_file

KILLED = """
import os, signal, sys
from pathlib import Path
from monai_amat.files import whole_file
with whole_file(Path(sys.argv[1])) as stream:
    stream.write(b"half")
    stream.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_next_writer_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    file, other = tmp_path / "model [1].pt", tmp_path / "model [1].pt.txt"
    for path in (file, other):
        subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert len(list(tmp_path.iterdir())) == 2
    assert all(path.read_bytes() == b"half" for path in tmp_path.iterdir())
    with whole_file(file) as outer:
        outer.write(b"first")
        with whole_file(file) as inner:  # another file in the making, of a process that runs
            inner.write(b"second")
    assert file.read_bytes() == b"first"
    left = [path.name for path in tmp_path.iterdir()]
    assert len(left) == 2  # the file, and what was left of another one
    assert str(os.getpid()) not in "".join(left)
