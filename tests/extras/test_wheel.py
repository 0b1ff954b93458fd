"""The wheel, away from the clone: built, installed into a fresh environment, and run in an empty folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = {
    **{"max_epochs": "2", "iterations_per_epoch": "2", "attack_steps": "2", "evaluation_steps": "2"},
    **{"test_slices": "6", "noise_levels": "[0.0, 2.0]", "base_features": "4"},
}


SOURCES = ("LICENSE", "README.md", "monai_amat", "pyproject.toml", "setup.py")


def run(*words: str | Path, cwd: Path) -> str:
    """Run a program that sees nothing of the clone."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{words}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of an environment that holds the wheel.

    The packages that it requires are those of the environment that runs this test: installing PyTorch again would take
    minutes and test nothing of this package. The clone itself is not to be seen.
    """
    root = tmp_path_factory.mktemp("wheel")
    # Built from a copy: a build leaves folders behind, and takes what an older one has left.
    sources = root / "sources"
    sources.mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy2
        copy(REPOSITORY / name, sources / name)
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", root, sources, cwd=root)
    (wheel,) = root.glob("monai_amat-*.whl")
    run(sys.executable, "-m", "venv", root / "env", cwd=root)
    python = root / "env" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", wheel, cwd=root)
    packages = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=root).strip()
    # A .pth file adds the folder behind the environment's own, and the finder of an editable install is not read.
    Path(packages, "required.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return root / "env" / "bin"


@pytest.mark.extras
@pytest.mark.timeout(1800)
def test_the_quickstart_runs_from_the_wheel_in_an_empty_folder(programs: Path, tmp_path: Path) -> None:
    where = "import monai_amat; print(monai_amat.__file__)"
    found = run(programs / "python", "-c", where, cwd=tmp_path).strip()
    assert Path(found).is_relative_to(programs.parent)
    values = [word for key, value in SMALL.items() for word in (f"--{key}", value)]
    shown = run(programs / "monai-amat", "quickstart", *values, cwd=tmp_path)
    assert "| adi at noise |" in shown
    results = tmp_path / "runs" / "quickstart"
    assert {"table.md", "curve.png", "examples.png", "margins.png"} <= {file.name for file in results.iterdir()}


@pytest.mark.extras
def test_every_template_is_in_the_wheel(programs: Path, tmp_path: Path) -> None:
    code = "from importlib.resources import files; print(files('monai_amat.templates'))"
    installed = Path(run(programs / "python", "-c", code, cwd=tmp_path).strip())

    def names(folder: Path) -> set[str]:
        return {
            str(file.relative_to(folder))
            for file in folder.rglob("*")
            if file.is_file() and "__pycache__" not in file.parts
        }

    assert names(installed) == names(REPOSITORY / "monai_amat" / "templates")
