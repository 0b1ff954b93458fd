"""One step of a study: a bundle run in a process of its own, done once and remembered."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from monai_amat.files import write_text_whole
from monai_amat.study.arms import Bundle

__all__ = ["Step", "StepError"]


class StepError(RuntimeError):
    """A bundle run ended with an error."""


@dataclass(frozen=True)
class Step:
    """``python -m monai.bundle run`` with these config files and values.

    Args:
        name: what it does: ``train``, ``calibrate`` or ``robustness``.
        bundle: the bundle.
        configs: names of its config files, in order.
        output_dir: where it writes; ``<name>.json`` there says whether it is done, ``<name>.log`` what it printed.
        values: values set on the command line, by id.
    """

    name: str
    bundle: Bundle
    configs: Sequence[str]
    output_dir: Path
    values: Mapping[str, Any]

    @property
    def record(self) -> Path:
        """What is remembered of it."""
        return self.output_dir / f"{self.name}.json"

    def command(self) -> list[str]:
        """Arguments of the run, without the interpreter; ``shlex.join`` makes them a line to type."""
        files = [str(self.bundle.config(name)) for name in self.configs]
        values = {"bundle_root": str(self.bundle.root), "output_dir": str(self.output_dir), **self.values}
        return [
            *("-m", "monai.bundle", "run", "--config_file", json.dumps(files)),
            *("--meta_file", str(self.bundle.config("metadata"))),
            *("--logging_file", str(self.bundle.root / "configs" / "logging.conf")),
            *(text for key, value in values.items() for text in (f"--{key}", _text(value))),
        ]

    def run(self) -> float:
        """Run it unless it is done, and return the seconds it took, all attempts together.

        Progress bars go to the terminal, everything else to the log.

        Raises:
            RuntimeError: when the folder holds this step with other settings, or another process is at it.
            StepError: when the run ends with an error.
        """
        before = self._remembered()
        if before.get("complete"):
            return float(before["seconds"])
        self.output_dir.mkdir(parents=True, exist_ok=True)
        spent = float(before.get("seconds", 0.0))
        started = time.perf_counter()
        log = self.output_dir / f"{self.name}.log"
        # MONAI warns of every configuration it parses; ours come with the bundle that the user named.
        arguments = [sys.executable, "-W", "ignore::UserWarning:monai.bundle.scripts", *self.command()]
        with log.open("ab") as stream:
            # The run inherits the lock with its output: it may outlive a study that was killed, for a while.
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RuntimeError(f"another process is at {self.output_dir}; wait for it, or stop it") from None
            self._remember(complete=False, seconds=spent)
            code, errors = _run(arguments, stream)
        spent += time.perf_counter() - started
        if code != 0:
            self._remember(complete=False, seconds=spent)
            raise StepError(
                f"{self.name} ended with code {code}: {_cause(errors)}\n(log: {log}; to run it alone: "
                f"python {shlex.join(self.command())})"
            )
        self._remember(complete=True, seconds=spent)
        return spent

    def _remembered(self) -> dict[str, Any]:
        if not self.record.is_file():
            return {}
        content: dict[str, Any] = json.loads(self.record.read_text(encoding="utf-8"))
        changed = sorted(
            f"{key}: {content['values'].get(key)!r}, now {_settings(self).get(key)!r}"
            for key in content["values"].keys() | _settings(self).keys()
            if content["values"].get(key) != _settings(self).get(key)
        )
        if changed:
            raise RuntimeError(
                f"{self.output_dir} holds this step with other settings ({'; '.join(changed)}); "
                "choose another output_dir, or delete that folder"
            )
        return content

    def _remember(self, *, complete: bool, seconds: float) -> None:
        content = {"complete": complete, "seconds": round(seconds, 1), "values": _settings(self)}
        write_text_whole(self.record, json.dumps(content, indent=2) + "\n")


def _run(arguments: Sequence[str], log: IO[bytes]) -> tuple[int, str]:
    """Run a program and return its exit code and the end of what it wrote to its error stream.

    Progress bars, which redraw their line, are passed on to the terminal; all else, tracebacks too, goes to the log.
    """
    kept = b""
    with subprocess.Popen(
        arguments, stdout=log, stderr=subprocess.PIPE, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    ) as process:
        assert process.stderr is not None
        try:
            while chunk := os.read(process.stderr.fileno(), 65536):
                for line in re.findall(rb"[^\n]*\n|[^\n]+", chunk):
                    _, redrawn, rest = line.rpartition(b"\r")
                    if redrawn:
                        sys.stderr.write(line.decode("utf-8", errors="replace"))
                    if not redrawn or rest.endswith(b"\n"):  # of a bar its end, which a traceback may follow
                        log.write(rest)
                sys.stderr.flush()
                log.flush()
                kept = (kept + chunk)[-(1 << 20) :]
        except BaseException:
            process.kill()  # an interrupted study leaves no run behind
            raise
    return process.returncode, kept.decode("utf-8", errors="replace")


def _cause(errors: str) -> str:
    """What went wrong, rather than in which part of a configuration: the innermost error that this package raised.

    Where it raised none, the first of the chain.
    """
    chain = errors[errors.find("Traceback") :] if "Traceback" in errors else errors
    package = re.escape(str(Path(__file__).parents[1]))
    own = re.search(rf'^  File "{package}.*\n(?:    .*\n)*([\w.]+: .*)', chain, re.MULTILINE)
    if own:
        return own[1]
    first = re.split(r"\n\s*\n(?:The above exception|During handling)", chain)[0].strip()
    lines = first.splitlines()
    starts = [i for i, line in enumerate(lines) if re.match(r"^[\w.]+(Error|Exception|Interrupt|Exit)\b", line)]
    return "\n".join(lines[starts[-1] :] if starts else lines[-3:]) or "it printed no error"


def _settings(step: Step) -> dict[str, Any]:
    """What decides the outcome; where things lie does not."""
    kept = {key: _text(value) for key, value in step.values.items() if key not in ("checkpoint", "thresholds_file")}
    return {"configs": list(step.configs), **kept}


def _text(value: Any) -> str:
    """A value as the bundle runner's command line takes it: Python's literals, or text."""
    if value is None or value == "None":
        return "$None"  # MONAI drops a plain None
    return value if isinstance(value, str) else repr(value)
