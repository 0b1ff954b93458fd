"""The notebook on blood cells, executed on the phantom."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[2] / "tutorials" / "blood_cells.ipynb"


def test_it_is_stored_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@pytest.mark.slow
def test_it_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(tmp_path),
        "IPYTHONDIR": str(tmp_path / "ipython"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MONAI_AMAT_DATA", raising=False)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(
        notebook, timeout=1200, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 2
    told = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    found = re.findall(r"^(\w+) (\{'0': .*\})$", told, re.MULTILINE)
    losses = {name: ast.literal_eval(text) for name, text in found}
    assert list(losses) == ["STD", "AMAT"]
    for by_level in losses.values():
        values = [by_level[level] for level in sorted(by_level, key=float)]
        assert values[-1] > 1.02 * values[0]
    margins = next(output.data["text/plain"] for output in outputs if "tensor([" in str(output.get("data", {})))
    values = [float(number) for number in re.findall(r"\d+\.\d+", margins)]
    assert len(values) == 12
    assert 0.75 < max(values) <= 4.5  # Δ and the cap of 96 x 96 pixels
