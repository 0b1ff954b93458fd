"""`python -m monai_amat`: what is typed, what is printed, and the exit code."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from monai_amat import study
from monai_amat.__main__ import main
from monai_amat.tasks.detection import load_voc
from monai_amat.tasks.landmarks import load_cephalograms


class Recorder:
    """Takes the place of a study and keeps what it was given."""

    given: dict[str, Any]
    error: BaseException | None

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.given = {}
        self.error = None
        monkeypatch.setattr(study, "Study", self.study)
        monkeypatch.setattr(study, "quickstart", self.quickstart)

    def study(self, bundle: str, arms: list[str], **given: Any) -> Recorder:
        self.given = {"bundle": bundle, "arms": arms, **given}
        return self

    def quickstart(self, output_dir: str, **given: Any) -> None:
        self.given = {"output_dir": output_dir, **given}
        self.run()

    def run(self) -> None:
        if self.error is not None:
            raise self.error


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    return Recorder(monkeypatch)


COMPARE = ["compare", "--bundle", "b", "--arms", "std", "sat:5", "--dataset_dir", "d", "--output_dir", "o"]


def test_compare_takes_arms_seeds_overlays_and_values(recorder: Recorder) -> None:
    words = ["--seeds", "0", "1", "--overlays", "small", "--max_epochs", "5", "--optimizer#lr=0.1", "--noise", "[0, 2]"]
    assert main([*COMPARE, *words]) == 0
    say = recorder.given.pop("say")
    assert recorder.given == {
        "bundle": "b",
        "arms": ["std", "sat:5"],
        "dataset_dir": "d",
        "output_dir": "o",
        "seeds": [0, 1],
        "overlays": ["small"],
        "values": {"max_epochs": "5", "optimizer#lr": "0.1", "noise": "[0, 2]"},
        "evaluation": "robustness",
        "strength": False,
        "reference": None,
        "jobs": 1,
    }
    assert callable(say)
    assert main(COMPARE) == 0
    assert (recorder.given["seeds"], recorder.given["overlays"], recorder.given["values"]) == ([0], [], {})


def test_compare_takes_evaluation_strength_and_jobs(recorder: Recorder) -> None:
    # Values of the bundle may begin like an option.
    words = ["--evaluation", "on_validation", "--strength", "--reference", "sat:5", "--jobs", "3"]
    words += ["--strength_samples", "5"]
    assert main([*COMPARE, *words, "--strength#reference", "pgd-20"]) == 0
    given = recorder.given
    assert (given["evaluation"], given["strength"], given["jobs"]) == ("on_validation", True, 3)
    assert given["reference"] == "sat:5"
    assert given["values"] == {"strength_samples": "5", "strength#reference": "pgd-20"}


def test_negative_values_and_values_with_an_equals_sign_are_values(recorder: Recorder) -> None:
    assert main([*COMPARE, "--statistic#k", "-1.5", "--expression=$a == b"]) == 0
    assert recorder.given["values"] == {"statistic#k": "-1.5", "expression": "$a == b"}


def test_an_id_that_begins_like_an_option_is_not_taken_for_it(recorder: Recorder) -> None:
    assert main([*COMPARE, "--seed", "3"]) == 0
    assert recorder.given["values"] == {"seed": "3"}
    assert recorder.given["seeds"] == [0]


def test_quickstart_needs_nothing(recorder: Recorder) -> None:
    assert main(["quickstart"]) == 0
    assert recorder.given == {"output_dir": "runs/quickstart", "dataset_dir": None, "bundle": None, "values": {}}
    assert main(["quickstart", "--output_dir", "o", "--dataset_dir", "d", "--bundle", "b", "--max_epochs", "2"]) == 0
    assert recorder.given == {"output_dir": "o", "dataset_dir": "d", "bundle": "b", "values": {"max_epochs": "2"}}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "required: COMMAND"),
        (["train"], "invalid choice: 'train'"),
        (["compare", "--bundle", "b"], "required: --dataset_dir, --output_dir, --arms"),
        ([*COMPARE, "--seeds", "one"], "invalid int value: 'one'"),
        ([*COMPARE, "--jobs", "many"], "invalid int value: 'many'"),
        ([*COMPARE, "--max_epochs"], "--max_epochs needs a value"),
        (["quickstart", "stray"], "cannot read 'stray': config values are set by --id value"),
        (["phantom", "p", "--depth", "3"], r"phantom takes no ['depth']"),
        (["phantom-cells", "p", "--volumes", "3"], r"phantom-cells takes no ['volumes']"),
    ],
)
def test_what_cannot_be_read_ends_with_code_2(
    words: list[str], message: str, recorder: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not recorder.given


@pytest.mark.parametrize(
    "error",
    [
        study.StepError("train ended with code 1: the culprit"),
        FileNotFoundError("the culprit"),
        NotADirectoryError(20, "the culprit", "folder"),
        PermissionError(13, "the culprit", "folder"),
        ValueError("the culprit"),
        RuntimeError("the culprit"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_the_user_ends_with_code_1_and_one_line(
    error: Exception, recorder: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder.error = error
    for words in (COMPARE, ["quickstart"]):
        assert main(words) == 1
        shown = capsys.readouterr().err
        assert shown.startswith("error: ")
        assert "the culprit" in shown
        assert len(shown.splitlines()) == 1


def test_a_defect_keeps_its_traceback(recorder: Recorder) -> None:
    recorder.error = TypeError("ours")
    with pytest.raises(TypeError, match="ours"):
        main(COMPARE)


def test_an_interruption_says_how_to_go_on(recorder: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
    recorder.error = KeyboardInterrupt()
    assert main(COMPARE) == 130
    assert capsys.readouterr().err.strip() == "interrupted; the same command goes on from here"


def test_phantom_writes_a_data_set_and_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "phantom"
    words = ["phantom", str(root), "--volumes", "1", "--channels", "2", "--seed", "3"]
    assert main(words) == 0
    assert capsys.readouterr().out.strip() == str(root)
    marker = json.loads((root / "dataset.json").read_text())["phantom"]
    assert (marker["volumes"], marker["channels"], marker["seed"]) == (1, 2, 3)
    # Another one does not go into the same folder.
    assert main([*words[:-1], "4"]) == 1
    assert "expected a phantom with the settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "load"), [("phantom-cephalograms", load_cephalograms), ("phantom-cells", load_voc)]
)
def test_phantoms_of_images(
    command: str, load: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "phantom"
    assert main([command, str(root), "--images", "4", "--seed", "3"]) == 0
    assert capsys.readouterr().out.strip() == str(root)
    assert sum(len(load(root, section)) for section in ("train", "validation", "test")) == 4
    assert main([command, str(root), "--images", "4"]) == 1  # of another seed
    assert "expected a phantom with the settings" in capsys.readouterr().err


def test_studies_that_cannot_be_are_errors_of_the_user(
    hippocampus: Path, tiny_phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole way, with no part replaced."""
    words = ["compare", "--bundle", str(hippocampus), "--dataset_dir", str(tiny_phantom), "--output_dir"]
    assert main([*words, str(tmp_path / "o"), "--arms", "wild"]) == 1
    assert "has no configs/wild.json; there are amat, amat_balanced" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main([*words, str(tmp_path / "file" / "o"), "--arms", "std"]) == 1
    assert str(tmp_path / "file" / "o") in capsys.readouterr().err
    assert main(["quickstart", "--output_dir", str(tmp_path / "q"), "--dataset_dir", str(tmp_path / "no")]) == 1
    assert f"error: no data set at {tmp_path / 'no'}" in capsys.readouterr().err
    assert not (tmp_path / "q").exists()


