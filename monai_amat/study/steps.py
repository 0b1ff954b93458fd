"""One step of a study: a bundle run in a process of its own, done once and remembered."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from monai_amat.changes import refuse_changed
from monai_amat.files import write_text_whole
from monai_amat.study.arms import Bundle
from monai_amat.study.process import Processes

__all__ = ["Step", "StepError"]

_logger = logging.getLogger(__name__)

# What says how results are shown or how work is spread, and changes no figure.
_INDIFFERENT = ("metric_label", "noise_label", "further_figures", "report", "examples", "imports", "num_workers")


class StepError(RuntimeError):
    """A bundle run ended with an error."""


@dataclass(frozen=True)
class Step:
    """`python -m monai.bundle run` with these config files and values.

    Args:
        name: what it does: `train`, `calibrate`, the evaluation's name, or `strength`.
        bundle: the bundle.
        configs: names of its config files, in order.
        output_dir: where it writes; `<name>.json` there says whether it is done, `<name>.log` what it printed.
        values: values set on the command line, by ID.
        paths: the same for where things of the study lie, which does not decide the outcome and is not remembered: a
            study may be moved. One here goes before a value of the same ID, so that `initial_weights` is remembered
            as `std` and run with that network's file.
        after: steps that must be done first.
        reads: whether a value by some ID would be one of this step's; what a record of its holds besides decides
            nothing.
    """

    name: str
    bundle: Bundle
    configs: Sequence[str]
    output_dir: Path
    values: Mapping[str, Any]
    paths: Mapping[str, Path] = field(default_factory=dict)
    after: Sequence[Step] = ()
    reads: Callable[[str], bool] = lambda key: True

    @property
    def record(self) -> Path:
        """What is remembered of it."""
        return self.output_dir / f"{self.name}.json"

    def command(self) -> list[str]:
        """Arguments of the run, without the interpreter; `shlex.join` makes them a line to type."""
        files = [str(self.bundle.config(name)) for name in self.configs]
        return [
            # Escapes beyond U+FFFF are two characters to the parser of the command line, which knows Python only.
            *("-m", "monai.bundle", "run", "--config_file", json.dumps(files, ensure_ascii=False)),
            *("--meta_file", str(self.bundle.config("metadata"))),
            *("--logging_file", str(self.bundle.root / "configs" / "logging.conf")),
            *(text for key, value in self.settings().items() for text in (f"--{key}", _text(value))),
        ]

    def settings(self) -> dict[str, Any]:
        """Every value that the bundle is run with, by ID."""
        paths = {key: str(path) for key, path in self.paths.items()}
        return {"bundle_root": str(self.bundle.root), "output_dir": str(self.output_dir), **self.values, **paths}

    def done(self) -> bool:
        """Whether it needs no more running.

        Raises:
            RuntimeError: when the folder holds this step with other settings.
        """
        return bool(self._remembered().get("complete"))

    def run(self, processes: Processes | None = None, environment: Mapping[str, str] | None = None) -> float:
        """Run it unless it is done, and return the seconds it took, all attempts together.

        Progress bars go to the terminal, everything else to the log.

        Args:
            processes: what runs the program; for this one alone by default.
            environment: variables to set for it.

        Raises:
            RuntimeError: when the folder holds this step with other settings, or another process is at it.
            StepError: when the run ends with an error.
        """
        before = self._remembered()
        if before.get("complete"):
            return float(before["seconds"])
        log = self.output_dir / f"{self.name}.log"
        spent = float(before.get("seconds", 0.0))
        spent += _spent_until_killed(before.get("open"), log)
        started = time.perf_counter()
        # MONAI warns of every configuration it parses; ours come with the bundle that the user named.
        arguments = [sys.executable, "-W", "ignore::UserWarning:monai.bundle.scripts", *self.command()]
        self.output_dir.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as stream:
            # The run inherits the lock with its output: it may outlive a study that was killed, for a while.
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RuntimeError(f"another process is at {self.output_dir}; wait for it, or stop it") from None
            except OSError as error:
                if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
                    raise
                _logger.warning("%s cannot be locked (%s); run no second study in this folder", log, error.strerror)
            opened = {"since": time.time(), "inode": os.fstat(stream.fileno()).st_ino}
            about = self._about()  # as it is run; files may change meanwhile
            self._remember(about, complete=False, seconds=spent, open=opened)
            code, errors = (processes or Processes()).run(arguments, stream, environment)
        spent += time.perf_counter() - started
        self._remember(about, complete=code == 0, seconds=spent, finished=datetime.now(UTC).isoformat())
        if code != 0:
            raise StepError(
                f"{self.name} ended with code {code}: {_cause(errors)}\n(log: {log}; to run it alone: "
                f"python {shlex.join(self.command())})"
            )
        return spent

    def _remembered(self) -> dict[str, Any]:
        content = self._recorded()
        if not content:
            return {}
        before, now = _without_indifferent(content["values"]), self._decisive()
        kept = {key for key in before if key in now or self.reads(key)}
        advice = f"choose another output_dir, or delete it and what {self.name} made there"
        names = sorted(kept | now.keys())
        there, here = ({key: values.get(key) for key in names} for values in (before, now))
        refuse_changed(self.record, there, here, advice)
        # A step that failed may have failed of what its files said. What it kept to go on from is guarded by itself.
        if content["complete"] and "config" in content:
            refuse_changed(self.record, self._concerning(content["config"]), self._config(), advice)
        self._check_needed(content.get("after", {}))
        # With a network more to start from, as a transfer attack does, there is more to do.
        if "after" in content and content["after"].keys() != {step._title for step in self.after}:
            content["complete"] = False
        return content

    def _check_needed(self, finished: Mapping[str, str | None]) -> None:
        """A network must not stand beside thresholds, rows or networks that were made from one before it."""
        for step in self.after:
            made = finished.get(step._title)
            if made is not None and step._finished() != made:
                raise RuntimeError(
                    f"{self.output_dir} holds a {self.name} that was made after another run of {step._title} than "
                    f"that in {step.output_dir}; choose another output_dir, or delete the former"
                )

    @property
    def _title(self) -> str:
        return f"{self.output_dir.parent.name}/{self.name}"

    def _finished(self) -> str | None:
        """When it was, where that is remembered."""
        content = self._recorded()
        return content.get("finished") if content.get("complete") else None

    def _recorded(self) -> dict[str, Any]:
        if not self.record.is_file():
            return {}
        content: Any
        try:
            content = json.loads(self.record.read_text(encoding="utf-8"))
        except ValueError as error:
            content = error
        if not isinstance(content, dict) or not {"complete", "values"} <= content.keys():
            raise RuntimeError(
                f"{self.record}: cannot be read as the record of a step ({content}); delete it to do {self.name} "
                f"again, and what {self.name} made in {self.output_dir} with it"
            )
        return content

    def _about(self) -> dict[str, Any]:
        """What it is run with."""
        return {
            "after": {step._title: step._finished() for step in self.after},
            "values": self._decisive(),
            "config": self._config(),
        }

    def _remember(self, about: Mapping[str, Any], *, complete: bool, seconds: float, **times: Any) -> None:
        content = {"complete": complete, "seconds": round(seconds, 1), **times, **about}
        write_text_whole(self.record, json.dumps(content, indent=2) + "\n")

    def _config(self) -> dict[str, Any]:
        """What the bundle's files say to this step."""
        files = [str(file) for name in self.configs if (file := self.bundle.config(name)).is_file()]
        return self._concerning(ConfigParser.load_config_files(files))

    def _concerning(self, content: Mapping[str, Any]) -> dict[str, Any]:
        return {
            key: value
            for key, value in _without_indifferent(content).items()
            if key not in self.values and self.reads(key)
        }

    def _decisive(self) -> dict[str, Any]:
        """What decides the outcome; where things lie does not."""
        values = _without_indifferent(self.values)
        return {"configs": list(self.configs), **{key: _text(value) for key, value in values.items()}}


