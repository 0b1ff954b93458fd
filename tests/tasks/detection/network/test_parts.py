from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from monai_amat.tasks.detection import DetectionParts, YOLOv5
from monai_amat.tasks.detection.network.quiet_import import from_ultralytics


def test_cells_of_half_precision_outputs_are_still_told_apart() -> None:
    parts = YOLOv5(1, "n").parts
    raw = {
        "feats": [torch.zeros(1, 1, 2, 400, dtype=torch.bfloat16), torch.zeros(1, 1, 1, 200), torch.zeros(1, 1, 1, 100)]
    }
    centres, strides = parts.cells(raw, torch.float32)
    assert centres.dtype == strides.dtype == torch.float32
    assert torch.equal(centres[:400, 0], torch.arange(400) + 0.5)
    assert centres[400].tolist() == [0.5, 1.5]
    assert strides.flatten().unique().tolist() == [8, 16, 32]


def test_hand_worked_pieces() -> None:
    parts = YOLOv5(2, "n").parts
    # All weight on 2 cells to each side, then half on 2 and half on 3.
    sides = torch.full((1, 2, 4, 16), -50.0)
    sides[0, 0, :, 2] = 50.0
    sides[0, 1, :, 2:4] = 50.0
    boxes = parts.boxes(sides.reshape(1, 2, 64), torch.tensor([[3.5, 4.5], [10.0, 10.0]]))
    torch.testing.assert_close(boxes[0], torch.tensor([[1.5, 2.5, 5.5, 6.5], [7.5, 7.5, 12.5, 12.5]]))
    loss = parts.distribution_loss(
        sides.reshape(2, 64), torch.tensor([[3.5, 4.5], [10.0, 10.0]]), torch.tensor([[1.5, 2.5, 5.5, 6.5]] * 2)
    )
    assert float(loss[0]) == pytest.approx(0.0, abs=1e-4)
    same = parts.distribution_loss(
        sides[:, 1].reshape(1, 64), torch.tensor([[10.0, 10.0]]), torch.tensor([[7.5, 7.5, 12.5, 12.5]])
    )
    assert float(same[0]) == pytest.approx(0.6931, abs=1e-3)  # half on each of two bins: ln 2
    assert float(parts.iou(torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([[0.0, 0, 4, 4]]))) == pytest.approx(1.0)
    concentric = parts.iou(torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([[1.0, 1, 3, 3]]))
    assert float(concentric) == pytest.approx(0.25, abs=1e-4)  # same centre and shape: the plain IoU, 4 / 16


def test_a_model_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="ends in Detect, got Sequential"):
        DetectionParts(nn.Sequential(nn.Linear(1, 1)))
    model = copy.deepcopy(YOLOv5(1, "n").model)
    model.model[-1].one2one_cv2 = nn.ModuleList()
    with pytest.raises(ValueError, match="a head with box distributions that is not end-to-end"):
        DetectionParts(model)


def test_gains_are_those_the_model_was_given() -> None:
    network = YOLOv5(1, "n")
    assert network.parts.gains == {
        name: getattr(from_ultralytics("DEFAULT_CFG"), name) for name in ("box", "cls", "dfl")
    }
    network.model.args = {"box": 1.0, "cls": 2, "dfl": 3.0}  # a checkpoint holds them as a dictionary
    assert network.parts.gains == {"box": 1.0, "cls": 2.0, "dfl": 3.0}
