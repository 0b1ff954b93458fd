"""What is kept under version control: text files of a readable size, no data and no weights."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT_LIMIT = 400_000
IMAGE_LIMIT = 1_000_000
DATA = {
    *(".nii", ".gz", ".zip", ".tar", ".dcm", ".mha", ".nrrd", ".h5", ".hdf5", ".npy", ".npz", ".sqlite", ".db"),
    *(".pt", ".pth", ".ckpt", ".ts", ".onnx", ".safetensors", ".pkl", ".pickle", ".parquet", ".whl"),
}
PICTURES = {".png", ".svg", ".jpg", ".gif"}


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode != 0:
        pytest.skip(f"{ROOT} is no git repository")
    files = [ROOT / name.decode() for name in listed.stdout.split(b"\0") if name]
    return [file for file in files if file.is_file()]


def test_no_data_and_no_weights_are_tracked() -> None:
    assert not [file for file in tracked() if file.suffix.lower() in DATA]


def test_tracked_files_are_small() -> None:
    limits = {file: IMAGE_LIMIT if file.suffix in PICTURES else TEXT_LIMIT for file in tracked()}
    assert len(limits) > 100
    assert not {str(file): file.stat().st_size for file, limit in limits.items() if file.stat().st_size > limit}


def test_every_study_has_its_figures_in_one_table() -> None:
    studies = [folder for folder in (ROOT / "docs" / "results").iterdir() if folder.is_dir()]
    for study in studies:
        header = (study / "figures.csv").read_text(encoding="utf-8").splitlines()[0]
        assert header == "part,arm,noise_level,figure,value,low,high"
        assert not list(study.glob("*.json")), f"{study}: summaries of a run are not kept"
        assert "figures.csv" in (study / "README.md").read_text(encoding="utf-8")
