"""A segmentation small enough to attack in milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from monai_amat.attacks import ProjectedGradientDescent
from monai_amat.data.indexed import IndexedDataset
from monai_amat.robustness import RobustnessCurve
from monai_amat.tasks.segmentation import DiceCELoss, DiceIndexMetric


class CountingNetwork(nn.Sequential):
    """A small convolutional network that counts the samples it sees, and can be made to fail."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.LeakyReLU(), nn.Conv2d(4, 3, 3, padding=1)
        )
        self._seen = 0
        self._fail_after: int | None = None

    @property
    def seen(self) -> int:
        return self._seen

    def fail_after(self, samples: int | None) -> None:
        self._fail_after = samples

    def forward(self, x: Tensor) -> Tensor:
        self._seen += len(x)
        if self._fail_after is not None and self._seen > self._fail_after:
            raise KeyboardInterrupt
        return super().forward(x)


def items(count: int = 10) -> list[dict[str, Any]]:
    """Slices of three volumes; every fourth is empty."""
    draw = torch.Generator().manual_seed(0)
    found = []
    for i in range(count):
        label = torch.randint(0, 3, (1, 8, 8), generator=draw) * (i % 4 != 3)
        image = label.float() + 0.3 * torch.randn(1, 8, 8, generator=draw)
        found.append({"image": image, "label": label, "case": f"00{i % 3}", "slice": i // 3})
    return found


@pytest.fixture
def network() -> CountingNetwork:
    torch.manual_seed(0)
    return CountingNetwork()


MakeCurve = Callable[..., RobustnessCurve]


@pytest.fixture
def make_curve(tmp_path: Path, network: CountingNetwork) -> MakeCurve:
    """Builds a curve over the ten slices; keywords replace its arguments."""

    def make(batch_size: int = 4, dataset: Any = None, **changes: Any) -> RobustnessCurve:
        data = IndexedDataset(items(), seed=3) if dataset is None else dataset
        arguments: dict[str, Any] = {
            "network": network,
            "data_loader": DataLoader(data, batch_size=batch_size),
            "loss": DiceCELoss(),
            "attack": ProjectedGradientDescent(steps=3, rel_step=0.5),
            "noise_levels": [0, 1, 2.5],
            "metric": DiceIndexMetric(num_classes=3),
            "output_dir": tmp_path / "run",
            "progress": False,
        }
        return RobustnessCurve(**arguments | changes)

    return make
