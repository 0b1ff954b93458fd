"""A study whose headline is an error in mm: tables of several figures, margins without groups, labels with numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.image
import pandas as pd
import pytest
import torch

from monai_amat.robustness import report
from monai_amat.study import Study
from monai_amat.tasks.landmarks import write_cephalogram_phantom

if TYPE_CHECKING:
    from tests.study.conftest import InProcess

# As strings, as they come from the command line.
TINY = {
    "image_size": "[50, 40]",
    "width": "0.03125",
    "batch_size": "4",
    "max_epochs": "2",
    "val_interval": "2",
    "attack_steps": "2",
    "evaluation_steps": "2",
    "train_cases": "4",
    "validation_cases": "1",
    "test_cases": "3",
    "noise_levels": "[0.0, 0.5]",
}
pytestmark = pytest.mark.filterwarnings("ignore:.* heat maps have no peak")


@pytest.fixture(scope="module")
def skulls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cephalogram_phantom(tmp_path_factory.mktemp("skulls") / "phantom", images=18, size=(80, 64))


def test_landmarks_are_compared_by_their_errors(
    in_process: InProcess, skulls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, Any] = {}
    curves: dict[Path, Any] = {}
    monkeypatch.setattr("monai_amat.study.results.plot_margins", lambda arms, path: drawn.update(arms))
    draw = report.plot_curves

    def drawn_and_known(table: pd.DataFrame, path: Path, **labels: Any) -> None:
        curves[path] = labels
        draw(table, path, **labels)

    monkeypatch.setattr(report, "plot_curves", drawn_and_known)
    arms = ("bce", "amat_shuffled")
    bundle = Path(__file__).resolve().parents[2] / "bundles" / "cephalometric_amat"
    output = tmp_path / "study"
    table = Study(
        *(bundle, arms),
        dataset_dir=skulls,
        output_dir=output,
        overlays=["small"],
        values=TINY,
        say=lambda text: None,
    ).run()
    assert in_process.ran == [
        *("std train", "std calibrate", "bce train", "amat_shuffled train"),
        *("bce robustness", "amat_shuffled robustness"),
    ]
    for name in ("curve_sdr_2.png", "curve_sdr_4.png", "curve_no_peak.png"):
        assert matplotlib.image.imread(output / name).std() > 0
    # The headline first, then what the bundle names beside it; each value that of the table.
    *texts, _ = (output / "table.md").read_text().strip().split("\n\n")
    names = ["mre", "sdr_2", "sdr_2.5", "sdr_3", "sdr_4", "no_peak"]
    assert [text.split(" at noise")[0].removeprefix("| ") for text in texts] == names
    for name, text in zip(names, texts, strict=True):
        line = next(line for line in text.splitlines() if line.startswith("| BCE "))
        known = table[(table["arm"] == "BCE") & (table["name"] == name)]["value"].tolist()
        assert [float(cell.split()[0]) for cell in line.strip("| ").split("|")[1:]] == pytest.approx(known, abs=6e-4)
    assert (output / "differences.md").read_text().startswith("| mre at noise ")
    assert "AMAT shuffled − BCE" in (output / "differences.md").read_text()
    # A run alone calls its figures what the study does.
    for folder in (output, output / "arms" / "bce" / "seed=0" / "robustness"):
        labels = curves[folder / "curve.png"]
        assert labels["ylabel"] == "MRE (mean radial error), mm; lower is better"
        assert labels["xlabel"] == "noise level ε (L2 over the 50×40 image, −1…1); 200×160: ε × 4"
    # All arms met the attack of the one loss, whatever they were trained with.
    attacked = {
        arm: json.loads((output / "arms" / arm / "seed=0" / "robustness" / "summary.json").read_text())["loss"]
        for arm in ("bce", "amat_shuffled")
    }
    assert attacked["bce"] == attacked["amat_shuffled"]
    # Margins are drawn though nobody sorted the samples into kinds.
    assert list(drawn) == ["AMAT shuffled"]
    assert drawn["AMAT shuffled"].groups == ["all samples"] * 4
    assert len(drawn["AMAT shuffled"].values) == 4
    assert matplotlib.image.imread(output / "examples.png").std() > 0
    assert pd.read_csv(output / "costs.csv")["arm"].tolist() == ["BCE", "AMAT shuffled"]
    weights = [
        torch.load(output / "arms" / arm / "seed=0" / "models" / "model.pt", weights_only=True)["model"]["head.weight"]
        for arm in ("std", "bce")
    ]
    assert not torch.equal(*weights)