def _without_indifferent(content: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in content.items() if re.split("#|::", key)[0] not in _INDIFFERENT}


def _spent_until_killed(opened: Mapping[str, Any] | None, log: Path) -> float:
    """Seconds of an attempt that was killed with its study: it was alive when it last wrote to its log."""
    if opened is None or not log.is_file():
        return 0.0
    status = log.stat()
    # A copy of the log has been written when it was copied.
    return max(0.0, status.st_mtime - opened["since"]) if status.st_ino == opened["inode"] else 0.0


def _cause(errors: str) -> str:
    """What went wrong, rather than in which part of a configuration.

    That is the line with which `monai_amat.ending` closes a run. Without one it is the innermost error that this
    package raised, or else the first of the chain.
    """
    closing = errors.rpartition("\nerror: ")
    if closing[1]:
        return closing[2].strip()
    chain = errors[errors.find("Traceback") :] if "Traceback" in errors else errors
    package = re.escape(str(Path(__file__).parents[1]))
    own = re.search(rf'^  File "{package}.*\n(?:    .*\n)*([\w.]+: .*)', chain, re.MULTILINE)
    if own:
        return own[1]
    first = re.split(r"\n\s*\n(?:The above exception|During handling)", chain)[0].strip()
    lines = first.splitlines()
    starts = [i for i, line in enumerate(lines) if re.match(r"^[\w.]+(Error|Exception|Interrupt|Exit)\b", line)]
    return "\n".join(lines[starts[-1] :] if starts else lines[-3:]) or "it printed no error"


def _text(value: Any) -> str:
    """A value as the bundle runner's command line takes it: Python's literals, or text."""
    if value is None or value == "None":
        return "$None"  # MONAI drops a plain None
    return value if isinstance(value, str) else repr(value)
