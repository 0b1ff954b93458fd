"""Average IoU and mAP out of a robustness curve: text beside numbers in its rows, stopped and gone on with."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset

from monai_amat.attacks import ProjectedGradientDescent
from monai_amat.data.indexed import IndexedDataset
from monai_amat.engines import RawOutputsInferer
from monai_amat.robustness import RobustnessCurve, compare, table_text
from monai_amat.tasks.detection import DetectionLoss, DetectionMetric, YOLOv5, decode_detections

NAMES = ("RBC", "WBC", "Platelets")


@pytest.fixture(scope="module")
def network() -> YOLOv5:
    torch.manual_seed(0)
    built = YOLOv5(3, "n").train()
    for layer in built.modules():  # statistics of its own activations: else it would hardly see its image
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        built(torch.stack([item["image"] for item in items()]))
    return built


def items() -> list[dict[str, Any]]:
    draw = torch.Generator().manual_seed(0)
    target = torch.tensor([[0, 8.0, 8, 40, 40], [1, 20, 20, 60, 60], [-1, 0, 0, 0, 0]])
    return [{"image": torch.rand(3, 64, 64, generator=draw), "label": target, "case": f"00{i}"} for i in range(4)]


def run(network: YOLOv5, folder: Path, count: int = 4) -> pd.DataFrame:
    return RobustnessCurve(
        network=network,
        data_loader=DataLoader(Subset(IndexedDataset(items(), seed=3), range(count)), batch_size=2),
        loss=DetectionLoss(network),
        attack=ProjectedGradientDescent(steps=2, rel_step=0.5, clip_range=(0, 1)),
        noise_levels=[0, 1],
        # Without training every cell is a poor detection, and all of them count.
        metric=DetectionMetric(classes=NAMES, min_score=0.0, decode=functools.partial(decode_detections, conf=1e-5)),
        output_dir=folder,
        extra_keys=(),
        inferer=RawOutputsInferer(),
        progress=False,
    ).run()


def test_rows_hold_texts_and_figures_have_intervals(network: YOLOv5, tmp_path: Path) -> None:
    rows = run(network, tmp_path / "whole")
    assert rows["detections"].str.match(r"^\d:\d(\.\d+)?:[01]{10}( |$)").all()
    assert rows["true_RBC"].tolist() == [1.0] * 8
    summary = json.loads((tmp_path / "whole" / "summary.json").read_text())
    for name in ("iou_true", "iou_detected", "map", "map50"):
        figure = summary["levels"]["1"][name]
        assert figure["low"] <= figure["value"] <= figure["high"]
    assert summary["metric"]["decode"]["keywords"] == {"conf": 1e-5}
    # Stopped after half of the images, and gone on with: the same bytes.
    run(network, tmp_path / "parts", count=2)
    pd.testing.assert_frame_equal(run(network, tmp_path / "parts"), rows, check_exact=True)
    files = [(tmp_path / name / "robustness.csv").read_bytes() for name in ("whole", "parts")]
    assert files[0] == files[1]
    table = compare(
        {"STD": tmp_path / "whole", "AMAT": tmp_path / "parts"}, metric=DetectionMetric(classes=NAMES), samples=20
    )
    assert table_text(table, name="map").count("[") == 6
