"""The robustness curve of a detector: the loss of raw outputs, the metric of decoded ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from monai_amat.attacks import ProjectedGradientDescent
from monai_amat.data.indexed import IndexedDataset
from monai_amat.engines import RawOutputsInferer
from monai_amat.robustness import RobustnessCurve
from monai_amat.tasks.detection import DetectionLoss, YOLOv5, decode_detections


class Objects:
    """Counts of objects, detected and true: a metric as small as one can be."""

    def columns(self, pred: Any, target: Any) -> dict[str, Tensor]:
        assert isinstance(pred, Tensor), "metrics see decoded boxes"
        assert pred.shape[1:] == (7, 84)
        found = decode_detections(pred, conf=1e-4)
        return {"found": torch.tensor([len(rows) for rows in found]), "true": (target[..., 0] >= 0).sum(1)}

    def summary(self, frame: pd.DataFrame, weights: np.ndarray | None = None) -> dict[str, Any]:
        ones = np.ones(len(frame)) if weights is None else weights
        return {"found": (ones * frame["found"].to_numpy()).sum(-1)}


def items() -> list[dict[str, Any]]:
    draw = torch.Generator().manual_seed(0)
    found = []
    for number in range(3):
        target = torch.tensor([[number, 8.0, 8, 40, 40], [-1, 0, 0, 0, 0]])
        found.append({"image": torch.rand(3, 64, 64, generator=draw), "label": target, "case": f"cell_{number}"})
    return found


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


def curve(network: YOLOv5, folder: Path, **changes: Any) -> RobustnessCurve:
    return RobustnessCurve(
        **{
            "network": network,
            "data_loader": DataLoader(IndexedDataset(items(), seed=3), batch_size=2),
            "loss": DetectionLoss(network),
            "attack": ProjectedGradientDescent(steps=2, rel_step=0.5, clip_range=(0.0, 1.0)),
            "noise_levels": [0, 2.0],
            "metric": Objects(),
            "inferer": RawOutputsInferer(),
            "output_dir": folder,
            "group_key": "sample_id",
            "extra_keys": ["case"],
            "progress": False,
            **changes,
        }
    )


def test_a_curve_holds_loss_and_metric_and_is_resumed(network: YOLOv5, tmp_path: Path) -> None:
    rows = curve(network, tmp_path).run()
    assert rows["case"].tolist() == ["cell_0", "cell_1", "cell_2"] * 2
    assert rows["true"].tolist() == [1] * 6
    clean, noisy = (rows[rows["noise_level"] == level]["loss"].to_numpy() for level in (0, 2))
    assert (noisy > clean).all()
    loss = DetectionLoss(network)
    network.eval()
    with torch.no_grad():
        expected = [float(loss(network.raw(item["image"][None]), item["label"][None])) for item in items()]
    np.testing.assert_allclose(clean, expected, rtol=1e-4)
    # A new loss object, over the same network, is the same setting: nothing is computed again.
    again = curve(network, tmp_path, loss=loss).run()
    pd.testing.assert_frame_equal(rows, again)


def test_without_raw_outputs_it_says_what_to_give(network: YOLOv5, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"inferer=monai_amat\.engines\.RawOutputsInferer\(\)"):
        curve(network, tmp_path, inferer=None).run()
