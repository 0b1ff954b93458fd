"""A folder that one process at a time may write to."""

from __future__ import annotations

import atexit
import errno
import fcntl
import logging
import os
from pathlib import Path
from typing import IO

__all__ = ["FolderLock"]

_logger = logging.getLogger(__name__)
_TAKEN = (errno.EACCES, errno.EAGAIN)
_HELD: dict[Path, IO[str]] = {}


@atexit.register
def _release_all() -> None:
    """Remove the files of locks that a run which ended in an error still holds."""
    for file, stream in _HELD.items():
        file.unlink(missing_ok=True)
        stream.close()


class FolderLock:
    """Hold a file in a folder locked, so that another process that wants to write there is refused.

    The lock belongs to the process: it ends with the process, however that ends, and a second object of the same
    process may hold it too. File systems without locks (some network file systems) are used without one; a warning
    says so.

    Args:
        file: the file to lock; made if missing.
        what: what holds it, for the message.

    Example:
        >>> import tempfile
        >>> lock = FolderLock(Path(tempfile.mkdtemp()) / ".lock", "a training")
        >>> lock.acquire()
        >>> lock.release()
    """

    def __init__(self, file: str | Path, what: str) -> None:
        self.file = Path(file)
        self.what = what

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            RuntimeError: when another process holds it.
            OSError: when the file cannot be opened.
        """
        key = self.file.resolve()
        while key not in _HELD:
            stream = key.open("a+", encoding="utf-8")
            self._lock(stream)
            # Its former holder may have removed the file between the two calls; then another one counts.
            if key.exists() and os.path.samestat(key.stat(), os.fstat(stream.fileno())):
                _HELD[key] = stream
            else:
                stream.close()

    def _lock(self, stream: IO[str]) -> None:
        try:
            # Not flock, which the workers of a data loader would inherit and hold on to after a kill.
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _TAKEN:
                stream.seek(0)
                holder = stream.read().strip() or "unknown"
                stream.close()
                raise RuntimeError(
                    f"{self.what} of another process ({holder}) writes to {self.file.parent}; wait until it ends or "
                    "stop it (the workers of a killed torchrun may still run), or use another folder"
                ) from error
            _logger.warning("%s cannot be locked (%s); start no second run in this folder", self.file, error.strerror)
        else:
            stream.truncate(0)
            stream.write(f"process {os.getpid()} on {os.uname().nodename}\n")
            stream.flush()

    def release(self) -> None:
        """Give the lock free and remove its file; nothing happens where it is not held."""
        key = self.file.resolve()
        stream = _HELD.pop(key, None)
        if stream is not None:
            key.unlink(missing_ok=True)
            stream.close()
