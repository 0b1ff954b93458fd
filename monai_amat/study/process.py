"""Programs that a study runs: what they print, how they end, and that none is left behind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import IO

from monai_amat.progress import BAR_VARIABLE

__all__ = ["Processes"]


class Processes:
    r"""Programs under way, from any number of threads.

    Args:
        bars: whether the programs draw progress bars, which are passed on to this process's error stream; bars of
            several programs at once would overwrite each other. Bars never reach the log.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryFile() as log:
        ...     code, errors = Processes().run([sys.executable, "-c", "raise SystemExit('no')"], log)
        >>> code, errors
        (1, 'no\n')
    """

    def __init__(self, *, bars: bool = False) -> None:
        self.bars = bars
        self._running: set[subprocess.Popen[bytes]] = set()
        self._closed = False
        # None may be started between the moment that all are killed and that in which no other is to follow.
        self._lock = threading.Lock()

    def run(
        self, arguments: Sequence[str], log: IO[bytes], environment: Mapping[str, str] | None = None
    ) -> tuple[int, str]:
        """Run a program and return its exit code and the end of what it wrote to its error stream.

        Progress bars go to the terminal or nowhere; all else, tracebacks too, goes to the log.

        Args:
            arguments: the program and its arguments.
            log: file that takes what it prints.
            environment: variables to set beside this process's own.

        Raises:
            RuntimeError: after `kill`.
        """
        process = self._start(arguments, log, environment or {})
        try:
            with process:
                errors = self._follow(process, log)
        finally:
            self._running.discard(process)
        return process.returncode, errors.decode("utf-8", errors="replace")

    def kill(self) -> None:
        """Kill every program under way, and start no other."""
        with self._lock:
            self._closed = True
            for process in tuple(self._running):
                process.kill()

    def _start(
        self, arguments: Sequence[str], log: IO[bytes], environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._closed:
                raise RuntimeError("the study is being stopped: no further program is started")
            process = subprocess.Popen(
                arguments,
                stdout=log,
                stderr=subprocess.PIPE,
                env={**os.environ, **environment, "PYTHONUNBUFFERED": "1", BAR_VARIABLE: str(int(self.bars))},
            )
            self._running.add(process)
        return process

    def _follow(self, process: subprocess.Popen[bytes], log: IO[bytes]) -> bytes:
        """Sort what it writes to its error stream until it closes that; returns the last megabyte."""
        assert process.stderr is not None
        kept = b""
        try:
            while chunk := os.read(process.stderr.fileno(), 65536):
                for line in re.findall(rb"[^\n]*\n|[^\n]+", chunk):
                    bar, redrawn, rest = line.rpartition(b"\r")
                    ends = rest.endswith(b"\n")  # text after the end of a bar
                    if redrawn and self.bars:
                        shown = bar + redrawn if ends else line
                        sys.stderr.write(shown.decode("utf-8", errors="replace"))
                    if not redrawn or ends:
                        log.write(rest)
                sys.stderr.flush()
                log.flush()
                kept = (kept + chunk)[-(1 << 20) :]
        except BaseException:
            process.kill()  # an interrupted study leaves no run behind
            raise
        return kept
