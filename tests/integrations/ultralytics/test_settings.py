from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from monai_amat.attacks import FullStart, InnerStart
from monai_amat.integrations.ultralytics import AMATSettings
from monai_amat.margins import RunningThresholds, Thresholds


def test_the_defaults_are_the_papers_for_blood_cells() -> None:
    settings = AMATSettings()
    attack, rule = settings.attack(), settings.rule()
    assert (attack.steps, attack.rel_step, attack.clip_range) == (20, 0.25, (0.0, 1.0))
    assert attack.random_start == InnerStart(2.5)
    assert (rule.step, rule.max_margin) == (2.5, 15.0)
    running = settings.acceptance().thresholds
    assert isinstance(running, RunningThresholds)
    assert running.k == 2.0


@pytest.mark.parametrize(("total", "warmup"), [(None, 500), (4, 1), (200, 20), (100_000, 500)])
def test_by_default_margins_wait_for_a_tenth_of_the_training(total: int | None, warmup: int) -> None:
    settings = AMATSettings()
    running = settings.acceptance(total).thresholds
    assert isinstance(running, RunningThresholds)
    assert running.warmup == warmup
    assert settings.plain(total)["thresholds"]["warmup"] == warmup


def test_a_constant_radius_starts_anywhere_and_is_not_adaptive() -> None:
    settings = AMATSettings(radius=0.0)
    assert not settings.adaptive
    assert settings.attack().random_start == FullStart()


def test_running_thresholds_are_copied_for_each_training() -> None:
    settings = AMATSettings(thresholds=RunningThresholds(warmup=1))
    first, second = (settings.acceptance().thresholds for _ in range(2))
    assert isinstance(first, RunningThresholds)
    assert isinstance(second, RunningThresholds)
    first.update({"box": torch.ones(3)})
    assert first.ready
    assert not second.ready


def test_thresholds_come_from_a_file_an_object_or_a_mapping(tmp_path: Path) -> None:
    values = {"box": 1.0, "cls": 2.0, "dfl": 3.0}
    Thresholds(values).save(tmp_path / "xi.json")
    for given in (tmp_path / "xi.json", str(tmp_path / "xi.json"), Thresholds(values), values):
        assert AMATSettings(thresholds=given).acceptance().judged == {"box", "cls", "dfl"}
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json"):
        AMATSettings(thresholds=tmp_path / "nowhere.json").acceptance()


def test_margins_say_what_they_were_accepted_by(tmp_path: Path) -> None:
    values = {"box": 1.0, "cls": 2.0, "dfl": 3.0}
    Thresholds(values).save(tmp_path / "xi.json")
    for given in (tmp_path / "xi.json", Thresholds(values), values):
        assert AMATSettings(thresholds=given).plain()["thresholds"] == values
    running = AMATSettings(thresholds=RunningThresholds(k=1.0, momentum=0.5, warmup=3))
    assert running.plain()["thresholds"] == {"k": 1.0, "momentum": 0.5, "warmup": 3}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"radius": -1.0}, r"radius \(ε\) must be finite and not negative, got -1\.0"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"step": 0.0}, "must be positive"),
        ({"max_margin": 1.0}, "max_margin must be at least 2.5"),
        ({"alpha": 0.0}, "rel_step"),
    ],
)
def test_settings_out_of_range(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AMATSettings(**wrong)
