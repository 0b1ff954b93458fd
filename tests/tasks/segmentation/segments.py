"""Logits and labels for the tests of Dice with cross-entropy."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

SIZES = [(7, 6), (4, 5, 3)]


def make(
    batch: int, channels: int, size: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Logits, and a label map in which class 1 is absent from sample 0."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(batch, channels, *size, generator=generator, dtype=dtype)
    labels = torch.randint(0, channels, (batch, 1, *size), generator=generator)
    labels[0][labels[0] == 1] = 0
    return logits, labels


def each(loss: Any, logits: Tensor, target: Any) -> Tensor:
    """A batch-reducing loss of batches of one."""
    return torch.stack([loss(logits[i : i + 1], target[i : i + 1]) for i in range(len(logits))])
