"""The landmark bundle run as its users run it: every arm trained, calibrated and attacked, and how they compare."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import torch

from monai_amat.engines import load_weights
from monai_amat.tasks.landmarks import MultiTaskUNet, decode_landmarks

if TYPE_CHECKING:
    from tests.bundles.conftest import BundleRunner

TERMS = ("heatmap", "offset_y", "offset_x")
# No wonder after four steps: hardly any map has learnt where its landmark is.
pytestmark = pytest.mark.filterwarnings("ignore:.* heat maps have no peak")


def network() -> MultiTaskUNet:
    return MultiTaskUNet(width=1 / 32)


def checkpoint(folder: Path, epoch: int = 2) -> dict[str, Any]:
    return dict(torch.load(folder / "models" / f"resume_epoch={epoch:04d}.pt", weights_only=True))


def write_thresholds(folder: Path, **values: float) -> str:
    file = folder / "thresholds.json"
    content = {"format": 1, "thresholds": {name: values.get(name, 100.0) for name in TERMS}, "provenance": {}}
    file.write_text(json.dumps(content))
    return str(file)


def table(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_thresholds_of_another_loss_or_size_are_refused(
    cephalometric: BundleRunner, cephalometric_std: Path, tmp_path: Path
) -> None:
    file = str(cephalometric_std / "thresholds.json")
    for names, values, what in (
        (("amat", "bce"), {}, "loss"),
        (("amat",), {"image_size": [64, 52]}, "image_size"),
        (("amat",), {"reader": "senior"}, "reader"),
        (("amat",), {"relative_radius": 0.1}, "transforms"),
        (("amat",), {"train#random_transforms": []}, "transforms"),
    ):
        message = cephalometric.failure(*names, thresholds_file=file, output_dir=str(tmp_path / "out"), **values)
        assert f"{file} was made with {what}" in message


def test_errors_are_in_millimetres_of_the_native_image(
    cephalometric: BundleRunner, cephalometric_std: Path, tmp_path: Path
) -> None:
    """Worked out once more, from the annotation files and the sizes alone."""
    weights = cephalometric_std / "models" / "model.pt"
    cephalometric.run("robustness", output_dir=str(tmp_path), checkpoint=str(weights), noise_levels=[0.0])
    row = pd.read_csv(tmp_path / "robustness" / "robustness.csv").iloc[0]
    with cephalometric.workflow("robustness", checkpoint=str(weights), output_dir=str(tmp_path)) as workflow:
        image = workflow.parser.get_parsed_content("validate#dataset")[0]["image"]
    with torch.no_grad():
        points = decode_landmarks(load_weights(network(), weights).eval()(image[None]), 0.05 * 50)[0]
    marked = []
    for reader in ("senior", "junior"):
        lines = (cephalometric.dataset_dir / "AnnotationsByMD" / f"400_{reader}" / "201.txt").read_text().split()
        marked.append(np.array([[float(part) for part in line.split(",")] for line in lines])[:, ::-1])
    truth = 0.1 * (np.mean(marked, axis=0) + 0.5)
    found = (points.numpy() + 0.5) * np.array([240 / 50, 193.5 / 40])
    for i, error in enumerate(np.linalg.norm(found - truth, axis=1), 1):
        if not row[f"no_peak_{i}"]:
            assert row[f"error_{i}"] == pytest.approx(error, rel=1e-3)


def test_the_attack_is_measured_against_other_attacks(
    cephalometric: BundleRunner, cephalometric_std: Path, tmp_path: Path
) -> None:
    """Where lower is better: the worst of all probes for a sample is the one of the largest error."""
    weights = str(cephalometric_std / "models" / "model.pt")
    cephalometric.run(
        *("robustness", "strength"),
        checkpoint=weights,
        source_checkpoint=weights,
        output_dir=str(tmp_path),
        strength_samples=2,
        strength_steps=[3],
        strength_auto_steps=3,
        probes="${name: @standard_probes[name] for name in ('pgd-2', 'pgd-3', 'transfer', 'huge-radius', "
        "'apgd-likelihood', 'large-radius-first')}",
    )
    found = pd.read_csv(tmp_path / "strength" / "strength.csv").set_index("probe")
    assert found.index.tolist() == [
        *("pgd-2", "pgd-3", "transfer", "apgd-likelihood", "large-radius-first", "worst of all", "huge-radius")
    ]
    rows = {name: pd.read_csv(tmp_path / "strength" / name / "robustness.csv") for name in found.index[:5]}
    errors = [f"error_{i}" for i in range(1, 20)]
    each = np.stack([frame[errors].to_numpy().mean(axis=1) for frame in rows.values()])
    assert found.loc["worst of all", "value"] == pytest.approx(each.max(axis=0).mean())
    assert set(found["metric"]) == {"mre"}
    assert found["noise_level"].tolist() == [pytest.approx(1.5 / 4)] * 6 + [pytest.approx(60 / 4)]
    # Made on the same network, another one's noise is its own.
    assert found.loc["transfer", "difference"] == pytest.approx(0, abs=1e-9)
    assert " mre " in (tmp_path / "strength" / "strength.md").read_text()
