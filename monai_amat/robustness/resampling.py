"""Percentile intervals by resampling groups of rows: slices of one volume are not independent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from monai_amat.checks import check_within

__all__ = ["Interval", "Statistic", "bootstrap", "by_repetition", "few_groups", "resampled_groups"]

Statistic = Callable[[pd.DataFrame, "np.ndarray | None"], Mapping[Any, Any]]
"""`statistic(frame, weights)`: numbers by name over the rows of `frame`, row i counting `weights[i]` times (once
where weights is None); with weights `(R, rows)` an array `(R,)` by name: all resamples at once."""

_WEIGHTS_AT_ONCE = 4_000_000
_FEW_GROUPS = 10


@dataclass(frozen=True)
class Interval:
    """A statistic with the bounds of its interval, NaN where there is none."""

    value: float
    low: float
    high: float


def bootstrap(
    frame: pd.DataFrame,
    statistic: Statistic,
    *,
    group: str,
    samples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[Any, Interval]:
    """Percentile bootstrap that draws whole groups with replacement.

    A resample is how often each group was drawn, and so a weight on every row: statistics that are ratios of sums need
    one matrix product for all resamples.

    Args:
        frame: the rows.
        statistic: what is estimated; `by_repetition` makes one of any function of a frame.
        group: column that names the groups, the volumes of a segmentation for example.
        samples: resamples.
        seed: the same seed gives the same resamples for the same number of groups.
        level: share of the resamples within the interval.

    Returns:
        by the statistic's names, its value on `frame` and the interval's bounds. Resamples in which a statistic is
        not defined are left out of its interval; with one group alone there is no interval.

    Raises:
        ValueError: for an empty frame, a missing column or settings out of range.

    Example:
        >>> frame = pd.DataFrame({"case": ["a", "a", "b", "c"], "x": [1.0, 3.0, 5.0, 7.0]})
        >>> mean = by_repetition(lambda rows: {"mean": rows["x"].mean()})
        >>> interval = bootstrap(frame, mean, group="case", samples=200)["mean"]
        >>> interval.value, 2.0 <= interval.low < 4.0 < interval.high <= 7.0
        (4.0, True)
    """
    if group not in frame.columns:
        raise ValueError(f"no column {group!r} to resample by; the columns are {list(frame.columns)}")
    if frame.empty:
        raise ValueError("a bootstrap needs at least one row")
    check_within("samples", samples, 1)
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), got {level}")
    values = statistic(frame, None)
    codes, names = pd.factorize(frame[group], sort=True)
    if (codes < 0).any():
        raise ValueError(
            f"{int((codes < 0).sum())} rows have no {group!r} to resample by; name the group of each sample"
        )
    drawn = resampled_groups(len(names), samples, seed)
    # Bounded memory: weights of some resamples at a time.
    chunk = max(1, _WEIGHTS_AT_ONCE // len(frame))
    parts = [statistic(frame, drawn[start : start + chunk, codes]) for start in range(0, samples, chunk)]
    resampled = {name: np.concatenate([np.atleast_1d(part[name]) for part in parts]) for name in values}
    single = len(names) < 2
    return {name: _interval(float(value), resampled[name], level, single) for name, value in values.items()}


def resampled_groups(groups: int, samples: int, seed: int) -> np.ndarray:
    """How often each group is drawn in each resample: `(samples, groups)` float64, every row of sum `groups`.

    Example:
        >>> resampled_groups(3, 2, seed=0).sum(axis=1).tolist()
        [3.0, 3.0]
    """
    return np.random.default_rng(seed).multinomial(groups, np.full(groups, 1 / groups), size=samples).astype(np.float64)


def by_repetition(function: Callable[[pd.DataFrame], Mapping[Any, float]]) -> Statistic:
    """A statistic of any function of a frame, by repeating rows: slow, for what cannot be weighed (a median, mAP).

    Example:
        >>> median = by_repetition(lambda rows: {"median": rows["x"].median()})
        >>> median(pd.DataFrame({"x": [1.0, 2.0, 9.0]}), np.array([[0.0, 1.0, 2.0]]))
        {'median': array([9.])}
    """

    def statistic(frame: pd.DataFrame, weights: np.ndarray | None) -> Mapping[Any, Any]:
        if weights is None:
            return function(frame)
        rows = np.arange(len(frame))
        results = [function(frame.iloc[np.repeat(rows, row.astype(np.int64))]) for row in np.atleast_2d(weights)]
        return {name: np.array([result[name] for result in results]) for name in results[0]}

    return statistic


def few_groups(groups: int) -> str:
    """A warning where intervals rest on few groups; empty where there are enough.

    Example:
        >>> few_groups(2)
        'The intervals rest on 2 groups: so few make intervals too narrow, and cannot rank arms.'
        >>> few_groups(1), few_groups(50)
        ('There is no interval: all samples are of one group.', '')
    """
    if groups >= _FEW_GROUPS:
        return ""
    if groups < 2:
        return "There is no interval: all samples are of one group."
    return f"The intervals rest on {groups} groups: so few make intervals too narrow, and cannot rank arms."


def _interval(value: float, resampled: np.ndarray, level: float, single: bool) -> Interval:
    defined = resampled[~np.isnan(resampled)]
    if single or not len(defined):
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))
