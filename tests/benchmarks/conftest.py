"""Benchmarks are scripts beside the package: they import one another by their bare names."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))


@pytest.fixture
def quick(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Run a benchmark's `main` at its smallest scale and return what its file holds."""
    import json

    def run(module: Any, *arguments: str) -> dict[str, Any]:
        path = tmp_path / "results" / f"{module.NAME}.json"
        returned = module.main(["--quick", "--output", str(path), *arguments])
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        assert content == returned
        assert content["benchmark"] == module.NAME
        assert content["settings"]["seed"] == 0 and content["settings"]["quick"] is True
        assert {"torch", "monai"} <= set(content["versions"])
        assert {"processor", "cores", "threads", "load"} <= set(content["machine"])
        lines = capsys.readouterr().out.splitlines()
        rows = [line for line in lines if line.startswith("|")]
        assert len(rows) > 2 and set(rows[1]) == {"|", "-"}
        assert len({row.count("|") for row in rows}) == 1  # every row has every column
        assert str(path) in lines[-1]
        return content

    return run
