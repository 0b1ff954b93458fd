"""Suites in a curve: the worst of several attacks, which one it was, and what tables say of the attack."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from monai_amat.attacks import AutoProjectedGradientDescent, Linf, Member, ProjectedGradientDescent, WorstOf
from monai_amat.handlers.metric import figures_of_each
from monai_amat.robustness import RobustnessCurve, attack_suite
from monai_amat.tasks.detection import DetectionMetric, MatchedConfidence, detection_suite
from monai_amat.tasks.landmarks import HeatmapLikelihood, RadialErrorMetric, landmark_suite
from monai_amat.tasks.segmentation import DiceIndexMetric, SmoothDiceIndex, segmentation_suite

METRIC = DiceIndexMetric(num_classes=3)
MakeCurve = Callable[..., RobustnessCurve]


def test_a_curve_of_a_suite_is_the_worst_of_its_attacks_sample_by_sample(make_curve: MakeCurve, tmp_path: Path) -> None:
    suite: Any = segmentation_suite(metric=METRIC, steps=4)
    rows = make_curve(attack=suite, noise_levels=[1.0], output_dir=tmp_path / "suite").run()
    alone = {}
    for name, member in suite.members.items():
        curve = make_curve(
            attack=member.attack, attack_loss=member.loss, noise_levels=[1.0], output_dir=tmp_path / f"alone-{name}"
        )
        alone[name] = figures_of_each(METRIC, curve.run())["adi"]
    together = figures_of_each(METRIC, rows)["adi"]
    counted = ~np.isnan(together)
    np.testing.assert_allclose(together[counted], np.minimum(alone["loss"], alone["smooth-adi"])[counted], atol=1e-6)
    for name, figure, first, second in zip(rows["attack"], together, alone["loss"], alone["smooth-adi"], strict=True):
        if not np.isnan(figure) and abs(first - second) > 1e-6:
            assert name == ("loss" if first < second else "smooth-adi")
    assert set(rows["attack"]) == {"loss", "smooth-adi"}


def test_tables_and_summaries_say_which_attack_was_used(make_curve: MakeCurve, tmp_path: Path) -> None:
    for name, words in (("worst", "worst per sample of: 3 steps of Auto-PGD (L2)"), ("paper", "100 steps of 0.05·ε")):
        folder = tmp_path / name
        attack = segmentation_suite(name, metric=METRIC, steps=3)  # type: ignore[arg-type]
        make_curve(attack=attack, noise_levels=[0.0], output_dir=folder).run()
        assert f"\n- Attack: {words}" in (folder / "table.md").read_text()
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["attack_in_words"].startswith(words)
        assert "attack" not in pd.read_csv(folder / "robustness.csv") or name == "worst"


def test_samples_whose_figure_is_0_save_work(make_curve: MakeCurve) -> None:
    """At a huge radius the first attack leaves nothing of most slices, so that the second is spared them."""
    curve = make_curve(attack=segmentation_suite(metric=METRIC, steps=6), noise_levels=[60.0])
    curve.run()
    level = json.loads((curve.output_dir / "summary.json").read_text())["levels"]["60"]
    assert 6 < level["gradient_evaluations"] < 12


def test_each_task_has_its_suite() -> None:
    landmarks: Any = landmark_suite(metric=RadialErrorMetric(landmarks=2), norm="inf", clip_range=(-1.0, 1.0), steps=7)
    assert isinstance(landmarks.norm, Linf)
    assert not landmarks.higher_is_better
    assert isinstance(landmarks.members["likelihood"].loss, HeatmapLikelihood)
    assert {member.attack.steps for member in landmarks.members.values()} == {7}
    assert landmarks.members["loss"].attack.clip_range == (-1.0, 1.0)
    detection: Any = detection_suite(metric=DetectionMetric(classes=["a"]), network=lambda pred: pred)
    assert isinstance(detection.members["matched-confidence"].loss, MatchedConfidence)
    assert detection.done_at == 0.0
    paper = detection_suite("paper", metric=DetectionMetric(classes=["a"]), network=lambda pred: pred)
    assert str(paper) == str(ProjectedGradientDescent(steps=100, rel_step=0.05))
    with pytest.raises(ValueError, match=r"suite must be one of .* got 'best'"):
        attack_suite("best", metric=METRIC, losses={})  # type: ignore[arg-type]


def test_a_suite_may_be_made_by_hand(make_curve: MakeCurve) -> None:
    attack = AutoProjectedGradientDescent(steps=2)
    suite = WorstOf(attacks={"loss": attack, "smooth": Member(attack, SmoothDiceIndex())})
    rows = make_curve(attack=suite, noise_levels=[1.0]).run()
    # Without a metric the highest loss of the evaluation decides.
    assert set(rows["attack"]) <= {"loss", "smooth"}
