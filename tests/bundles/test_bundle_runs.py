"""The bundle run as its users run it: every arm trained, calibrated, attacked, and shared out over processes."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
import torch

from monai_amat.engines import load_weights
from monai_amat.tasks.segmentation import nnunet_2d

if TYPE_CHECKING:
    from tests.bundles.conftest import BundleRunner


def network(width: int = 4) -> torch.nn.Module:
    return nnunet_2d(in_channels=1, out_channels=3, patch_size=(32, 32), base_features=width)


def checkpoint(folder: Path, epoch: int = 2) -> dict[str, Any]:
    return dict(torch.load(folder / "models" / f"resume_epoch={epoch:04d}.pt", weights_only=True))


def write_thresholds(folder: Path, value: float) -> str:
    file = folder / "thresholds.json"
    file.write_text(json.dumps({"format": 1, "thresholds": {"total": value}, "provenance": {}}))
    return str(file)


def table(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


# ---------------------------------------------------------------------------------- training


# ------------------------------------------------------------------- thresholds and evaluation


def test_a_subset_of_the_test_slices_is_balanced_over_volumes(bundle: BundleRunner, std: Path, tmp_path: Path) -> None:
    bundle.run(
        *("robustness",),
        output_dir=str(tmp_path),
        checkpoint=str(std / "models" / "model.pt"),
        test_slices=6,
        noise_levels=[0.0],
    )
    rows = pd.read_csv(tmp_path / "robustness" / "robustness.csv")
    assert rows.groupby("case").size().to_dict() == {"phantom_007": 3, "phantom_011": 3}


# ------------------------------------------------------------------------------ processes


@pytest.mark.slow
def test_the_command_line_overrides_any_id(bundle: BundleRunner, environment: dict[str, str], tmp_path: Path) -> None:
    arguments = bundle.arguments(
        "amat",
        **{
            "output_dir": str(tmp_path / "out"),
            "thresholds_file": write_thresholds(tmp_path, 100.0),
            "max_epochs": 1,
            "learning_rate": 0.125,
            "network_def#base_features": 6,
            "optimizer#weight_decay": 0.0625,
            "train#dataloader#batch_size": 2,
            "rule#step": 0.75,
            "attack#norm": "inf",
            "seed": 7,
        },
    )
    arguments += ["--logging_file", str(bundle.root / "configs" / "logging.conf")]
    finished = subprocess.run(
        [sys.executable, "-m", "monai.bundle", *arguments],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert "train_loss" in finished.stdout
    state = checkpoint(tmp_path / "out", 1)
    load_weights(network(6), tmp_path / "out" / "models" / "model.pt")
    group = state["objects"]["optimizer"]["param_groups"][0]
    assert (group["initial_lr"], group["weight_decay"]) == (0.125, 0.0625)
    assert state["epoch_length"] == 4  # eight draws by two
    assert set(state["objects"]["margins"]["values"].tolist()) >= {2.5, 3.25}
    # Nothing is written where it was not asked for.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "thresholds.json"]


@pytest.mark.slow
def test_two_processes_train_as_one(bundle: BundleRunner, environment: dict[str, str], tmp_path: Path) -> None:
    """torchrun with gloo: the same margins on both ranks, and those of one process; only rank 0 reports and writes."""
    report = tmp_path / "report.json"
    state = "{'margins': @margins.values, 'network': @network.state_dict()}"
    file = "@output_dir + '/rank' + os.environ.get('RANK', 'alone') + '.pt'"
    report.write_text(json.dumps({"+run": [f"$torch.save({state}, {file})"]}))
    changes = {
        "thresholds_file": write_thresholds(tmp_path, 2.0),
        "iterations_per_epoch": 4,
        # Adam would blow rounding up to whole steps where a gradient is next to nothing.
        "optimizer": {"_target_": "torch.optim.SGD", "params": "$@network.parameters()", "lr": 0.05},
    }
    bundle.run("amat", report, output_dir=str(tmp_path / "one"), **changes)
    arguments = bundle.arguments("multi_gpu_train", "amat", report, output_dir=str(tmp_path / "two"), **changes)
    finished = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
            *("-m", "monai.bundle", *arguments),
            *("--logging_file", str(bundle.root / "configs" / "logging.conf")),
        ],
        cwd=tmp_path,
        env={**environment, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-4000:]

    alone = torch.load(tmp_path / "one" / "rankalone.pt", weights_only=True)
    first, second = (torch.load(tmp_path / "two" / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert torch.equal(first["margins"], second["margins"])
    assert len(first["margins"].unique()) > 1
    torch.testing.assert_close(first["margins"], alone["margins"])
    for name, value in alone["network"].items():
        assert torch.equal(first["network"][f"module.{name}"], second["network"][f"module.{name}"])
        torch.testing.assert_close(first["network"][f"module.{name}"], value, rtol=1e-3, atol=1e-5)

    best = [checkpoint(tmp_path / name)["engine"]["best_metric"] for name in ("one", "two")]
    assert best[1] == pytest.approx(best[0], abs=1e-3)
    written = [sorted(path.name.split(".")[0] for path in (tmp_path / name).rglob("*")) for name in ("one", "two")]
    assert [name for name in written[1] if name not in ("rank0", "rank1")] == [
        name for name in written[0] if name != "rankalone"
    ]
    for line in ("train_loss", "Metrics -- val_adi", "epoch 2: margins", "network saved to"):
        assert finished.stdout.count(line) == (2 if line in ("train_loss", "Metrics -- val_adi") else 1), line
