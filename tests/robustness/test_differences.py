"""Paired differences: on the same samples, with the same resamples, seed by seed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from monai_amat.robustness import AVERAGE, compare, differences, table_text
from monai_amat.tasks.segmentation import DiceIndexMetric

METRIC = DiceIndexMetric(num_classes=2)


def rows(gain: int = 0, *, seed: int = 0, cases: int = 12) -> pd.DataFrame:
    """Slices whose Dice varies widely from case to case, and `gain` more true voxels in each."""
    rng = np.random.default_rng(seed)
    hits = np.repeat(rng.integers(5, 90, cases), 2)
    frames = []
    for level in (0.0, 4.0):
        found = np.maximum(hits - int(level), 1) + gain
        frames.append(
            pd.DataFrame(
                {
                    "noise_level": level,
                    "sample_id": np.arange(2 * cases),
                    "case": [f"case_{i // 2}" for i in range(2 * cases)],
                    **{"tp_1": found, "fp_1": 100 - found, "fn_1": 100 - found},
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def test_a_small_gain_on_every_sample_is_told_where_intervals_of_the_arms_overlap() -> None:
    arms = {"SAT": rows(), "AMAT": rows(gain=2)}
    table = differences(arms, metric=METRIC, reference="SAT")
    adi = table[table["name"] == "adi"]
    assert set(adi["arm"]) == {"AMAT − SAT"}
    assert list(adi["noise_level"]) == [0.0, 4.0, AVERAGE]
    # Dice is tp / 100 here: two voxels are 0.02 on every slice, whichever cases are drawn.
    assert adi[["value", "low", "high"]].to_numpy() == pytest.approx(0.02, abs=1e-9)
    single = compare(arms, metric=METRIC)
    sat, amat = single[(single["name"] == "adi") & (single["noise_level"] == AVERAGE)].to_dict("records")
    assert amat["low"] < sat["high"]


def test_the_interval_is_that_of_the_difference_by_case() -> None:
    """Against a bootstrap written out: draw cases, average the differences of their slices."""
    one, other = rows(), rows(seed=5)
    table = differences({"a": one, "b": other}, metric=METRIC, reference="b", samples=4000)
    row = table[(table["name"] == "adi") & (table["noise_level"] == 0.0)].iloc[0]
    by_case = (one["tp_1"] - other["tp_1"])[one["noise_level"] == 0.0].to_numpy().reshape(-1, 2).mean(axis=1) / 100
    rng = np.random.default_rng(1)
    drawn = [by_case[rng.integers(0, len(by_case), len(by_case))].mean() for _ in range(4000)]
    assert row["value"] == pytest.approx(by_case.mean())
    assert [row["low"], row["high"]] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.02)


def test_several_seeds_give_the_mean_and_range_of_their_differences() -> None:
    arms = {"SAT": {0: rows(), 1: rows(seed=1)}, "AMAT": {0: rows(gain=2), 1: rows(gain=6, seed=1)}}
    table = differences(arms, metric=METRIC, reference="SAT")
    row = table[(table["name"] == "adi") & (table["noise_level"] == AVERAGE)].iloc[0]
    assert [row["value"], row["seed_min"], row["seed_max"]] == pytest.approx([0.04, 0.02, 0.06])
    assert row["seeds"] == 2
    assert "AMAT − SAT" in table_text(table) and "(0.020–0.060)" in table_text(table)


def test_what_cannot_be_compared_is_said() -> None:
    with pytest.raises(ValueError, match=r"one of the arms \['AMAT', 'SAT'\], got 'STD'"):
        differences({"SAT": rows(), "AMAT": rows()}, metric=METRIC, reference="STD")
    with pytest.raises(ValueError, match="nothing to compare 'SAT' with"):
        differences({"SAT": rows()}, metric=METRIC, reference="SAT")
    with pytest.raises(ValueError, match="different seeds cannot be compared run by run"):
        differences({"SAT": {0: rows()}, "AMAT": {1: rows()}}, metric=METRIC, reference="SAT")
