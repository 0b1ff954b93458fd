"""Files written whole or not at all."""

from __future__ import annotations

import errno
import glob
import os
import re
import secrets
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

__all__ = ["remove_leftovers", "whole_file", "write_text_whole"]

_CANNOT = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
_HOST = re.sub(r"[^A-Za-z0-9.]", "_", os.uname().nodename)[:40]


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that takes its name only once it is complete and on disk.

    What is written goes to a temporary file beside `path`, which is flushed, synchronised and renamed at the end; on
    an exception, or a kill, the old file stays as it was.

    Raises:
        OSError: when the folder cannot be written.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with whole_file(folder / "a.txt") as stream:
        ...     _ = stream.write(b"text")
        >>> (folder / "a.txt").read_text(), len(list(folder.iterdir()))
        ('text', 1)
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    temporary = path.parent / f".{path.name}.{_HOST}-{os.getpid()}-{secrets.token_hex(4)}"
    # Not mkstemp, which makes private files: every user who can read the folder must be able to read results.
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
        _synchronise(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # a full disk names no file
            raise OSError(error.errno, f"{error.strerror or error}, while writing the file", str(path)) from error
        raise


def _synchronise(folder: Path) -> None:
    """Put a folder's names on disk, as far as its file system can."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        # Some network and shared file systems: old CIFS, VirtualBox, WSL.
        warnings.warn(
            f"{folder}: the file system cannot synchronise a folder ({error.strerror}); files are written whole, but "
            "one that is new may be missing after a power cut",
            stacklevel=4,
        )
    finally:
        os.close(handle)


def remove_leftovers(path: Path) -> None:
    """Remove what processes of this machine that are gone left of a file they were writing.

    Args:
        path: the file; what `whole_file` writes before the file is complete stands beside it under a hidden name.
    """
    for unfinished in path.parent.glob(f".{glob.escape(path.name)}.{_HOST}-*-*"):
        process = unfinished.name.rsplit("-", 2)[1]
        if process.isdecimal() and not _is_running(int(process)):
            unfinished.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # a process of another user
        return True
    return True


def write_text_whole(path: Path, text: str) -> None:
    """Write UTF-8 text through `whole_file`."""
    with whole_file(path) as stream:
        stream.write(text.encode("utf-8"))
