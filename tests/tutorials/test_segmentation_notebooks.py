"""The notebooks on segmentation, executed on the phantom."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

TUTORIALS = Path(__file__).resolve().parents[2] / "tutorials"
NAMES = ("from_clone_to_curve", "your_own_workflow", "reading_a_curve", "noisy_volumes")


def read(name: str) -> Any:
    return nbformat.read(TUTORIALS / f"{name}.ipynb", as_version=4)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_stored_without_outputs_and_without_paths_of_a_machine(name: str) -> None:
    notebook = read(name)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
        assert not re.search(r"(?<![\w.])/(home|root|tmp|work|Users)\b", cell.source)


def executed(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, int]:
    """What it prints, and how many pictures it shows."""
    for variable, value in {
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(folder),
        "IPYTHONDIR": str(folder / "ipython"),
    }.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.delenv("MY_DATA", raising=False)
    notebook = read(name)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=1200, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    told = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    return told, len(pictures)


def figures(line: str) -> list[float]:
    """Values of a row of a table, intervals left out."""
    return [float(value) for value in re.findall(r"\| (\d\.\d+)", line)]


@pytest.mark.slow
def test_from_a_clone_to_a_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told, pictures = executed("from_clone_to_curve", tmp_path, monkeypatch)
    assert pictures == 1
    assert "bundle: 1 channel(s), 3 classes with the background, 15 cases" in told
    assert "split: fold 0 of 5, 12 cases to train on, 1 to validate, 2 to test; intervals over so few" in told
    assert re.search(r"noise: ε [\d.]+ \(0\.\d+\)", told)
    rows = {line.split("|")[1].strip(): figures(line) for line in told.splitlines() if line.startswith("| S")}
    assert set(rows) == {"STD", "SAT"}
    assert all(len(values) == 4 for values in rows.values())  # three levels and their average


@pytest.mark.slow
def test_your_own_workflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told, pictures = executed("your_own_workflow", tmp_path, monkeypatch)
    assert pictures == 1
    rows = {line.split("|")[1].strip(): figures(line) for line in told.splitlines() if re.match(r"\| [SA]", line)}
    assert set(rows) == {"STD", "SAT 3", "AMAT"}
    for arm in ("SAT 3", "AMAT"):
        low, high, mean = (rows[arm][column] - rows["STD"][column] for column in (1, 2, 3))
        assert low > 0.02
        assert high > 0.02
        assert mean > 0


@pytest.mark.slow
def test_reading_a_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told, pictures = executed("reading_a_curve", tmp_path, monkeypatch)
    assert pictures == 2
    # 2/√1024 of a standard deviation.
    assert "ε = 2: 0.062 σ per pixel" in told
    norm, mean, largest = (
        float(value) for value in re.findall(r"norm ([\d.]+), root mean square ([\d.]+), largest ([\d.]+)", told)[0]
    )
    assert norm == pytest.approx(4.0, abs=0.01)
    assert mean == pytest.approx(4 / 32, abs=0.001)
    assert largest > 2 * mean
    for weak, strong in re.findall(r"is ([\d.]+) after 1 step, ([\d.]+) after 10", told):
        assert float(strong) <= float(weak)


@pytest.mark.slow
def test_noisy_volumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told, pictures = executed("noisy_volumes", tmp_path, monkeypatch)
    assert pictures == 1
    # The file has the whole noise: 10/√8192 per voxel.
    assert "norm of the noise 10.00: 0.110 standard deviations of grey values per voxel" in told
    assert "same affine: True" in told
    scores = {
        line.partition(":")[0]: {kind: float(value) for kind, value in re.findall(r"([a-z][a-z ]*) (\d\.\d+)", line)}
        for line in told.splitlines()
        if line.startswith(("first:", "second:"))
    }
    for network in scores.values():
        assert network["noisy"] < network["random noise"] - 0.02
        assert abs(network["random noise"] - network["clean"]) < 0.02
    assert scores["first"]["noisy"] < scores["second"]["noisy"]
