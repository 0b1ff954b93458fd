"""The bootstrap against its own definition, and that its intervals cover what they should."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from monai_amat.robustness import bootstrap, by_repetition, summarise
from monai_amat.robustness.resampling import resampled_groups
from monai_amat.robustness.summary import by_noise_level
from monai_amat.tasks.segmentation import DiceIndexMetric


def frame_of(rows: int, groups: int, levels: int = 1, seed: int = 0) -> pd.DataFrame:
    draw = np.random.default_rng(seed)
    parts = []
    for level in range(levels):
        part = pd.DataFrame({f"{kind}_{c}": draw.integers(0, 9, rows) for c in (1, 2) for kind in ("tp", "fp", "fn")})
        part.insert(0, "noise_level", float(level))
        part.insert(1, "sample_id", range(rows))
        part.insert(2, "case", [f"case_{i % groups}" for i in range(rows)])
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def test_equals_drawing_groups_and_computing_anew() -> None:
    frame, metric = frame_of(14, 5), DiceIndexMetric(num_classes=3)
    fast = bootstrap(frame, metric.summary, group="case", samples=60, seed=4, level=0.9)
    cases = sorted(frame["case"].unique())
    naive = []
    for counts in resampled_groups(5, 60, seed=4):
        drawn = [
            frame[frame["case"] == case] for case, count in zip(cases, counts, strict=True) for _ in range(int(count))
        ]
        naive.append(metric.summary(pd.concat(drawn)))
    assert set(fast) == set(naive[0])
    for name, interval in fast.items():
        values = [summary[name] for summary in naive]
        assert interval.value == metric.summary(frame)[name]
        assert (interval.low, interval.high) == pytest.approx(tuple(np.quantile(values, [0.05, 0.95])))
        assert interval.low < interval.value < interval.high


def test_repetition_gives_the_same_numbers() -> None:
    frame, metric = frame_of(12, 4), DiceIndexMetric(num_classes=3)
    fast = bootstrap(frame, metric.summary, group="case", samples=40)
    slow = bootstrap(frame, by_repetition(lambda rows: metric.summary(rows)), group="case", samples=40)
    for name, interval in fast.items():
        assert (interval.low, interval.high) == pytest.approx((slow[name].low, slow[name].high))


def test_the_order_of_rows_does_not_matter_and_the_seed_does() -> None:
    frame, metric = frame_of(30, 6), DiceIndexMetric(num_classes=3)
    one = bootstrap(frame, metric.summary, group="case", samples=50)["adi"]
    other = bootstrap(frame.sample(frac=1, random_state=1), metric.summary, group="case", samples=50)["adi"]
    assert (one.value, one.low, one.high) == pytest.approx((other.value, other.low, other.high))
    assert bootstrap(frame, metric.summary, group="case", samples=50, seed=1)["adi"].low != one.low


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    draw = np.random.default_rng(0)
    mean = lambda frame, weights: {"mean": _weighted_mean(frame["x"].to_numpy(), weights)}  # noqa: E731
    hits = 0
    for _ in range(200):
        # Rows of a group share its level: row by row the interval would be far too narrow.
        x = np.repeat(draw.normal(size=40), 5) + 0.1 * draw.normal(size=200)
        frame = pd.DataFrame({"x": x, "case": np.repeat(np.arange(40), 5), "row": range(200)})
        interval = bootstrap(frame, mean, group="case", samples=200)["mean"]
        by_row = bootstrap(frame, mean, group="row", samples=200)["mean"]
        assert by_row.high - by_row.low < 0.8 * (interval.high - interval.low)
        hits += interval.low <= 0 <= interval.high
    assert 0.88 <= hits / 200 <= 0.99


def _weighted_mean(values: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    shares = np.ones(len(values)) if weights is None else weights
    return shares @ values / shares.sum(axis=-1)


def test_many_resamples_are_split_without_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    frame, metric = frame_of(12, 4), DiceIndexMetric(num_classes=3)
    whole = bootstrap(frame, metric.summary, group="case", samples=25)
    monkeypatch.setattr("monai_amat.robustness.resampling._WEIGHTS_AT_ONCE", 30)
    assert bootstrap(frame, metric.summary, group="case", samples=25) == whole


def test_undefined_resamples_are_left_out_and_one_group_has_no_interval() -> None:
    frame = frame_of(6, 3)
    only_first = frame["case"] == "case_0"
    frame.loc[~only_first, ["tp_1", "fn_1", "tp_2", "fn_2"]] = 0
    interval = bootstrap(frame, DiceIndexMetric(num_classes=3).summary, group="case", samples=50)["adi"]
    assert interval.low == pytest.approx(interval.value) == interval.high
    single = bootstrap(frame[only_first], DiceIndexMetric(num_classes=3).summary, group="case", samples=50)["adi"]
    assert single.value == pytest.approx(interval.value)
    assert math.isnan(single.low)
    assert math.isnan(single.high)


class _Counting(DiceIndexMetric):
    calls = 0

    def summary(self, rows: pd.DataFrame, weights: np.ndarray | None = None) -> dict[str, Any]:
        self.calls += 1
        return super().summary(rows, weights)


def test_all_resamples_are_computed_at_once() -> None:
    """A study has thousands of rows and resamples a thousand times: never in a loop of Python."""
    frame, metric = frame_of(1200, 35, levels=6), _Counting(num_classes=3)
    table = summarise(frame, metric)
    assert len(table) == 7 * 7
    assert 0 < metric.calls <= 50


def test_the_average_sees_one_resample_at_all_levels() -> None:
    level, metric = frame_of(12, 4), DiceIndexMetric(num_classes=3)
    frame = pd.concat([level.assign(noise_level=noise) for noise in (0.0, 1.0, 2.0)], ignore_index=True)
    found = bootstrap(frame, by_noise_level(metric), group="case", samples=60)
    # Three equal levels: their average varies as much as each does, which separate resamples would not show.
    for noise in (0.0, 1.0, 2.0):
        assert found["Avg", "adi"].low == pytest.approx(found[noise, "adi"].low)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (4, {"group": "volume"}, "no column 'volume'"),
        (0, {"group": "case"}, "at least one row"),
        (4, {"group": "case", "samples": 0}, "samples must be at least 1, got 0"),
        (4, {"group": "case", "level": 95}, r"level must lie in \(0, 1\), got 95"),
    ],
)
def test_wrong_arguments_are_refused(rows: int, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap(frame_of(4, 2).head(rows), DiceIndexMetric(num_classes=3).summary, **options)  # type: ignore[arg-type]


def test_rows_without_a_group_are_refused() -> None:
    frame = pd.DataFrame({"case": ["a", "b", None], "x": [1.0, 2.0, 3.0]})
    with pytest.raises(ValueError, match="1 rows have no 'case' to resample by"):
        bootstrap(frame, by_repetition(lambda rows: {"mean": rows["x"].mean()}), group="case", samples=10)
