"""Overlays on bundles that have a scheduler, savers, and a trained network; and what is refused when one is written."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_amat.__main__ import main
from monai_amat.study import next_step, write_overlay
from tests.study.workflow import workflow


@pytest.fixture
def change(foreign: Path) -> Callable[[Callable[[dict[str, Any]], object]], Path]:
    def changed(how: Callable[[dict[str, Any]], object]) -> Path:
        content = json.loads(foreign.read_text())
        how(content)
        foreign.write_text(json.dumps(content))
        return foreign

    return changed


@pytest.fixture
def zoo(change: Callable[..., Path]) -> Path:
    """With a scheduler, and the network of the best validation kept, whose metric falls from epoch to epoch."""

    def extend(content: dict[str, Any]) -> None:
        content["optimizer"] = content["train"]["trainer"]["optimizer"]
        content["train"]["trainer"]["optimizer"] = "@optimizer"
        content["scheduler"] = {
            "_target_": "torch.optim.lr_scheduler.StepLR",
            "optimizer": "@optimizer",
            "step_size": 1,
        }
        content["train"]["handlers"] = [
            {"_target_": "LrScheduleHandler", "lr_scheduler": "@scheduler", "print_lr": False},
            {"_target_": "ValidationHandler", "validator": "@validate#evaluator", "interval": 1},
        ]
        content["train"]["trainer"]["train_handlers"] = "@train#handlers"
        metric = {"_target_": "tests.study.falling.Falling"}
        content["validate"]["handlers"] = [
            {
                "_target_": "CheckpointSaver",
                "save_dir": "$@output_dir + '/models'",
                "save_dict": {"network": "@network"},
                "save_key_metric": True,
                "key_metric_filename": "best.pt",
            }
        ]
        content["validate"]["evaluator"] |= {
            "key_val_metric": {"falling": metric},
            "val_handlers": "@validate#handlers",
        }

    return change(extend)


def trained(config: Path, overlay: Path, output: Path, *runs: int) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The learning rates at the end and the network that is kept, after runs up to so many epochs."""
    for epochs in runs:
        run = workflow(config, overlay, **{"output_dir": str(output), "train::trainer::max_epochs": epochs})
        run.run()
        optimizer = run.parser.get_parsed_content("optimizer")
    best = torch.load(output / "models" / "sat" / "best.pt", weights_only=True)
    return [group["lr"] for group in optimizer.param_groups], best


def test_a_resumed_run_keeps_its_rate_and_its_best_network(zoo: Path, tmp_path: Path) -> None:
    overlay = zoo.with_name("sat.json")
    write_overlay("sat", [zoo], overlay, steps=1)
    rates, best = trained(zoo, overlay, tmp_path / "whole", 4)
    again, resumed = trained(zoo, overlay, tmp_path / "parts", 2, 4)
    assert again == pytest.approx(rates)
    assert all(torch.equal(best[name], resumed[name]) for name in best)


def test_the_bundles_own_folder_is_refused_wherever_it_is_set(zoo: Path, tmp_path: Path) -> None:
    overlay = zoo.with_name("sat.json")
    write_overlay("sat", [zoo], overlay, steps=1)
    with pytest.raises(RuntimeError) as caught:
        workflow(zoo, overlay, **{"validate::handlers::0::save_dir": str(tmp_path / "out" / "models")})
    assert "where the bundle keeps its own network" in str(caught.value.__cause__)
    workflow(zoo, overlay, **{"validate::handlers::0::save_dir": str(tmp_path / "elsewhere")})


@pytest.mark.parametrize("folder", ["user@site", "$HOME", "2024", "ünï 😀"])
def test_weights_may_lie_in_a_folder_of_any_name(folder: str, zoo: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / folder).mkdir()
    network = workflow(zoo).parser.get_parsed_content("network")
    weights = Path(folder, "model.pt")
    torch.save(network.state_dict(), weights)
    overlay = zoo.with_name("attack.json")
    write_overlay("robustness", [zoo], overlay, num_classes=2, checkpoint=str(weights), noise_levels=[0.0])
    curve = workflow(zoo, overlay).parser.get_parsed_content("amat::curve")
    assert torch.equal(*(next(iter(each.state_dict().values())) for each in (curve.network, network)))


