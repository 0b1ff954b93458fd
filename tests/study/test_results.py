"""What lies in a study's folder: of a second evaluation, of warm starts, of strength and costs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
import torch

if TYPE_CHECKING:
    from tests.study.conftest import InProcess


def stamps(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_the_summary_names_given_files_without_the_folders_above(study: Any, tmp_path: Path) -> None:
    output = tmp_path / "study"
    study("std", output_dir=output / "start").run()
    weights = output / "start" / "arms" / "std" / "seed=0" / "models" / "model.pt"
    elsewhere = shutil.copy(weights, tmp_path / "mine.pt")
    values = {"initial_weights": str(weights), "noise_label": "ε / pixel, not /a/file"}
    study(f"sat:epsilon=1,initial_weights={elsewhere}", output_dir=output, values=values).run()
    told = json.loads((output / "summary.json").read_text())["study"]
    assert told["arms"] == ["sat:epsilon=1,initial_weights=mine.pt"]
    assert told["reference"] == told["arms"][0]
    assert told["values"]["initial_weights"] == "start/arms/std/seed=0/models/model.pt"
    assert told["values"]["noise_label"] == values["noise_label"]


def test_a_second_evaluation_reuses_the_networks_and_lies_beside_the_first(
    study: Any, in_process: InProcess, tmp_path: Path
) -> None:
    output = tmp_path / "study"
    first = study("std", "sat:1").run()
    before = stamps(output)
    done = len(in_process.commands)
    said: list[str] = []
    changes = {"section": "validation", "evaluation_steps": "3", "noise_levels": "[0.0, 1.0, 3.0]"}
    second = study("std", "sat:1", evaluation="on_validation", values=changes, say=said.append).run()
    # Nothing trained again, nothing of the first touched.
    assert in_process.ran[done:] == ["std robustness", "sat_1 robustness"]
    after = stamps(output)
    assert {name: after[name] for name in before} == before
    assert said[2].startswith("==> [3/4] arms/std/seed=0: on_validation (log: ")
    assert said[-1].endswith(f"results: {output / 'on_validation'}")
    folder = output / "on_validation"
    assert {path.name for path in folder.iterdir()} == {
        *("costs.csv", "costs.md", "curve.png", "curve_tvdi.png", "differences.csv", "differences.md", "examples.png"),
        *("robustness.csv", "summary.json", "table.md"),
    }
    run = output / "arms" / "sat_1" / "seed=0"
    assert {path.name for path in run.iterdir() if "valid" in path.name} == {
        *("on_validation", "on_validation.json", "on_validation.log"),
    }
    assert (run / "on_validation" / "robustness.csv").is_file()
    assert json.loads((run / "on_validation.json").read_text())["values"]["section"] == "validation"
    # Other slices, other levels, the same networks.
    assert sorted(set(second["noise_level"]) - {"Avg"}) == [0.0, 1.0, 3.0]
    rows, other = pd.read_csv(output / "robustness.csv"), pd.read_csv(folder / "robustness.csv")
    assert set(rows["case"]).isdisjoint(set(other["case"]))
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["study"]["evaluation"], summary["study"]["values"]["section"]) == ("on_validation", "validation")
    assert "arms/std/seed=0/on_validation" in summary["study"]["seconds"]
    assert json.loads((output / "summary.json").read_text())["study"]["evaluation"] == "robustness"

    # Done is done, here too; other values need another name.
    study("std", "sat:1", evaluation="on_validation", values=changes).run()
    pd.testing.assert_frame_equal(study("std", "sat:1").run(), first)
    assert len(in_process.commands) == done + 2
    with pytest.raises(RuntimeError, match=r"made with evaluation_steps 3, but this run has 4"):
        study("std", "sat:1", evaluation="on_validation", values={**changes, "evaluation_steps": "4"}).run()


def test_what_concerns_the_attack_alone_leaves_the_training_as_it_is(
    study: Any, in_process: InProcess, tmp_path: Path, tiny: dict[str, str]
) -> None:
    """Though the overlay `small`, which lies over training too, has a value for it."""
    table = study("std", "amat").run()
    done = len(in_process.commands)
    changed = study("std", "amat", values={"evaluation_steps": "3"})
    assert [step.name for step in changed.steps() if "evaluation_steps" in step.values] == ["robustness"] * 2
    assert [step.done() for step in changed.steps()[:3]] == [True] * 3
    with pytest.raises(RuntimeError, match=r"made with evaluation_steps 2, but this run has 3"):
        changed.run()

    # Studies of version 0.1.0 wrote all that the overlay has into the record of every run that it lay over.
    for record in (tmp_path / "study").glob("arms/*/*/*.json"):
        content = json.loads(record.read_text())
        if "values" in content:
            content["values"] |= {key: tiny[key] for key in ("attack_steps", "evaluation_steps", "test_slices")}
            record.write_text(json.dumps(content))
    pd.testing.assert_frame_equal(study("std", "amat").run(), table)
    assert len(in_process.commands) == done


def test_training_starts_from_the_clean_network_of_its_seed(study: Any, in_process: InProcess, tmp_path: Path) -> None:
    # So small a rate that what it started from can still be seen.
    spec = "sat:epsilon=1,initial_weights=std,learning_rate=1e-9"
    folder = "sat_epsilon=1_initial_weights=std_learning_rate=1e-9"
    few = {"noise_levels": "[0.0]", "test_slices": "2"}
    study(spec, "sat:epsilon=1,learning_rate=1e-9", seeds=[0, 3], values=few).run()
    assert in_process.ran[:3] == ["std train", f"{folder} train", "sat_epsilon=1_learning_rate=1e-9 train"]

    def weights(arm: str, seed: int) -> torch.Tensor:
        file = tmp_path / "study" / "arms" / arm / f"seed={seed}" / "models" / "model.pt"
        model = torch.load(file, weights_only=True)["model"]
        return torch.cat([values.flatten() for values in model.values()])

    for seed in (0, 3):
        std = weights("std", seed)
        assert torch.allclose(weights(folder, seed), std, atol=1e-5)
        assert not torch.allclose(weights("sat_epsilon=1_learning_rate=1e-9", seed), std, atol=1e-2)
    assert not torch.allclose(weights("std", 0), weights("std", 3), atol=1e-2)
    record = json.loads((tmp_path / "study" / "arms" / folder / "seed=0" / "train.json").read_text())
    assert record["values"]["initial_weights"] == "std"

    # A study may be moved.
    (tmp_path / "study").rename(tmp_path / "moved")
    done = len(in_process.commands)
    study(spec, seeds=[0, 3], output_dir=tmp_path / "moved", values=few).run()
    assert len(in_process.commands) == done


def test_strength_of_all_arms_in_one_table(study: Any, in_process: InProcess, tmp_path: Path) -> None:
    values = {"strength_steps": "[2, 3]", "strength_samples": "4", "strength_noise_levels": "[2.0]"}
    study("std", "sat:1", strength=True, values=values).run()
    output = tmp_path / "study"
    assert in_process.ran[-2:] == ["std strength", "sat_1 strength"]
    table = pd.read_csv(output / "strength.csv")
    assert set(table["arm"]) == {"STD", "SAT 1"}
    probes = {arm: set(of_arm["probe"]) for arm, of_arm in table.groupby("arm")}
    assert probes["STD"] < probes["SAT 1"]  # noise of the clean network is tried on the other alone
    for arm in ("STD", "SAT 1"):
        own = pd.read_csv(output / "arms" / arm.lower().replace(" ", "_") / "seed=0" / "strength" / "strength.csv")
        pd.testing.assert_frame_equal(table[table["arm"] == arm].drop(columns="arm").reset_index(drop=True), own)
    text = (output / "strength.md").read_text()
    assert text.startswith("# STD\n\n## ")
    assert "\n# SAT 1\n\n## " in text


def test_arms_are_compared_sample_by_sample_with_one_of_them(study: Any, tmp_path: Path) -> None:
    table = study("std", "sat:1", "amat", reference="sat:1").run()
    output = tmp_path / "study"
    apart = pd.read_csv(output / "differences.csv")
    assert list(dict.fromkeys(apart["arm"])) == ["STD − SAT 1", "AMAT − SAT 1"]

    def average(arm: str, frame: pd.DataFrame) -> float:
        rows = frame[(frame["arm"] == arm) & (frame["name"] == "adi") & (frame["noise_level"] == "Avg")]
        return float(rows["value"].item())

    assert average("STD − SAT 1", apart) == pytest.approx(average("STD", table) - average("SAT 1", table))
    assert (output / "differences.md").read_text().startswith("| adi at noise ")
    assert json.loads((output / "summary.json").read_text())["study"]["reference"] == "sat:1"
    # By default the first.
    study("std", "sat:1", "amat").run()
    assert "SAT 1 − STD" in (output / "differences.md").read_text()
    with pytest.raises(ValueError, match="the reference 'sat:2' is none of the arms, which are std, sat:1"):
        study("std", "sat:1", reference="sat:2")


def test_margins_of_the_arms_that_have_them_are_drawn(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, Any] = {}
    monkeypatch.setattr("monai_amat.study.results.plot_margins", lambda arms, path: drawn.update({**arms, "": path}))
    study("sat:1", "amat").run()
    output = tmp_path / "study"
    assert list(drawn) == ["AMAT", ""]
    assert drawn[""] == output / "margins.png"
    arm = drawn["AMAT"]
    run = output / "arms" / "amat" / "seed=0"
    last = torch.load(run / "models" / "resume_epoch=0002.pt", weights_only=True)["objects"]["margins"]["values"]
    assert arm.values.equal(last)
    assert arm.history["epoch"].tolist() == [1, 2]
    for group in set(arm.groups):
        members = torch.tensor([name == group for name in arm.groups])
        assert float(last[members].mean()) == pytest.approx(arm.history[f"mean[{group}]"].iloc[-1])


def test_costs_lie_beside_the_curve(study: Any, tmp_path: Path) -> None:
    study("sat:1", "amat_boundary").run()
    output = tmp_path / "study"
    costs = pd.read_csv(output / "costs.csv")
    assert costs["arm"].tolist() == ["SAT 1", "AMAT boundary"]
    margins = pd.read_csv(output / "arms" / "amat_boundary" / "seed=0" / "margins.csv")
    assert costs["gradient_evaluations"].tolist()[1] == margins["gradient_evaluations"].sum() > 0
    for i, arm in enumerate(("sat_1", "amat_boundary")):
        seconds = {
            name: json.loads((output / "arms" / name / "seed=0" / "train.json").read_text())["seconds"]
            for name in (arm, "std")
        }
        assert costs["training_seconds"][i] == seconds[arm]
        assert costs["seconds_per_epoch"][i] == pytest.approx(seconds[arm] / 2)
        # The clean network, which is no arm here, was trained for its thresholds.
        if seconds["std"]:
            assert costs["relative_to_std"][i] == pytest.approx(seconds[arm] / seconds["std"])