HELP = """
import runpy, sys
sys.argv = ["monai_amat", *sys.argv[1:]]
try:
    runpy.run_module("monai_amat", run_name="__main__")
except SystemExit as ended:
    heavy = [name for name in ("torch", "monai", "numpy", "pandas") if name in sys.modules]
    sys.exit(f"imported {heavy}" if heavy else ended.code)
"""


@pytest.mark.parametrize("words", [["--help"], ["compare", "--help"]])
def test_help_comes_at_once(words: list[str], tmp_path: Path) -> None:
    """Torch and MONAI take seconds to import; nothing of them is needed to say what can be done."""
    shown = subprocess.run(
        [sys.executable, "-c", HELP, *words], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert shown.returncode == 0, shown.stderr
    assert "usage: monai-amat" in shown.stdout
    for name in (
        ("quickstart", "compare", "phantom")
        if words == ["--help"]
        else ("--arms", "--jobs", "--evaluation", "--id value")
    ):
        assert name in shown.stdout


def test_the_exit_code_is_the_process_s(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "monai_amat", "quickstart", "--max_epochs"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert ended.returncode == 2
    assert "--max_epochs needs a value" in ended.stderr


def test_what_is_said_is_printed_in_an_8_bit_locale(tmp_path: Path) -> None:
    folder = tmp_path / "ε 😀"
    command = [sys.executable, "-m", "monai_amat", "init", "--settings", "heart", "--bundle_dir", str(folder)]
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    shown = subprocess.run(command, capture_output=True, check=False, cwd=tmp_path, env=environment)
    assert shown.returncode == 0, shown.stderr
    assert str(folder).encode("ascii", "backslashreplace") in shown.stdout
    assert (folder / "configs" / "train.json").is_file()


@pytest.mark.parametrize("option", ["--bundle", "--dataset_dir", "--output_dir"])
def test_a_study_refuses_paths_that_monai_changes(option: str, tmp_path: Path, capsys: Any) -> None:
    words = [*COMPARE]
    words[words.index(option) + 1] = str(tmp_path / "study #3")
    assert main(words) == 1
    assert f"{option[2:]} is '{tmp_path / 'study #3'}': MONAI replaces # by ::" in capsys.readouterr().err
    assert main(["quickstart", "--output_dir", str(tmp_path / "runs#2")]) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_study_that_is_interrupted_says_that_it_goes_on(number: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-u", "-m", "monai_amat", "quickstart", "--output_dir", str(tmp_path / "q")]
    # Tests that are started with nohup pass on that SIGHUP is ignored, which a study respects.
    default = functools.partial(signal.signal, number, signal.SIG_DFL)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=default
    ) as process:
        assert process.stdout is not None
        assert "making the phantom data set" in process.stdout.readline()
        process.send_signal(number)
        _, errors = process.communicate()
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "interrupted; the same command goes on from here"
