from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from monai_amat.tasks.detection import ClassicYOLOv5, decode_detections


class Detector(nn.Module):
    """Outputs of a classic network with two levels, one cell each, whatever the image."""

    def __init__(self, output: Any = None) -> None:
        super().__init__()
        self.output = output

    def forward(self, image: Tensor) -> Any:
        assert type(image) is Tensor
        if self.output is not None:
            return self.output
        levels = [torch.full((len(image), 3, 1, 1, 7), float(level)) for level in range(2)]
        decoded = torch.zeros(len(image), 6, 7)
        decoded[:, 0] = torch.tensor([10.0, 12, 4, 8, 0.8, 0.25, 0.5])
        return levels if self.training else (decoded, levels)


def test_training_gives_the_levels() -> None:
    network = ClassicYOLOv5(Detector())
    for levels in (network(torch.zeros(2, 3, 8, 8)), network.raw(torch.zeros(2, 3, 8, 8))):
        assert [tuple(level.shape) for level in levels] == [(2, 3, 1, 1, 7)] * 2


def test_evaluation_gives_what_yolov5_gives() -> None:
    network = ClassicYOLOv5(Detector()).eval()
    decoded = network(torch.zeros(2, 3, 8, 8))
    assert decoded.shape == (2, 6, 6)
    torch.testing.assert_close(decoded[1, :, 0], torch.tensor([10.0, 12, 4, 8, 0.2, 0.4]))
    (found, _) = decode_detections(decoded)
    torch.testing.assert_close(found, torch.tensor([[8.0, 8, 12, 16, 0.4, 1]]))


def test_raw_in_evaluation_carries_both() -> None:
    network = ClassicYOLOv5(Detector()).eval()
    raw = network.raw(torch.zeros(2, 3, 8, 8))
    assert torch.equal(raw["decoded"], network(torch.zeros(2, 3, 8, 8)))
    assert [float(level.mean()) for level in raw["levels"]] == [0, 1]


@pytest.mark.parametrize(
    ("training", "output", "message"),
    [
        (True, torch.zeros(2, 7), r"got a tensor \(2, 7\)"),
        (True, [torch.zeros(2, 7)], r"got list of a tensor \(2, 7\)"),
        (False, torch.zeros(2, 6, 7), r"first in evaluation mode, got a tensor"),
        (False, (torch.zeros(2, 6, 7),), r"got a NoneType"),
        (False, {}, "got a dict"),
    ],
)
def test_other_outputs_say_what_is_expected(training: bool, output: Any, message: str) -> None:
    network = ClassicYOLOv5(Detector(output)).train(training)
    with pytest.raises(TypeError, match=message):
        network.raw(torch.zeros(2, 3, 8, 8))
