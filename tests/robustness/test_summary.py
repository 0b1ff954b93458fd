"""Figures by noise level and on average, of one run and of several seeds."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from monai_amat.robustness import AVERAGE, summarise
from monai_amat.robustness.summary import nested
from monai_amat.tasks.segmentation import DiceIndexMetric

METRIC = DiceIndexMetric(num_classes=2)


def rows(scale: int = 1) -> pd.DataFrame:
    """Two volumes of two slices each at noise 10, 0 and 2.5; slice 3 is empty."""
    parts = []
    for level, hits in ((10.0, [0, 1, 2, 0]), (0.0, [4, 4, 4, 0]), (2.5, [2, 2, 4, 0])):
        missed = [0 if i == 3 else 4 * scale - hit for i, hit in enumerate(hits)]
        part = pd.DataFrame({"tp_1": hits, "fp_1": [0, 0, 0, 0], "fn_1": missed})
        part.insert(0, "noise_level", level)
        part.insert(1, "sample_id", range(4))
        part.insert(2, "case", ["a", "a", "b", "b"])
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def value(table: pd.DataFrame, level: float | str, name: str, column: str = "value") -> float:
    return float(table.loc[(table["noise_level"] == level) & (table["name"] == name), column].item())


def test_levels_in_order_the_average_last_the_headline_first() -> None:
    table = summarise(rows(), METRIC, samples=50)
    assert list(dict.fromkeys(table["noise_level"])) == [0.0, 2.5, 10.0, AVERAGE]
    assert table["name"].iloc[0] == "adi"
    assert value(table, 0.0, "adi") == 1.0
    assert value(table, 2.5, "adi") == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert value(table, 2.5, "tvdi") == pytest.approx(16 / 20)
    assert value(table, AVERAGE, "adi") == pytest.approx(np.mean([value(table, x, "adi") for x in (0.0, 2.5, 10.0)]))
    # Two volumes: every resample is a, b, or both, so the bounds are those of the volumes alone.
    assert value(table, 2.5, "adi", "low") == pytest.approx(2 / 3)
    assert value(table, 2.5, "adi", "high") == pytest.approx(1.0)
    assert set(table["seeds"]) == {1}


def test_several_seeds_give_their_mean_and_range() -> None:
    one, other = rows(), rows(scale=2)
    table = summarise(pd.concat([one.assign(seed=1), other.assign(seed=5)]), METRIC, samples=50)
    singles = [summarise(frame, METRIC, samples=50) for frame in (one, other)]
    for level in (0.0, 2.5, 10.0, AVERAGE):
        values = [value(single, level, "adi") for single in singles]
        assert value(table, level, "adi") == pytest.approx(np.mean(values))
        assert value(table, level, "adi", "seed_min") == pytest.approx(min(values))
        assert value(table, level, "adi", "seed_max") == pytest.approx(max(values))
    assert set(table["seeds"]) == {2}


def test_json_has_null_for_what_is_not_defined() -> None:
    frame = rows()
    frame = frame[frame["case"] == "a"]
    figures = nested(summarise(frame, METRIC, samples=10))
    assert list(figures) == ["0", "2.5", "10", "Avg"]
    assert figures["0"]["adi"] == {"value": 1.0, "low": None, "high": None}
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


def test_rows_of_something_else_are_refused() -> None:
    with pytest.raises(ValueError, match=r"lack the columns \['case', 'noise_level'\]"):
        summarise(pd.DataFrame({"x": [1]}), METRIC)