def test_paths_that_monai_changes_are_refused(zoo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "study #3"
    folder.mkdir()
    config = Path(shutil.copy(zoo, folder / "train.json"))
    (folder / "model.pt").touch()
    for given in (
        ([config], tmp_path / "x.json", None),
        ([zoo], folder / "x.json", None),
        ([zoo], "x.json", "model.pt"),
    ):
        files, output, weights = given
        more: dict[str, Any] = {} if weights is None else {"checkpoint": folder / weights, "num_classes": 2}
        with pytest.raises(ValueError, match=re.escape("study #3")):
            write_overlay("robustness" if more else "sat", files, output, **more)
    assert sorted(path.name for path in folder.iterdir()) == ["model.pt", "train.json"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epsilon": -1}, "epsilon must be positive and finite, got -1"),
        ({"epsilon": float("nan")}, "epsilon must be positive and finite, got nan"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"noise_levels": [0.0, 1.0, 1.0]}, "noise_levels must be different"),
        ({"noise_levels": [-1.0]}, "noise_levels must be different finite numbers, none negative"),
        ({"clip_range": [1, 0]}, "clip_range must rise"),
    ],
)
def test_numbers_out_of_range_are_refused(given: dict[str, Any], message: str, foreign: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        write_overlay("sat", [foreign], tmp_path / "x.json", **given)
    assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize("key", ["network", "loss_function", "train_data_loader"])
@pytest.mark.parametrize("how", ["missing", "null"])
def test_a_bundle_without_a_part_is_refused(key: str, how: str, change: Callable[..., Path], tmp_path: Path) -> None:
    def spoil(content: dict[str, Any]) -> None:
        content["train"]["trainer"][key] = None
        if how == "missing":
            del content["train"]["trainer"][key]

    with pytest.raises(ValueError, match=f"'train::trainer' has no '{key}'"):
        write_overlay("sat", [change(spoil)], tmp_path / "x.json")
    assert not (tmp_path / "x.json").exists()


def test_an_attack_needs_the_loss(change: Callable[..., Path], tmp_path: Path) -> None:
    def spoil(content: dict[str, Any]) -> None:
        del content["train"]["trainer"]["loss_function"]

    config = change(spoil)
    with pytest.raises(ValueError, match="'train::trainer' has no 'loss_function'"):
        write_overlay("robustness", [config], tmp_path / "x.json", num_classes=2, checkpoint="@weights")


@pytest.mark.slow
def test_the_printed_command_runs(change: Callable[..., Path], tmp_path: Path, capsys: Any) -> None:
    """In a bundle whose training has another id than run, and a folder of outputs with the time in its name."""

    def old(content: dict[str, Any]) -> None:
        content["training"] = content.pop("run")
        content["stamp"] = "$datetime.datetime.now().strftime('%H%M%S%f')"
        content["imports"].append("$import datetime")
        content["output_dir"] = f"$'{tmp_path}/' + @stamp"

    config = change(old)
    overlay = tmp_path / "it's 😀.json"
    assert main(["overlay", "sat", "--config_file", str(config), "--output", str(overlay), "--steps", "1"]) == 0
    said = capsys.readouterr().out
    assert "another folder at every start" in said
    (line,) = [line for line in said.splitlines() if "monai.bundle" in line]
    words = shlex.split(line)
    assert words[:5] == ["python", "-m", "monai.bundle", "run", "training"]
    done = subprocess.run([sys.executable, *words[1:]], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert list((tmp_path / "runs" / "sat" / "sat_resume").glob("resume_epoch=*.pt"))


def test_folders_are_named_and_not_expressions(zoo: Path, tmp_path: Path) -> None:
    overlay = zoo.with_name("sat.json")
    text = next_step([zoo], overlay, write_overlay("sat", [zoo], overlay))
    assert f"weights go to {tmp_path / 'out' / 'models' / 'sat'};" in text
    assert f"after a kill: {tmp_path / 'out' / 'sat_resume'}" in text
    assert "$" not in text
