"""One step: done once, remembered, gone on with, and its errors in the user's words."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import io
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import fire
import fire.parser
import pytest
from monai.bundle import ConfigParser

from monai_amat.study import steps
from monai_amat.study.arms import Bundle
from monai_amat.study.process import Processes
from monai_amat.study.steps import Step, StepError
from monai_amat.tasks.segmentation.data.case import Case, check_case


class Script(Step):
    """A step whose process runs a line of Python instead of a bundle."""

    def command(self) -> list[str]:
        return ["-c", str(self.values["code"])]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    root = tmp_path / "bundle"
    (root / "configs").mkdir(parents=True)
    (root / "configs" / "train.json").write_text("{}")
    return Bundle(root)


def script(bundle: Bundle, folder: Path, code: str, **values: Any) -> Script:
    return Script(name="train", bundle=bundle, configs=["train"], output_dir=folder, values={"code": code, **values})


COUNT = "import pathlib; p = pathlib.Path(r'{folder}/count'); p.write_text(p.read_text() + 'x' if p.exists() else 'x')"


def test_a_step_is_done_once(bundle: Bundle, tmp_path: Path) -> None:
    step = script(bundle, tmp_path / "out", COUNT.format(folder=tmp_path))
    seconds = step.run()
    assert seconds > 0
    record = json.loads(step.record.read_text())
    assert record["complete"] is True
    assert step.done()
    assert step.run() == record["seconds"] == pytest.approx(seconds, abs=0.06)
    assert (tmp_path / "count").read_text() == "x"


def test_a_step_that_failed_is_tried_again_and_its_time_adds_up(bundle: Bundle, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    code = f"import pathlib, sys, time; time.sleep(0.15); sys.exit(0 if pathlib.Path({str(gate)!r}).exists() else 3)"
    step = script(bundle, tmp_path / "out", code)
    with pytest.raises(StepError, match="train ended with code 3: it printed no error"):
        step.run()
    record = json.loads(step.record.read_text())
    assert record["complete"] is False
    assert not step.done()
    assert record["seconds"] >= 0.1
    gate.touch()
    assert step.run() > record["seconds"] + 0.1
    assert json.loads(step.record.read_text())["complete"] is True


@pytest.mark.parametrize(("copied", "expected"), [(False, 120.0), (True, 100.0)])
def test_the_time_of_an_attempt_that_was_killed_with_its_study_counts(
    bundle: Bundle, tmp_path: Path, copied: bool, expected: float
) -> None:
    step = script(bundle, tmp_path / "out", "pass")
    step.output_dir.mkdir()
    log = step.output_dir / "train.log"
    log.touch()
    step._remember(
        step._about(), complete=False, seconds=100.0, open={"since": 5000.0, "inode": log.stat().st_ino + copied}
    )
    os.utime(log, (5020.0, 5020.0))  # it lived for 20 s at least
    assert expected <= step.run() < expected + 15.0
    assert "open" not in json.loads(step.record.read_text())


def test_what_a_bundles_file_says_is_remembered(bundle: Bundle, tmp_path: Path) -> None:
    file = bundle.config("train")
    file.write_text('{"optimizer": {"momentum": 0.9}, "metric_label": "Dice", "max_epochs": 100}')
    step = script(bundle, tmp_path / "out", "pass", max_epochs=3)
    step.run()
    file.write_text('{"optimizer": {"momentum": 0.9}, "metric_label": "ADI", "max_epochs": 77, "num_workers": 0}')
    assert step.done()  # labels and workers decide nothing, nor does what is given as a value
    assert dataclasses.replace(step, values={**step.values, "metric_label": "IoU"}).done()
    file.write_text('{"optimizer": {"momentum": 0}, "metric_label": "ADI"}')
    with pytest.raises(RuntimeError, match=r"train\.json was made with optimizer.momentum 0.9, but this run has 0:"):
        step.done()
    # What the step does not read, as training does not what only the attack has.
    assert dataclasses.replace(step, reads=lambda key: key != "optimizer").done()
    # Records of before files were remembered stay what they were.
    content = json.loads(step.record.read_text())
    del content["config"]
    step.record.write_text(json.dumps(content))
    assert step.done()


def test_a_step_that_failed_of_its_files_is_run_again_when_they_are_mended(bundle: Bundle, tmp_path: Path) -> None:
    file = bundle.config("train")
    file.write_text('{"prediction": "sigmiod"}')
    step = script(bundle, tmp_path / "out", f"import pathlib; assert 'oid' in pathlib.Path(r'{file}').read_text()")
    with pytest.raises(StepError):
        step.run()
    file.write_text('{"prediction": "sigmoid"}')
    step.run()
    assert step.done()


def test_a_step_with_more_to_start_from_is_run_again(bundle: Bundle, tmp_path: Path) -> None:
    first = script(bundle, tmp_path / "std" / "seed=0", "pass")
    alone = script(bundle, tmp_path / "sat" / "seed=0", "pass")
    first.run()
    alone.run()
    both = dataclasses.replace(alone, after=[first])
    assert alone.done()
    assert not both.done()
    both.run()
    assert both.done()


def test_what_was_made_of_another_run_before_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    first = script(bundle, tmp_path / "std" / "seed=0", "pass")
    second = dataclasses.replace(script(bundle, tmp_path / "amat" / "seed=0", "pass"), after=[first])
    first.run()
    second.run()
    assert second.done()
    first.record.unlink()
    with pytest.raises(RuntimeError, match=r"a train that was made after another run of std/train than that in .*std"):
        second.done()
    first.run()
    with pytest.raises(RuntimeError, match="choose another output_dir, or delete the former"):
        second.run()
    # Nor does what was killed go on from it.
    content = json.loads(second.record.read_text())
    second.record.write_text(json.dumps({**content, "complete": False}))
    with pytest.raises(RuntimeError, match="made after another run of std/train"):
        second.run()


def test_other_settings_in_the_same_folder_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    script(bundle, tmp_path / "out", "pass", epsilon="5", seed=0).run()
    with pytest.raises(RuntimeError, match=r"made with epsilon 5, but this run has 6: choose another output_dir"):
        script(bundle, tmp_path / "out", "pass", epsilon="6", seed=0).run()
    with pytest.raises(RuntimeError, match=r"epsilon 5, but this run has None; with seed 0, but this run has 1"):
        script(bundle, tmp_path / "out", "pass", seed=1).run()
    other = Script("train", bundle, ["train", "sat"], tmp_path / "out", {"code": "pass", "epsilon": "5", "seed": 0})
    with pytest.raises(RuntimeError, match=r"configs \['train'\], but this run has \['train', 'sat'\]"):
        other.run()


def test_settings_are_the_same_whether_they_come_as_text_or_as_values(bundle: Bundle, tmp_path: Path) -> None:
    script(bundle, tmp_path / "out", "pass", epsilon=5, levels=[0.0, 2.0]).run()
    script(bundle, tmp_path / "out", "pass", epsilon="5", levels="[0.0, 2.0]").run()


def test_what_an_earlier_record_holds_of_other_steps_does_not_count(bundle: Bundle, tmp_path: Path) -> None:
    """Values once went to every run over which an overlay lay that had them."""
    script(bundle, tmp_path / "out", "pass", evaluation_steps=20, learning_rate=0.1).run()

    def now(**values: Any) -> Script:
        own = ("code", "learning_rate")
        return dataclasses.replace(script(bundle, tmp_path / "out", "pass", **values), reads=lambda key: key in own)

    assert now(learning_rate=0.1).done()
    with pytest.raises(RuntimeError, match=r"with learning_rate 0.1, but this run has None"):
        now().done()
    with pytest.raises(RuntimeError, match=r"with learning_rate 0.1, but this run has 0.2"):
        now(learning_rate=0.2).run()
    # What is set does count, whoever may read it.
    with pytest.raises(RuntimeError, match=r"with evaluation_steps 20, but this run has 30"):
        now(learning_rate=0.1, evaluation_steps=30).run()


def test_where_things_lie_is_run_with_and_not_remembered(bundle: Bundle, tmp_path: Path) -> None:
    def step(place: str) -> Script:
        paths = {"thresholds_file": Path(place) / "thresholds.json", "start": Path(place) / "model.pt"}
        return dataclasses.replace(script(bundle, tmp_path / "out", "pass", start="std"), paths=paths)

    step("/here").run()
    values = json.loads(step("/here").record.read_text())["values"]
    assert values == {"configs": ["train"], "code": "pass", "start": "std"}
    assert step("/there").done()
    words = Step.command(step("/there"))
    given = dict(zip(words[3::2], words[4::2], strict=True))
    assert given["--thresholds_file"] == "/there/thresholds.json"
    assert given["--start"] == "/there/model.pt"


@pytest.mark.parametrize(
    "value",
    [
        5,
        0.25,
        True,
        False,
        None,
        "text",
        "a path/with spaces",
        "1e-3",
        [0.0, 2.0],
        [1, None],
        {"a": [True]},
        "None",
        [[1]],
    ],
)
def test_a_value_reaches_the_bundle_as_it_was_given(bundle: Bundle, tmp_path: Path, value: Any) -> None:
    """Through the command line and its parser, and MONAI, which drops a value that is None."""
    step = Step("train", bundle, ["train"], tmp_path / "out", {"setting": value})
    given: dict[str, Any] = {}

    def run(config_file: Any, meta_file: Any, logging_file: Any, **override: Any) -> None:
        given.update({key: entry for key, entry in override.items() if entry is not None})

    words = step.command()
    fire.Fire({"run": run}, command=words[words.index("run") :])
    parser = ConfigParser({"setting": "default"})
    parser.update({"setting": given["setting"]})
    expected = {"1e-3": 1e-3, "None": None}.get(value, value) if isinstance(value, str) else value
    assert parser.get_parsed_content("setting") == expected
    assert type(parser.get_parsed_content("setting")) is type(expected)


def test_the_command_is_a_line_to_type(bundle: Bundle, tmp_path: Path) -> None:
    words = Step("train", bundle, ["train"], tmp_path / "out", {"dataset_dir": "/data/a b", "seed": 3}).command()
    assert words[:4] == ["-m", "monai.bundle", "run", "--config_file"]
    assert json.loads(words[4]) == [str(bundle.config("train"))]
    pairs = dict(zip(words[3::2], words[4::2], strict=True))
    assert pairs["--bundle_root"] == str(bundle.root)
    assert pairs["--output_dir"] == str(tmp_path / "out")
    assert (pairs["--dataset_dir"], pairs["--seed"]) == ("/data/a b", "3")


# ------------------------------------------------------------------------------- processes


def test_bars_go_to_the_terminal_and_the_rest_to_the_log(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = (
        "import sys, time\n"
        "print('a line'); sys.stderr.write('a warning\\n'); sys.stderr.flush(); time.sleep(0.05)\n"
        "sys.stderr.write('\\r 50 %'); sys.stderr.flush()"
    )
    step = script(bundle, tmp_path / "out", code)
    step.run(Processes(bars=True))
    log = (tmp_path / "out" / "train.log").read_text()
    assert "a line" in log
    assert "a warning" in log
    shown = capsys.readouterr().err
    assert "50 %" in shown
    assert "a line" not in shown


def test_the_log_keeps_what_earlier_attempts_printed(bundle: Bundle, tmp_path: Path) -> None:
    step = script(bundle, tmp_path / "out", "import os; print('attempt', os.getpid()); raise SystemExit(1)")
    for _ in range(2):
        with pytest.raises(StepError):
            step.run()
    assert (tmp_path / "out" / "train.log").read_text().count("attempt") == 2


def test_an_interrupted_study_leaves_no_run_behind(tmp_path: Path) -> None:
    code = "import os, sys, time; sys.stderr.write(str(os.getpid())); sys.stderr.flush(); time.sleep(60)"
    seen: list[int] = []

    class Interrupt(io.FileIO):
        def write(self, content: Any) -> int:
            seen.append(int(content))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Interrupt(tmp_path / "log", "w") as log:
        Processes().run([sys.executable, "-c", code], log)
    with pytest.raises(ProcessLookupError):
        os.kill(seen[0], 0)


def test_a_step_that_another_process_is_at_is_left_alone(bundle: Bundle, tmp_path: Path) -> None:
    """As after a study was killed and its bundle run has not noticed yet: two would write the same files."""
    step = script(bundle, tmp_path / "out", COUNT.format(folder=tmp_path))
    step.output_dir.mkdir()
    with (step.output_dir / "train.log").open("ab") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        with pytest.raises(RuntimeError, match=r"another process is at .*out.*; wait for it, or stop it"):
            step.run()
    step.run()
    assert (tmp_path / "count").read_text() == "x"


def test_a_run_that_outlives_its_study_keeps_others_out(bundle: Bundle, tmp_path: Path) -> None:
    """What a step has started holds the folder for as long as it can write there."""
    survivor = [sys.executable, "-c", "import time; time.sleep(1.5)"]
    code = f"import subprocess; subprocess.Popen({survivor!r}, stderr=subprocess.DEVNULL); raise SystemExit(1)"
    step = script(bundle, tmp_path / "out", code)
    with pytest.raises(StepError):
        step.run()
    with pytest.raises(RuntimeError, match="another process is at"):
        step.run()


# ---------------------------------------------------------------------------------- errors

CHAIN = """
try:
    raise ValueError("the label of case_7 is missing\\nin the folder")
