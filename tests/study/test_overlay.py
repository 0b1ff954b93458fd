"""An overlay turns a bundle that knows nothing of this package into an adversarially trained one."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from monai_amat.__main__ import main
from monai_amat.engines import network_fingerprint, save_weights
from monai_amat.margins import AdaptiveMargins
from monai_amat.study import write_overlay
from monai_amat.study.overlay import KINDS
from tests.study.workflow import workflow


@pytest.mark.parametrize("kind", ["sat", "amat"])
def test_foreign_bundle_trains_adversarially(foreign: Path, kind: str) -> None:
    overlay = foreign.with_name(f"{kind}.json")
    assert main(["overlay", kind, "--config_file", str(foreign), "--output", str(overlay)]) == 0
    run = workflow(foreign, overlay)
    trainer = run.parser.get_parsed_content("train::trainer")
    inner = trainer.prepare_batch
    run.run()
    last = inner.last
    assert last is not None and last.ids is not None and set(last.ids.tolist()) <= set(range(6))
    assert torch.allclose(last.noise_norm, last.radius, atol=1e-3)
    # Margins wait for one step, a tenth of four, so that some have grown by Δ before the last.
    assert set(last.radius.tolist()) == ({5.0} if kind == "sat" else {5.0, 10.0})
    assert trainer.state.epoch == 2
    assert list((foreign.parent / "out" / f"{kind}_resume").glob("resume_epoch=*.pt"))
    if kind == "amat":
        assert isinstance(inner.radius, AdaptiveMargins) and len(inner.radius) == 6


def test_attacks_are_the_papers(foreign: Path, tmp_path: Path) -> None:
    (tmp_path / "model.pt").touch()
    given: dict[str, Any] = {"steps": 10, "num_classes": 2, "checkpoint": tmp_path / "model.pt"}
    made = {kind: write_overlay(kind, [foreign], tmp_path / "x.json", **given)["amat"] for kind in KINDS}
    target = {"_target_": "monai_amat.attacks.ProjectedGradientDescent", "steps": 10, "clip_range": None}
    inner = {"_target_": "monai_amat.attacks.InnerStart", "step": "@amat::epsilon"}
    assert made["sat"]["attack"] == {**target, "rel_step": 0.4}
    assert made["amat"]["attack"] == {**target, "rel_step": 0.4, "random_start": inner}
    assert made["robustness"]["curve"]["attack"] == {**target, "rel_step": 0.5}
    assert made["robustness"]["curve"]["metric"]["prediction"] == "softmax"


def test_margins_move_after_a_tenth_of_the_training_and_end_at_the_cap(foreign: Path, caplog: Any) -> None:
    # The paper's rule where every noise is accepted: thresholds above any loss.
    overlay = foreign.with_name("amat.json")
    write_overlay("amat", [foreign], overlay, epsilon=0.5, steps=2, clip_range=(0.0, 5.0))
    run = workflow(foreign, overlay, **{"train::trainer::max_epochs": 20, "amat::thresholds::k": 1000.0})
    trainer = run.parser.get_parsed_content("train::trainer")
    run.run()
    assert run.parser.get_parsed_content("amat::warmup") == 4  # of 40 steps
    margins = trainer.prepare_batch.radius
    assert margins.values.max() == pytest.approx(2.5)
    assert margins.values.max() > 1.0
    assert trainer.prepare_batch.last.noisy.min() >= 0.0
    table = pd.read_csv(foreign.parent / "out" / "amat_resume" / "margins.csv")
    assert len(table) == 20 and table["mean"].iloc[1] == 0.5 < table["mean"].iloc[-1]
    assert "No margin has moved" not in caplog.text


def test_a_warm_up_longer_than_the_training_is_said(foreign: Path, caplog: Any) -> None:
    overlay = foreign.with_name("amat.json")
    write_overlay("amat", [foreign], overlay, steps=1)
    workflow(foreign, overlay, **{"amat::warmup": 100}).run()
    assert "warm-up of the running thresholds takes 100 steps, but training ended after 4 of them" in caplog.text


def test_the_bundles_own_weights_stay(foreign: Path, tmp_path: Path) -> None:
    content = json.loads(foreign.read_text())
    saver = {"_target_": "CheckpointSaver", "save_dict": {"model": "@network"}, "save_final": True}
    content["ckpt_dir"] = str(tmp_path / "models")
    content["train"]["trainer"]["train_handlers"] = [
        {"_target_": "StatsHandler"},
        {**saver, "save_dir": "@ckpt_dir", "final_filename": "model.pt"},
        {**saver, "save_dir": "$@ckpt_dir + '/more'", "final_filename": "model.pt"},
        {**saver, "save_dir": str(tmp_path / "plain"), "final_filename": "model.pt"},
        {**saver, "save_dir": "$pathlib.Path(@ckpt_dir) / 'path'", "final_filename": "model.pt"},
        {**saver, "save_dir": "%other_dir", "final_filename": "model.pt"},
    ]
    content["imports"].append("$import pathlib")
    content["other_dir"] = "$@ckpt_dir + '/other'"
    foreign.write_text(json.dumps(content))
    overlay = foreign.with_name("sat.json")
    write_overlay("sat", [foreign], overlay, steps=1)
    workflow(foreign, overlay).run()
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("model.pt")}
    folders = ("models", "models/more", "plain", "models/path", "models/other")
    assert written == {f"{folder}/sat/model.pt" for folder in folders}


def test_the_command_line_says_what_comes_next(foreign: Path, capsys: Any) -> None:
    out = foreign.with_name("x.json")
    assert main(["overlay", "amat", "--config_file", str(foreign), "--output", str(out), "--clip_range", "0", "1"]) == 0
    said = capsys.readouterr().out
    assert shlex.quote(json.dumps([str(foreign), str(out)])) in said
    assert "amat_resume" in said
    assert json.loads(out.read_text())["amat"]["attack"]["clip_range"] == [0.0, 1.0]
    weights = foreign.with_name("model.pt")
    weights.touch()
    more = ["--num_classes", "1", "--prediction", "sigmoid", "--checkpoint", str(weights)]
    assert main(["overlay", "robustness", "--config_file", str(foreign), "--output", str(out), *more]) == 0
    assert "for another folder give --amat::curve::output_dir" in capsys.readouterr().out
    assert json.loads(out.read_text())["amat"]["curve"]["metric"]["prediction"] == "sigmoid"


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ({"sigmoid": True}, "sigmoid"),
        ({"sigmoid": True, "to_onehot_y": True}, "softmax"),  # channel 0 is the background there
        ({"softmax": True, "to_onehot_y": True}, "softmax"),
        ({}, "softmax"),
    ],
)
def test_what_channels_are_is_read_from_the_loss(foreign: Path, loss: dict[str, bool], expected: str) -> None:
    content = json.loads(foreign.read_text())
    content["loss"] = {"_target_": "monai.losses.DiceLoss", **loss}
    foreign.write_text(json.dumps(content))
    overlay = foreign.with_name("attack.json")
    write_overlay("robustness", [foreign], overlay, num_classes=2, checkpoint="@weights")
    assert json.loads(overlay.read_text())["amat"]["curve"]["metric"]["prediction"] == expected


def test_networks_of_one_channel_are_attacked(foreign: Path, tmp_path: Path) -> None:
    content = json.loads(foreign.read_text())
    content["network_def"]["out_channels"] = 1
    content["loss"] = {"_target_": "monai.losses.DiceCELoss", "sigmoid": True}
    foreign.write_text(json.dumps(content))
    save_weights(workflow(foreign).parser.get_parsed_content("network_def"), tmp_path / "model.pt")
    overlay = foreign.with_name("attack.json")
    given: dict[str, Any] = {"steps": 1, "noise_levels": [0.0, 1.0], "checkpoint": tmp_path / "model.pt"}
    write_overlay("robustness", [foreign], overlay, num_classes=1, **given)  # as the loss says
    workflow(foreign, overlay).run()
    assert len(pd.read_csv(foreign.parent / "out" / "robustness" / "robustness.csv")) == 12


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
    with pytest.raises(ValueError, match="has no 'teach::trainer'"):
        write_overlay("sat", [foreign], tmp_path / "x.json", trainer="teach#trainer")
    with pytest.raises(ValueError, match="num_classes"):
        write_overlay("robustness", [foreign], tmp_path / "x.json")
    with pytest.raises(ValueError, match="needs checkpoint"):
        write_overlay("robustness", [foreign], tmp_path / "x.json", num_classes=2)
    with pytest.raises(FileNotFoundError, match=r"nothere\.pt: there is no such file"):
        write_overlay("robustness", [foreign], tmp_path / "x.json", num_classes=2, checkpoint="nothere.pt")
    with pytest.raises(ValueError, match="kind must be one of"):
        write_overlay("std", [foreign], tmp_path / "x.json")
    content = json.loads(foreign.read_text())
    content["train"]["trainer"]["train_data_loader"] = {"_target_": "DataLoader"}
    foreign.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="needs a reference such as '@train::dataloader'"):
        write_overlay("amat", [foreign], tmp_path / "x.json")
    assert not (tmp_path / "x.json").exists()
