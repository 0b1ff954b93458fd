"""The last line of a program that ends early: the error that names the cause, or how to go on."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from types import FrameType, TracebackType

__all__ = ["cause", "error_line", "install", "say_how_to_go_on"]

_PACKAGE = str(Path(__file__).parent)
_INTERRUPTIONS = ("SIGTERM", "SIGHUP")

_how_to_go_on = ""


def cause(error: BaseException) -> BaseException:
    """The exception of a chain that says what is wrong.

    That is the innermost one that this package raised; where it raised none, the first of the chain. MONAI wraps each
    error of a configuration into others, which name the part of the configuration.

    Example:
        >>> try:
        ...     try:
        ...         raise ValueError("steps must be at least 1, got 0")
        ...     except ValueError as first:
        ...         raise RuntimeError("Failed to evaluate ConfigExpression") from first
        ... except RuntimeError as last:
        ...     str(cause(last))
        'steps must be at least 1, got 0'
    """
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return next((link for link in reversed(chain) if _raised_here(link)), chain[-1])


def error_line(error: BaseException) -> str:
    """`error: <class>: <message>` of the exception that says what is wrong.

    Example:
        >>> error_line(ValueError("steps must be at least 1, got 0"))
        'error: ValueError: steps must be at least 1, got 0'
    """
    return "error: " + "".join(traceback.format_exception_only(cause(error))).strip()


def say_how_to_go_on(text: str) -> None:
    """Set what an interrupted program prints, such as `the same command goes on from epoch 4`."""
    global _how_to_go_on
    _how_to_go_on = text


def install() -> None:
    """Let this process end with one line that says why, whatever is printed before it.

    After an uncaught exception that is `error_line`, below the traceback, and under torchrun in its summary too. After
    Ctrl-C, SIGTERM or SIGHUP it is what `say_how_to_go_on` was given, without a traceback; the process still ends by
    the signal. Signals that are handled or ignored already stay as they are.
    """
    if getattr(sys.excepthook, "__module__", None) == __name__:
        return
    before = sys.excepthook
    process = os.getpid()

    def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            _print(_interrupted())
            return
        before(kind, error, trace)
        line = error_line(error)
        _print(line)
        _tell_torchrun(line)

    def end(number: int, frame: FrameType | None) -> None:
        # Processes that were forked from this one, such as workers of data loaders, end in silence.
        if os.getpid() == process and os.environ.get("RANK", "0") == "0":
            _print(_interrupted())
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    sys.excepthook = report
    for name in _INTERRUPTIONS:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            try:
                signal.signal(number, end)
            except ValueError:  # only the main thread may
                return


def _raised_here(error: BaseException) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and frames[-1].filename.startswith(_PACKAGE + os.sep)


def _interrupted() -> str:
    return f"interrupted: {_how_to_go_on}" if _how_to_go_on else "interrupted"


def _print(line: str) -> None:
    if sys.stderr is not None:
        print(f"\n{line}", file=sys.stderr, flush=True)


def _tell_torchrun(line: str) -> None:
    """Write the file from which torchrun reads why a worker failed."""
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not file or Path(file).exists():
        return
    extra = {"py_callstack": line, "timestamp": str(int(time.time()))}
    try:
        Path(file).write_text(json.dumps({"message": {"message": line, "extraInfo": extra}}), encoding="utf-8")
    except OSError:
        return
