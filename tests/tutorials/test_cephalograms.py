"""The notebook on cephalograms: every cell runs, and what is committed holds neither results nor anybody's paths."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

FILE = Path(__file__).resolve().parents[2] / "tutorials" / "cephalograms.ipynb"


def printed(notebook: Any) -> str:
    """All that the cells wrote."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output["text"] for output in outputs if output.output_type == "stream" and output.name == "stdout")


def pictures(notebook: Any) -> int:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def test_it_is_committed_without_results_and_paths() -> None:
    notebook = nbformat.read(FILE, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
    assert not re.search(r"/(home|root|tmp|Users|work)/|[A-Z]:\\\\", FILE.read_text(encoding="utf-8"))


def run(folder: Path, **environment: str) -> Any:
    """The notebook after a run in `folder`, in a kernel of its own, which finds the package as this process does."""
    notebook = nbformat.read(FILE, as_version=4)
    paths = os.pathsep.join([str(FILE.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    own = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, **environment}
    client = NotebookClient(
        notebook, timeout=1200, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute(env={key: value for key, value in own.items() if key != "MPLBACKEND"})
    return notebook


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_it_runs_on_synthetic_skulls(tmp_path: Path) -> None:
    here, temporary = tmp_path / "here", tmp_path / "temporary"
    for folder in (here, temporary):
        folder.mkdir()
    notebook = run(here, MONAI_AMAT_DATA=str(tmp_path / "absent"), TMPDIR=str(temporary))
    text = printed(notebook)
    assert "phantom: 16 images to train on, 4 to test" in text
    first, last = map(float, re.findall(r"loss (\S+) → (\S+) in 16 steps", text)[0])
    assert last < first
    means = [float(value) for value in re.findall(r"mean (\S+)", text)]
    assert len(means) == 3
    assert means == sorted(means)
    assert means[-1] > 0.5
    errors = [float(value) for value in re.findall(r"^[012]\.0 +(\S+)$", text, re.MULTILINE)]
    assert len(errors) == 3
    assert pictures(notebook) == 3
    # Nothing is left but in the temporary folder.
    assert not list(here.iterdir())
