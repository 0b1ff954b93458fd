"""The detector's tests under the oldest and the newest ultralytics that the extra `detection` allows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
TESTS = [
    "tests/tasks/detection/network",
    "tests/tasks/detection/loss",
    "tests/tasks/detection/test_engines.py",
    "tests/tasks/detection/test_curve.py",
    "tests/integrations/ultralytics",
]


def allowed() -> str:
    """What the extra asks for."""
    declared = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    (requirement,) = declared["project"]["optional-dependencies"]["detection"]
    return str(requirement)


def oldest() -> str:
    found = re.search(r">=([\d.]+)", allowed())
    assert found is not None
    return f"ultralytics=={found[1]}"


@pytest.mark.extras
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("which", ["oldest", "newest"])
def test_the_detectors_tests_pass(which: str, tmp_path: Path) -> None:
    requirement = oldest() if which == "oldest" else allowed()
    # The package alone, in front of the one that is installed, whose requirements serve both.
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path), requirement]
    subprocess.run(install, check=True, timeout=600)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path}
    version = [sys.executable, "-c", "from importlib.metadata import version; print(version('ultralytics'))"]
    found = subprocess.run(version, env=environment, check=True, capture_output=True, text=True, timeout=60)
    if which == "oldest":
        assert requirement.endswith(f"=={found.stdout.strip()}")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS]
    finished = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False, timeout=1200
    )
    assert finished.returncode == 0, f"under ultralytics {found.stdout.strip()}:\n{finished.stdout[-8000:]}"
