"""Average IoU and mAP as a robustness metric."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from monai_amat.robustness.store import read_rows, write_rows
from monai_amat.robustness.summary import summarise
from monai_amat.tasks.detection import DetectionMetric
from monai_amat.tasks.detection.average_iou import average_iou, iou_sums
from monai_amat.tasks.detection.detections import samples
from monai_amat.tasks.detection.mean_average_precision import match_detections, mean_average_precision

CLASSES = ("RBC", "WBC", "Platelets")
Drawn = Callable[[int], Any]


def rows(drawn: Drawn, seed: int = 0, **settings: Any) -> tuple[DetectionMetric, pd.DataFrame, Any, Any]:
    found, true = drawn(seed)
    metric = DetectionMetric(classes=CLASSES, **settings)
    return metric, pd.DataFrame(metric.columns(found, true)), found, true


def test_the_figures_are_those_of_sums_and_matches(drawn: Drawn) -> None:
    metric, frame, found, true = rows(drawn)
    parts = ("true", "iou_true", "detected", "iou_detected")
    assert list(frame) == [*(f"{part}_{name}" for name in CLASSES for part in parts), "detections"]
    summary = metric.summary(frame)
    kinds = ("iou_true", "iou_detected", "map", "map50")
    assert list(summary) == [*kinds, *(f"{kind}_{name}" for kind in kinds for name in CLASSES)]
    batch = samples(found, true, len(CLASSES))
    sums = iou_sums(batch, len(CLASSES))
    of_true, of_detected = average_iou(sums), average_iou(sums, over="detected")
    precision = mean_average_precision(match_detections(batch, len(CLASSES)))
    expected = [of_true.mean, of_detected.mean, precision.map, precision.map50]
    expected += [*of_true.per_class, *of_detected.per_class, *precision.per_class, *precision.per_class50]
    assert list(summary.values()) == pytest.approx([value.item() for value in expected], rel=0, abs=0, nan_ok=True)
    assert len({summary[kind] for kind in kinds}) == 4
    assert metric.higher_is_better() and metric.higher_is_better("map50_RBC")


def test_weights_are_repetitions_with_any_leading_axes(drawn: Drawn) -> None:
    metric, frame, _, _ = rows(drawn, seed=2)
    weights = np.random.default_rng(0).integers(0, 3, size=(2, 4, len(frame)))
    weighted = metric.summary(frame, weights)
    for where in np.ndindex(2, 4):
        repeated = metric.summary(frame.loc[np.repeat(frame.index, weights[where])])
        for name, values in weighted.items():
            assert values.shape == (2, 4)
            assert values[where] == pytest.approx(repeated[name], nan_ok=True)


def test_rows_survive_their_file(drawn: Drawn, tmp_path: Path) -> None:
    metric, frame, _, _ = rows(drawn)
    frame.insert(0, "case", [f"00{i}" for i in range(len(frame))])
    write_rows(tmp_path / "rows.csv", frame)
    again = read_rows(tmp_path / "rows.csv", text_columns=["case"])
    assert again["detections"].tolist() == frame["detections"].tolist()
    assert metric.summary(again) == pytest.approx(metric.summary(frame), nan_ok=True)


def test_rows_without_any_detection_survive_as_well(drawn: Drawn, tmp_path: Path) -> None:
    _, true = drawn(0)
    metric = DetectionMetric(classes=CLASSES)
    frame = pd.DataFrame(metric.columns([torch.zeros(0, 6)] * len(true), true))
    write_rows(tmp_path / "rows.csv", frame)
    summary = metric.summary(read_rows(tmp_path / "rows.csv", text_columns=[]))
    assert (summary["iou_true"], summary["map"], summary["map50"]) == (0, 0, 0)
    assert np.isnan(summary["iou_detected"])


def test_every_score_is_kept_to_the_last_bit() -> None:
    metric = DetectionMetric(classes=["RBC"])
    scores = torch.rand(200, generator=torch.Generator().manual_seed(0)) ** 8  # down to 1e-20 and less
    found = torch.cat([torch.tensor([[0.0, 0, 5, 5]]).expand(200, 4), scores[:, None], torch.zeros(200, 1)], dim=1)
    text = pd.DataFrame(metric.columns([found], torch.full((1, 1, 5), -1.0)))["detections"][0]
    kept = torch.from_numpy(np.array([entry.split(":")[1] for entry in text.split(" ")], dtype=np.float32))
    assert torch.equal(kept, scores.sort(descending=True).values)


def test_intervals_by_bootstrap(drawn: Drawn) -> None:
    metric, frame, _, _ = rows(drawn, seed=4)
    frame = pd.concat([frame.assign(noise_level=level, case=range(len(frame))) for level in (0.0, 1.0)])
    table = summarise(frame.reset_index(drop=True), metric, samples=50)
    found: dict[Any, Any] = {(row["noise_level"], row["name"]): row for row in table.to_dict("records")}
    for name in ("iou_true", "map"):
        one = found[1.0, name]
        assert one["low"] < one["value"] < one["high"]
        assert found["Avg", name]["value"] == pytest.approx(one["value"])


def test_settings_reach_the_figures(drawn: Drawn) -> None:
    _, usual, found, true = rows(drawn)
    metric, strict, _, _ = rows(drawn, min_score=0.8, max_detections=1)
    assert strict["detected_RBC"].sum() < usual["detected_RBC"].sum()
    assert all(len(text.split(" ")) == 1 for text in strict["detections"])
    assert metric.summary(strict)["map"] < DetectionMetric(classes=CLASSES).summary(usual)["map"]
    decoding = DetectionMetric(classes=CLASSES, decode=lambda pred: [found[int(i)] for i in pred])
    pd.testing.assert_frame_equal(pd.DataFrame(decoding.columns(torch.arange(len(found)), true)), usual)
    with pytest.raises(ValueError, match="max_detections must be at least 1, got 0"):
        DetectionMetric(classes=CLASSES, max_detections=0)
    with pytest.raises(ValueError, match="different names"):
        DetectionMetric(classes=["RBC", "RBC"])


@pytest.mark.parametrize("text", ["0:0.5", "x:0.5:1111111111", "0:0.5:2", "", float("nan")])
def test_texts_of_another_kind_are_refused(drawn: Drawn, text: Any) -> None:
    metric, frame, _, _ = rows(drawn)
    with pytest.raises(ValueError, match="'detections' is not one of DetectionMetric"):
        metric.summary(frame.assign(detections=text))
    with pytest.raises(KeyError, match="true_WBC"):
        metric.summary(frame.drop(columns="true_WBC"))
