"""Progress: a bar where a terminal shows it, one line per part everywhere, and nothing where nothing is wanted."""

from __future__ import annotations

import io
import re
import sys

import pytest
from ignite.engine import Engine

from monai_amat.handlers import ProgressHandler
from monai_amat.progress import BAR_VARIABLE, Progress, track


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(stream: io.StringIO) -> tuple[bool, list[str]]:
    """Whether a bar was drawn, and the lines that stay."""
    text = stream.getvalue()
    lines = [line.rpartition("\r")[2] for line in text.split("\n")]
    return "\r" in text, [line for line in lines if line.strip()]


@pytest.mark.parametrize(
    ("stream", "variable", "bar"),
    [(io.StringIO, None, False), (Terminal, None, True), (io.StringIO, "1", True), (Terminal, "0", False)],
)
def test_a_bar_on_a_terminal_and_one_line_everywhere(
    stream: type[io.StringIO], variable: str | None, bar: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = stream(newline="")
    monkeypatch.setattr(sys, "stderr", errors)
    monkeypatch.delenv(BAR_VARIABLE, raising=False)
    if variable is not None:
        monkeypatch.setenv(BAR_VARIABLE, variable)
    assert list(track([3, 5, 8], title="attack", units="samples")) == [3, 5, 8]
    drawn, lines = shown(errors)
    assert drawn is bar
    assert [re.sub(r"[\d.]+ s$", "T s", line) for line in lines] == ["attack: 3 samples in T s"]


def test_an_exception_ends_it_without_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = Terminal(newline="")
    monkeypatch.setattr(sys, "stderr", errors)
    with pytest.raises(KeyError), Progress(2, title="attack") as progress:
        progress.update()
        raise KeyError
    assert shown(errors)[1] == []


def test_it_runs_without_an_error_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert list(track("ab", title="letters", units="letters")) == ["a", "b"]


def test_the_handler_shows_one_line_per_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    trainer = Engine(lambda engine, batch: None)
    ProgressHandler("training").attach(trainer)
    trainer.run([0, 1, 2], max_epochs=2)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" in ")[0] for line in lines] == [
        "training, epoch 1/2: 3 batches",
        "training, epoch 2/2: 3 batches",
    ]


def test_the_handler_of_a_single_pass_names_no_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    evaluator = Engine(lambda engine, batch: None)
    ProgressHandler("inference").attach(evaluator)
    evaluator.run([0], max_epochs=1)
    assert capsys.readouterr().err.startswith("inference: 1 batches in ")