except ValueError as error:
    try:
        raise RuntimeError("Failed to evaluate ConfigExpression") from error
    except RuntimeError as outer:
        raise RuntimeError("Failed to instantiate component") from outer
"""


def test_an_error_names_the_root_cause_the_log_and_the_command(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(StepError) as caught:
        script(bundle, tmp_path / "out", CHAIN).run()
    message = str(caught.value)
    assert message.startswith("train ended with code 1: ValueError: the label of case_7 is missing\nin the folder\n")
    assert "Failed to" not in message.partition("(log:")[0]
    assert str(tmp_path / "out" / "train.log") in message
    assert "to run it alone: python -c" in message
    assert "Failed to instantiate component" in (tmp_path / "out" / "train.log").read_text()


def test_of_a_chain_the_packages_own_error_is_shown(tmp_path: Path) -> None:
    """What lies beneath is a library's, here a wall of tracebacks whose last one speaks of pickled data."""
    file = tmp_path / "case_7.nii.gz"
    file.write_bytes(b"no NIfTI")
    with pytest.raises(ValueError, match="cannot be read") as caught:
        check_case(Case("case_7", (file,), file), num_classes=3, channels=1)
    text = "\r 10 %\n" + "".join(traceback.format_exception(caught.value))
    cause = steps._cause(text)
    assert cause.startswith(f"ValueError: {file}: cannot be read as NIfTI")
    assert len(cause.splitlines()) == 1


