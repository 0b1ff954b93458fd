"""ADI and TVDI of any set of samples."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from monai_amat.tasks.segmentation import DiceIndexMetric
from monai_amat.tasks.segmentation.overlap import average_dice, dice_counts, total_dice


def rows(samples: int = 9) -> tuple[DiceIndexMetric, pd.DataFrame, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    logits, labels = (
        torch.randn(samples, 3, 3, 3, generator=draw),
        torch.randint(0, 3, (samples, 1, 3, 3), generator=draw),
    )
    labels[0] = 0
    labels[1][labels[1] == 2] = 0
    metric = DiceIndexMetric(num_classes=3)
    return metric, pd.DataFrame(metric.columns(logits, labels)), logits, labels


def test_the_figures_are_those_of_the_counts() -> None:
    metric, frame, logits, labels = rows()
    assert list(frame) == ["tp_1", "fp_1", "fn_1", "tp_2", "fp_2", "fn_2"]
    summary = metric.summary(frame)
    assert list(summary) == ["adi", "adi_every_class", "tvdi", "adi_1", "adi_2", "tvdi_1", "tvdi_2"]
    counts = dice_counts(logits, labels, 2)
    adi, tvdi = average_dice(counts), total_dice(counts)
    expected = [adi.mean, average_dice(counts, slices="every").mean, tvdi.mean, *adi.per_class, *tvdi.per_class]
    assert list(summary.values()) == [value.item() for value in expected]
    assert len({summary["adi"], summary["adi_every_class"], summary["tvdi"]}) == 3
    assert all(metric.higher_is_better(name) for name in summary) and metric.higher_is_better()


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
    metric = DiceIndexMetric(num_classes=2, prediction="sigmoid")
    columns = metric.columns(torch.tensor([[[1.0, -1.0], [1.0, 1.0]]]), torch.tensor([[[1, 1], [0, 1]]]))
    assert {name: value.item() for name, value in columns.items()} == {
        "tp_1": 1, "fp_1": 0, "fn_1": 1, "tp_2": 1, "fp_2": 1, "fn_2": 0,
    }  # fmt: skip


def test_columns_that_are_missing_are_named() -> None:
    metric, frame, _, _ = rows()
    with pytest.raises(KeyError, match="fn_2"):
        metric.summary(frame.drop(columns="fn_2"))


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="leaves no foreground class"):
        DiceIndexMetric(num_classes=1)
