"""A whole study: what is run in which order, what comes out, and that nothing is done twice."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.image
import pandas as pd
import pytest
import torch

from monai_amat.study import quickstart
from monai_amat.study.process import Processes
from monai_amat.study.steps import StepError

if TYPE_CHECKING:
    from tests.study.conftest import InProcess


def stamps(folder: Path) -> dict[str, int]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in files}


# ---------------------------------------------------------------------------------- results


def test_a_study_trains_calibrates_attacks_and_compares(study: Any, in_process: InProcess, tmp_path: Path) -> None:
    said: list[str] = []
    table = study("std", "sat:1", "amat", say=said.append).run()
    output = tmp_path / "study"
    assert in_process.ran == [
        *("std train", "std calibrate", "sat_1 train", "amat train"),
        *("std robustness", "sat_1 robustness", "amat robustness"),
    ]
    # Every figure can be found in every file.
    rows = pd.read_csv(output / "robustness.csv")
    assert rows.groupby(["arm", "noise_level"], sort=False).size().to_dict() == {
        (arm, level): 6 for arm in ("STD", "SAT 1", "AMAT") for level in (0.0, 2.0)
    }
    summary = json.loads((output / "summary.json").read_text())
    assert list(summary["arms"]) == ["STD", "SAT 1", "AMAT"]
    *texts, notes = (output / "table.md").read_text().split("\n\n")
    assert "root mean square of the noise per value: ε 2: " in notes and "groups: so few" in notes
    for figure, text in zip(("adi", "tvdi"), texts, strict=True):
        for arm, line in zip(summary["arms"], text.splitlines()[2:], strict=True):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            assert cells[0] == arm
            for level, cell in zip(("0", "2", "Avg"), cells[1:], strict=True):
                value = summary["arms"][arm]["levels"][level][figure]["value"]
                assert float(cell.split()[0]) == pytest.approx(value, abs=5e-4)
                known = table[(table["arm"] == arm) & (table["name"] == figure)]
                named = known["noise_level"].map(lambda entry: f"{entry:g}" if entry != "Avg" else entry)
                assert known[named == level]["value"].item() == value
    for name in ("curve.png", "curve_tvdi.png", "examples.png"):
        picture = matplotlib.image.imread(output / name)
        assert picture.std() > 0
    assert summary["study"]["arms"] == ["std", "sat:1", "amat"]
    assert set(summary["study"]["seconds"]) == {f"arms/{step.replace(' ', '/seed=0/')}" for step in in_process.ran}
    # AMAT used the thresholds of this study's clean network.
    thresholds = output / "arms" / "std" / "seed=0" / "thresholds.json"
    assert thresholds.is_file()
    amat = next(words for words in in_process.commands if "amat.json" in str(words))
    assert amat[amat.index("--thresholds_file") + 1] == str(thresholds)
    assert (output / "arms" / "amat" / "seed=0" / "margins.csv").is_file()
    sat = torch.load(output / "arms" / "sat_1" / "seed=0" / "models" / "model.pt", weights_only=True)["model"]
    std = torch.load(output / "arms" / "std" / "seed=0" / "models" / "model.pt", weights_only=True)["model"]
    assert any(not torch.equal(sat[name], std[name]) for name in std)
    assert said[0].startswith("==> [1/7] arms/std/seed=0: train (log: ")
    assert said[-1].endswith(f"results: {output}")
    assert texts[0].strip() in said[-1]  # the headline is told

    # Done is done; arms and seeds may be added.
    before = stamps(output / "arms")
    study("std", "sat:1", "amat").run()
    assert len(in_process.commands) == 7
    study("std", "amat_boundary", seeds=[0, 1]).run()
    assert in_process.ran[7:] == [
        *("amat_boundary train", "std train", "std calibrate", "amat_boundary train"),
        *("amat_boundary robustness", "std robustness", "amat_boundary robustness"),
    ]
    after = stamps(output / "arms")
    assert {name: after[name] for name in before} == before
    seeded = pd.read_csv(output / "robustness.csv")
    assert seeded.groupby("arm")["seed"].unique().map(sorted).to_dict() == {"AMAT boundary": [0, 1], "STD": [0, 1]}
    first, second = (seeded[(seeded["arm"] == "STD") & (seeded["seed"] == seed)]["loss"].tolist() for seed in (0, 1))
    assert first != second
    assert first == rows[rows["arm"] == "STD"]["loss"].tolist()


def test_values_go_to_the_runs_that_have_them(study: Any, in_process: InProcess, tmp_path: Path) -> None:
    """A nested ID of an overlay means nothing to the other runs."""
    made = study("std", "amat:rule#step=0.75", values={"margins#initial": 1.5, "curve#progress": False, "amp": False})
    made.run()
    given = dict(zip(in_process.ran, in_process.commands, strict=True))
    folder = "amat_rule_step=0.75"
    assert [step for step, words in given.items() if "--rule#step" in words] == [f"{folder} train"]
    assert [step for step, words in given.items() if "--margins#initial" in words] == [f"{folder} train"]
    assert [step for step, words in given.items() if "--curve#progress" in words] == [
        *("std robustness", f"{folder} robustness"),
    ]
    assert all("--amp" in words for words in given.values())
    file = tmp_path / "study" / "arms" / folder / "seed=0" / "models" / "resume_epoch=0002.pt"
    margins = torch.load(file, weights_only=True)["objects"]["margins"]["values"]
    assert float(margins.min()) == pytest.approx(1.5)


def test_all_test_slices_may_be_attacked(study: Any, tmp_path: Path) -> None:
    """None, as a value and as text, over the subset that small.json takes."""
    for number, nothing in enumerate((None, "None")):
        output = tmp_path / f"all{number}"
        study("std", values={"test_slices": nothing, "noise_levels": [0.0]}, output_dir=output).run()
        rows = pd.read_csv(output / "robustness.csv")
        assert len(rows) > 20
        assert (output / "examples.png").is_file()


def test_a_bundle_without_examples_gets_no_picture_of_them(study: Any, hippocampus: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(hippocampus, tmp_path / "bundle"))
    file = bundle / "configs" / "robustness.json"
    content = json.loads(file.read_text())
    del content["examples"], content["run"][1]
    file.write_text(json.dumps(content))
    study("std", bundle=bundle).run()
    assert {path.name for path in (tmp_path / "study").iterdir()} == {
        *("arms", "costs.csv", "costs.md", "curve.png", "curve_tvdi.png", "robustness.csv", "summary.json", "table.md"),
    }


def test_the_quickstart_does_it_all(
    in_process: InProcess,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny: Any,
) -> None:
    module = sys.modules["monai_amat.study.quickstart"]
    write = module.write_phantom
    monkeypatch.setattr(module, "write_phantom", lambda root, **settings: write(root, **settings, shape=(16, 22, 14)))
    table = quickstart(tmp_path / "quick", values=tiny)
    assert list(dict.fromkeys(table["arm"])) == ["STD", "SAT 5", "AMAT"]
    assert {path.name for path in (tmp_path / "quick").iterdir()} == {
        *("arms", "costs.csv", "costs.md", "curve.png", "curve_tvdi.png", "differences.csv", "differences.md"),
        *("examples.png", "hippocampus_amat", "margins.png", "phantom", "robustness.csv", "summary.json", "table.md"),
    }
    assert len(json.loads((tmp_path / "quick" / "phantom" / "dataset.json").read_text())["training"]) == 30
    shown = capsys.readouterr().out
    assert f"making the phantom data set in {tmp_path / 'quick' / 'phantom'}" in shown
    assert "| adi at noise" in shown
    quickstart(tmp_path / "quick", values=tiny)
    assert len(in_process.commands) == 7


class Pretender:
    """Takes the place of a step's process where all has been done before.

    The first two wait for each other: they end only if both are under way at once.
    """

    def __init__(self, named: Callable[[Sequence[str]], str]) -> None:
        self.named = named
        self.events: list[tuple[str, str]] = []
        self.environments: set[tuple[tuple[str, str], ...]] = set()
        self.bars: set[bool] = set()
        self.gate = threading.Barrier(2)
        self.lock = threading.Lock()

    def run(self, processes: Processes, words: Any, log: Any, environment: dict[str, str]) -> tuple[int, str]:
        with self.lock:
            first = len(self.events) < 2
            self.events.append(("start", self.named(words)))
            self.environments.add(tuple(environment.items()))
            self.bars.add(processes.bars)
        if first:
            self.gate.wait()
        self.events.append(("end", self.named(words)))
        return 0, ""


def test_steps_that_need_nothing_of_each_other_run_at_once(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_process: InProcess
) -> None:
    arms = ("std", "sat:1", "amat")
    table = study(*arms).run()
    for record in (tmp_path / "study").glob("arms/*/*/*.json"):
        if "complete" in json.loads(record.read_text()):
            record.unlink()
    pretender = Pretender(in_process.named)
    monkeypatch.setattr(Processes, "run", lambda self, *given: pretender.run(self, *given))
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    monkeypatch.delenv("OMP_NUM_THREADS")
    said: list[str] = []
    pd.testing.assert_frame_equal(study(*arms, jobs=2, say=said.append).run(), table)
    events = pretender.events
    # The first two trainings are of the clean network and of SAT, which needs nothing of it, in either order.
    assert set(events[:2]) == {("start", "std train"), ("start", "sat_1 train")}
    order = [("std train", "std calibrate"), ("std calibrate", "amat train")]
    order += [(f"{arm} train", f"{arm} robustness") for arm in ("std", "sat_1", "amat")]
    for first, second in order:
        assert events.index(("end", first)) < events.index(("start", second))
    assert len(events) == 14
    assert [line.partition("(")[0] for line in said[:2]] == [
        *("==> [1/7] arms/std/seed=0: train ", "==> [3/7] arms/sat_1/seed=0: train "),
    ]
    assert sum(bool(re.fullmatch(r"<== \[\d/7\] arms/.*: done in \d+ s", line)) for line in said) == 7
    (environment,) = pretender.environments
    assert [name for name, _ in environment][:1] == ["OMP_NUM_THREADS"]
    assert pretender.bars == {False}


@pytest.mark.slow
def test_steps_at_once_come_to_the_same_numbers(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_process: InProcess
) -> None:
    """Real processes two at a time, and this one alone, with as many threads."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    alone = study("std", "sat:1", output_dir=tmp_path / "alone").run()
    monkeypatch.undo()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    together = study("std", "sat:1", jobs=2).run()
    assert len(in_process.commands) == 4
    pd.testing.assert_frame_equal(together, alone)
    rows = [(tmp_path / folder / "robustness.csv").read_text() for folder in ("alone", "study")]
    assert rows[0] == rows[1]