def test_a_killed_process_is_told_from_a_failed_one(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(StepError, match="ended with code -9: it printed no error"):
        script(bundle, tmp_path / "out", "import os; os.kill(os.getpid(), 9)").run()


def test_an_error_that_arrives_with_a_bar_is_found_and_logged(bundle: Bundle, tmp_path: Path) -> None:
    bar = "\\r 10 %\\r      \\r"
    text = "Traceback (most recent call last):\\n  File 'a', line 1, in b\\nFileNotFoundError: no dataset.json\\n"
    code = f'import os; os.write(2, b"{bar}{text}"); os._exit(1)'
    with pytest.raises(StepError, match=r"code 1: FileNotFoundError: no dataset\.json"):
        script(bundle, tmp_path / "out", code).run()
    log = (tmp_path / "out" / "train.log").read_text()
    assert log.splitlines()[0] == "Traceback (most recent call last):"
    assert log.endswith("FileNotFoundError: no dataset.json\n")


def test_a_file_system_without_locks_is_a_warning(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*given: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    step = script(bundle, tmp_path / "out", "pass")
    step.run()
    assert step.done()
    assert f"{tmp_path / 'out' / 'train.log'} cannot be locked" in caplog.text


@pytest.mark.parametrize("text", ["", '{"complete": tr', "[]", "{}", "\x00\x00"])
def test_a_broken_record_is_named_with_the_way_out(text: str, bundle: Bundle, tmp_path: Path) -> None:
    step = script(bundle, tmp_path / "out", "pass")
    step.run()
    step.record.write_text(text)
    with pytest.raises(RuntimeError, match=f"{step.record}: cannot be read as the record of a step .*delete it"):
        step.done()


def test_a_bundle_may_lie_in_a_folder_of_any_characters(tmp_path: Path) -> None:
    """The runner's parser of command lines knows Python's escapes, not those of JSON beyond U+FFFF."""
    root = tmp_path / "ünï 😀 'it'"
    (root / "configs").mkdir(parents=True)
    (root / "configs" / "train.json").write_text("{}")
    step = Step(name="train", bundle=Bundle(root), configs=["train"], output_dir=tmp_path, values={})
    words = step.command()
    value = fire.parser.DefaultParseValue(words[words.index("--config_file") + 1])
    assert value == [str(root / "configs" / "train.json")]
