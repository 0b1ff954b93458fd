"""Detections that several tests look at."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

Drawn = Callable[[int], tuple[list[Tensor], Tensor]]


@pytest.fixture(scope="session")
def drawn() -> Drawn:
    """By seed, detections and targets of six images: boxes found twice, once or never, well or badly, false alarms.

    The first image is empty. No two scores are equal, so that no order is left to chance.
    """

    def draw(seed: int) -> tuple[list[Tensor], Tensor]:
        rng = np.random.default_rng(seed)
        found, targets = [], torch.zeros(6, 6, 5)
        targets[..., 0] = -1
        for i in range(6):
            count = int(rng.integers(0, 6)) if i else 0
            corners = rng.integers(0, 60, (count, 2))
            boxes = np.concatenate([corners, corners + rng.integers(6, 30, (count, 2))], axis=1).astype(float)
            labels = rng.integers(0, 3, count)
            times = rng.integers(0, 3, count)
            near = np.repeat(boxes, times, axis=0) + rng.normal(0, 1.5, (int(times.sum()), 4)).round()
            near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
            alarms = rng.integers(0, 60, (int(rng.integers(0, 5)), 2))
            wrong = np.concatenate([alarms, alarms + rng.integers(6, 30, alarms.shape)], axis=1)
            kinds = np.concatenate([np.repeat(labels, times), rng.integers(0, 3, len(wrong))])
            scores = (rng.permutation(900)[: len(kinds)] + 1) / 1000 + i * 1e-5
            table = np.concatenate([np.concatenate([near, wrong]), scores[:, None], kinds[:, None]], axis=1)
            found.append(torch.tensor(table, dtype=torch.float32).reshape(-1, 6))
            targets[i, :count] = torch.tensor(np.concatenate([labels[:, None], boxes], axis=1), dtype=torch.float32)
        return found, targets

    return draw