# --------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("arms", "changes", "message"),
    [
        ((), {}, "arms must be given, each once"),
        (("std", "std"), {}, "arms must be given, each once"),
        (("std",), {"seeds": [0, 0]}, "seeds must be given, each once"),
        (("std",), {"seeds": []}, "seeds must be given, each once"),
        (("std",), {"jobs": 0}, "jobs must be at least 1, got 0"),
        (("std",), {"evaluation": "../there"}, "is to be a folder's name"),
        (("std", "wild"), {}, r"has no configs/wild\.json"),
        (("std",), {"overlays": ["tiny"]}, r"has no configs/tiny\.json"),
        (("std",), {"values": {"max_epoch": 3}}, "nothing to set at max_epoch: .*; the nearest id is max_epochs"),
        (("std",), {"values": {"rule#step": 3}}, "nothing to set at rule#step"),
        (("std",), {"values": {"seed": 3}}, "seed is not a value to set"),
        (("amat",), {"values": {"thresholds_file": "mine.json"}}, "thresholds_file is not a value to set"),
        (("std:output_dir=elsewhere",), {}, "output_dir is not a value to set"),
        (("std:ckpt_dir=elsewhere",), {}, "ckpt_dir is not a value to set"),
    ],
)
def test_what_cannot_be_studied_is_refused_at_once(
    study: Any, in_process: InProcess, arms: tuple[str, ...], changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        study(*arms, **changes)
    assert not in_process.commands
    assert not (tmp_path / "study").exists()


def test_missing_folders_are_named(study: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"no data set at {tmp_path / 'absent'}"):
        study("std", dataset_dir=tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="is not a bundle"):
        study("std", bundle=tmp_path)


def test_other_settings_over_a_finished_study_are_refused(study: Any, in_process: InProcess) -> None:
    study("std").run()
    done = len(in_process.commands)
    with pytest.raises(RuntimeError, match=r"made with learning_rate None, but this run has 0\.5: choose another"):
        study("std", values={"learning_rate": 0.5}).run()
    # What training knows nothing of concerns the attack alone.
    with pytest.raises(RuntimeError, match=r"made with noise_levels \[0\.0, 2\.0\], but this run has \[0\.0\]"):
        study("std", values={"noise_levels": [0.0]}).run()
    assert len(in_process.commands) == done


def test_damaged_data_are_named_and_the_study_goes_on_when_they_are_mended(
    study: Any, in_process: InProcess, tiny_phantom: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(tiny_phantom, tmp_path / "data"))
    image = data / "imagesTr" / "phantom_007.nii.gz"  # of the test section: training knows nothing of it
    whole = image.read_bytes()
    image.write_bytes(whole[:300])
    with pytest.raises(
        StepError, match=rf"robustness ended with code 1: ValueError: {re.escape(str(image))}: cannot be"
    ):
        study("std", dataset_dir=data).run()
    image.write_bytes(whole)
    study("std", dataset_dir=data).run()
    assert in_process.ran == ["std train", "std robustness", "std robustness"]


# ------------------------------------------------------------------------------- interruption


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_study_goes_on_where_it_stopped(
    study: Any,
    in_process: InProcess,
    hippocampus: Path,
    tiny_phantom: Path,
    tiny: dict[str, str],
    tmp_path: Path,
    how: signal.Signals,
) -> None:
    """kill -9, or its being told to end, in the middle of a training in real processes; then the rest of it."""
    slow = {"max_epochs": "4", "attack_steps": "12", "iterations_per_epoch": "3"}
    output = tmp_path / "study"
    study("std", values=slow).run()
    before = stamps(output / "arms" / "std")
    words = ["--bundle", str(hippocampus), "--arms", "std", "sat:1", "--overlays", "small"]
    words += ["--dataset_dir", str(tiny_phantom), "--output_dir", str(output)]
    words += [word for key, value in {**tiny, **slow}.items() for word in (f"--{key}", value)]
    process = subprocess.Popen(
        [sys.executable, "-m", "monai_amat", "compare", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    sat = output / "arms" / "sat_1" / "seed=0"
    while not list(sat.glob("models/resume_epoch=*.pt")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(how)
    shown, _ = process.communicate()
    assert process.returncode == (-signal.SIGKILL if how == signal.SIGKILL else 130)
    assert "==> [2/4] arms/sat_1/seed=0: train" in shown
    assert json.loads((sat / "train.json").read_text())["complete"] is False
    with (sat / "train.log").open("ab") as log:
        # Told to end, a study has stopped its step; killed, it leaves that until it notices that it is alone.
        fcntl.flock(log, fcntl.LOCK_EX | (0 if how == signal.SIGKILL else fcntl.LOCK_NB))
    assert not (sat / "models" / "model.pt").exists()

    done = len(in_process.commands)
    study("std", "sat:1", values=slow).run()
    assert in_process.ran[done:] == ["sat_1 train", "sat_1 robustness"]
    after = stamps(output / "arms" / "std")
    assert {name: after[name] for name in before} == before
    whole = tmp_path / "whole"
    shutil.copytree(output / "arms" / "std", whole / "arms" / "std")
    study("std", "sat:1", values=slow, output_dir=whole).run()
    assert (output / "robustness.csv").read_text() == (whole / "robustness.csv").read_text()


# ---------------------------------------------------------------------------------- real data


@pytest.mark.real_data("Task04_Hippocampus")
def test_real_hippocampi(study: Any, data_root: Path, tmp_path: Path) -> None:
    """The main job at its smallest: few volumes, few steps, the bundle's own patch size."""
    values = {
        **{"train_cases": 2, "validation_cases": 1, "test_cases": 2, "test_slices": 4},
        **{"patch_size": [56, 40], "noise_levels": [0.0, 5.0]},
    }
    study("std", "amat", dataset_dir=data_root / "Task04_Hippocampus", values=values).run()
    rows = pd.read_csv(tmp_path / "study" / "robustness.csv")
    assert rows["case"].str.startswith("hippocampus_").all()
    assert rows.groupby(["arm", "noise_level"]).size().tolist() == [4] * 4
    assert rows["case"].nunique() == 2
    noisy = rows[rows["noise_level"] == 5.0]
    assert noisy["noise_norm"].to_numpy() == pytest.approx(5.0, rel=1e-3)
    assert (tmp_path / "study" / "examples.png").is_file()


def test_an_arm_is_attacked_like_the_others_with_the_network_it_trained(study: Any) -> None:
    """What an arm sets is of its training; only what its network is made of goes along."""
    steps = study("std:base_features=8,learning_rate=0.1", "sat:5,validate#dataloader#batch_size=3").steps()
    std, sat = (step for step in steps if step.name == "robustness")
    assert std.values["base_features"] == "8" and "learning_rate" not in std.values
    assert sat.values["base_features"] == "4"
    assert not {"epsilon", "validate#dataloader#batch_size"} & sat.values.keys()
