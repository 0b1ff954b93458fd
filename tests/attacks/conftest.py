"""A small classifier for the tests of the attacks."""

from __future__ import annotations

import pytest
import torch
from torch import nn


@pytest.fixture
def network() -> nn.Sequential:
    """A smooth convolutional classifier of 8 × 8 images into three classes, always with the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1),
            nn.Tanh(),
            nn.Conv2d(6, 6, 3, padding=1, stride=2),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(6 * 16, 3),
        )
