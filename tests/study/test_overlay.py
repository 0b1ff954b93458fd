"""An overlay turns a bundle that knows nothing of this package into an adversarially trained one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from monai.bundle import ConfigWorkflow

from monai_amat.__main__ import main
from monai_amat.engines import network_fingerprint
from monai_amat.margins import SampleMargins
from monai_amat.networks import save_weights
from monai_amat.study import write_overlay


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A small zoo-style training configuration: one channel, shuffled, with a MONAI loss that reduces the batch."""
    items = "$[{'image': torch.full((1, 32, 32), 1.0 * i), 'label': torch.ones(1, 32, 32) * (i % 2)} for i in range(6)]"
    config: dict[str, Any] = {
        "imports": ["$import torch", "$import monai"],
        "output_dir": str(tmp_path / "out"),
        "network_def": {
            "_target_": "BasicUNet",
            "spatial_dims": 2,
            "in_channels": 1,
            "out_channels": 2,
            "features": [4, 4, 4, 4, 4, 4],
        },
        "network": "$@network_def.to('cpu')",
        "loss": {"_target_": "monai.losses.DiceCELoss", "softmax": True, "to_onehot_y": True},
        "train": {
            "dataset": {"_target_": "Dataset", "data": items},
            "dataloader": {"_target_": "DataLoader", "dataset": "@train#dataset", "batch_size": 3, "shuffle": True},
            "trainer": {
                "_target_": "SupervisedTrainer",
                "device": "cpu",
                "max_epochs": 2,
                "train_data_loader": "@train#dataloader",
                "network": "@network",
                "optimizer": {"_target_": "torch.optim.SGD", "params": "$@network.parameters()", "lr": 0.01},
                "loss_function": "@loss",
            },
        },
        "validate": {
            "dataloader": {"_target_": "DataLoader", "dataset": "@train#dataset", "batch_size": 4},
            "evaluator": {
                "_target_": "SupervisedEvaluator",
                "device": "cpu",
                "val_data_loader": "@validate#dataloader",
                "network": "@network",
            },
        },
        "initialize": ["$monai.utils.set_determinism(seed=0)"],
        "run": ["$@train#trainer.run()"],
    }
    file = tmp_path / "train.json"
    file.write_text(json.dumps(config))
    return file


def workflow(*files: Path) -> ConfigWorkflow:
    made = ConfigWorkflow([str(file) for file in files], workflow_type=None, logging_file=None)
    made.initialize()
    return made


@pytest.mark.parametrize("kind", ["sat", "amat"])
def test_foreign_bundle_trains_adversarially(foreign: Path, kind: str) -> None:
    overlay = foreign.with_name(f"{kind}.json")
    assert main(["overlay", kind, "--config_file", str(foreign), "--output", str(overlay)]) == 0
    run = workflow(foreign, overlay)
    trainer = run.parser.get_parsed_content("train#trainer")
    inner = trainer.prepare_batch
    run.run()
    last = inner.last
    assert last is not None and last.ids is not None and set(last.ids.tolist()) <= set(range(6))
    assert torch.allclose(last.noise_norm, torch.full((3,), 5.0), atol=1e-3)
    assert trainer.state.epoch == 2
    assert list((foreign.parent / "out" / f"{kind}_resume").glob("resume_epoch=*.pt"))
    if kind == "amat":
        assert isinstance(inner.radius, SampleMargins) and len(inner.radius) == 6


def test_foreign_bundle_is_attacked(foreign: Path, tmp_path: Path) -> None:
    overlay = foreign.with_name("robustness.json")
    run = workflow(foreign)
    trained = run.parser.get_parsed_content("network_def")
    save_weights(trained, tmp_path / "model.pt")
    write_overlay(
        "robustness",
        [foreign],
        overlay,
        steps=2,
        noise_levels=[0.0, 1.0],
        num_classes=2,
        checkpoint=tmp_path / "model.pt",
    )
    attacked = workflow(foreign, overlay)
    attacked.run()
    # The bundle's own evaluator, which a zoo bundle loads its weights with, never starts.
    assert network_fingerprint(attacked.parser.get_parsed_content("network")) == network_fingerprint(trained)
    rows = pd.read_csv(foreign.parent / "out" / "robustness" / "robustness.csv")
    assert rows.groupby("noise_level")["sample_id"].apply(list).tolist() == [list(range(6))] * 2
    assert rows["noise_norm"].tolist() == pytest.approx([0.0] * 6 + [1.0] * 6, abs=1e-4)
    assert (foreign.parent / "out" / "robustness" / "curve.png").is_file()


def test_errors_name_what_is_missing(foreign: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no 'teach#trainer'"):
        write_overlay("sat", [foreign], tmp_path / "x.json", trainer="teach#trainer")
    with pytest.raises(ValueError, match="num_classes"):
        write_overlay("robustness", [foreign], tmp_path / "x.json")
    with pytest.raises(ValueError, match="needs checkpoint"):
        write_overlay("robustness", [foreign], tmp_path / "x.json", num_classes=2)
    with pytest.raises(ValueError, match="kind must be one of"):
        write_overlay("std", [foreign], tmp_path / "x.json")
    content = json.loads(foreign.read_text())
    content["train"]["trainer"]["train_data_loader"] = {"_target_": "DataLoader"}
    foreign.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="needs a reference such as '@train#dataloader'"):
        write_overlay("amat", [foreign], tmp_path / "x.json")
    assert not (tmp_path / "x.json").exists()
