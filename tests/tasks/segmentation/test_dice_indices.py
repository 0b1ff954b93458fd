"""ADI and TVDI as a robustness metric."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from monai_amat.tasks.segmentation import AverageDiceIndex, DiceIndices, TotalVoxelDiceIndex


def rows(samples: int = 9) -> tuple[DiceIndices, pd.DataFrame, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    logits, labels = (
        torch.randn(samples, 3, 3, 3, generator=draw),
        torch.randint(0, 3, (samples, 1, 3, 3), generator=draw),
    )
    labels[0] = 0
    labels[1][labels[1] == 2] = 0
    metric = DiceIndices(num_classes=3)
    return metric, pd.DataFrame(metric.columns(logits, labels)), logits, labels


def test_agrees_with_the_cumulative_metrics() -> None:
    metric, frame, logits, labels = rows()
    assert list(frame) == ["tp_1", "fp_1", "fn_1", "tp_2", "fp_2", "fn_2"]
    summary = metric.summary(frame)
    assert list(summary) == ["adi", "adi_every_class", "tvdi", "adi_1", "adi_2", "tvdi_1", "tvdi_2"]
    for name, cumulative in (
        ("adi", AverageDiceIndex(num_classes=3)),
        ("adi_every_class", AverageDiceIndex(num_classes=3, slices="every")),
        ("tvdi", TotalVoxelDiceIndex(num_classes=3)),
    ):
        cumulative(logits, labels)
        assert summary[name] == cumulative.aggregate().item()
    assert len({summary["adi"], summary["adi_every_class"], summary["tvdi"]}) == 3


def test_weights_are_repetitions_with_any_leading_axes() -> None:
    metric, frame, _, _ = rows()
    weights = np.random.default_rng(0).integers(0, 3, size=(2, 5, len(frame)))
    weighted = metric.summary(frame, weights)
    for where in np.ndindex(2, 5):
        repeated = metric.summary(frame.loc[np.repeat(frame.index, weights[where])])
        for name, values in weighted.items():
            assert values.shape == (2, 5)
            assert values[where] == pytest.approx(repeated[name], nan_ok=True)


def test_sigmoid_has_no_background_channel() -> None:
    metric = DiceIndices(num_classes=2, prediction="sigmoid")
    columns = metric.columns(torch.tensor([[[1.0, -1.0], [1.0, 1.0]]]), torch.tensor([[[1, 1], [0, 1]]]))
    assert {name: value.item() for name, value in columns.items()} == {
        "tp_1": 1, "fp_1": 0, "fn_1": 1, "tp_2": 1, "fp_2": 1, "fn_2": 0,
    }  # fmt: skip


def test_columns_that_are_missing_are_named() -> None:
    metric, frame, _, _ = rows()
    with pytest.raises(KeyError, match="fn_2"):
        metric.summary(frame.drop(columns="fn_2"))
