"""From rows to figures: a metric at every noise level and on average over them, with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from monai_amat.handlers.metric import Metric
from monai_amat.robustness.resampling import Statistic, bootstrap

__all__ = ["AVERAGE", "by_noise_level", "nested", "summarise"]

AVERAGE = "Avg"
"""Name of the mean over the noise levels, as in the paper's tables."""


def by_noise_level(metric: Metric) -> Statistic:
    """A statistic for `bootstrap` over all noise levels of a run at once.

    Every level sees the same resample, so that the average over levels gets an interval of its own. Where the frame
    has a column `seed`, each figure is the mean over the seeds.

    Returns:
        a statistic named by `(noise level, name)`, the level being `AVERAGE` for the mean over levels.
    """

    def statistic(frame: pd.DataFrame, weights: np.ndarray | None) -> Mapping[Any, Any]:
        seeds = frame["seed"].to_numpy() if "seed" in frame.columns else np.zeros(len(frame), dtype=np.int64)
        levels = frame["noise_level"].to_numpy()
        figures: dict[tuple[Any, str], list[Any]] = {}
        for seed in np.unique(seeds):
            by_name: dict[str, list[Any]] = {}
            for level in np.unique(levels):
                rows = np.flatnonzero((seeds == seed) & (levels == level))
                shares = None if weights is None else weights[..., rows]
                for name, value in metric.summary(frame.iloc[rows], shares).items():
                    figures.setdefault((float(level), name), []).append(value)
                    by_name.setdefault(name, []).append(value)
            for name, values in by_name.items():
                figures.setdefault((AVERAGE, name), []).append(np.mean(values, axis=0))
        return {key: np.mean(values, axis=0) for key, values in figures.items()}

    return statistic


def summarise(
    frame: pd.DataFrame,
    metric: Metric,
    *,
    group_key: str = "case",
    samples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> pd.DataFrame:
    """The metric at every noise level, and averaged over them.

    Args:
        frame: rows of `RobustnessCurve`; of several runs where a column `seed`
            distinguishes them.
        metric: the metric the rows were made with.
        group_key: column to resample by, the volumes for example.
        samples: bootstrap resamples.
        seed: seed of the bootstrap.
        level: share of the resamples within the interval.

    Returns:
        a row for each noise level (last `AVERAGE`, the mean over the levels) and name, with columns
        `noise_level`, `name`, `value`, `low`, `high` (the interval) and `seeds`, `seed_min`,
        `seed_max` (number of runs, and the range of their values).

    Raises:
        ValueError: for an empty frame or a missing column.
    """
    return summarise_by(frame, by_noise_level(metric), group_key=group_key, samples=samples, seed=seed, level=level)


def summarise_by(
    frame: pd.DataFrame, statistic: Statistic, *, group_key: str, samples: int, seed: int, level: float
) -> pd.DataFrame:
    """The table of `summarise` for any statistic named by noise level and name."""
    if missing := {"noise_level", group_key} - set(frame.columns):
        raise ValueError(f"the rows lack the columns {sorted(missing)}; they have {list(frame.columns)}")
    intervals = bootstrap(frame, statistic, group=group_key, samples=samples, seed=seed, level=level)
    runs = [run for _, run in frame.groupby("seed")] if "seed" in frame.columns else [frame]
    single = [statistic(run, None) for run in runs]
    rows = []
    for (noise_level, name), interval in intervals.items():
        values = [float(run[noise_level, name]) for run in single]
        rows.append(
            (noise_level, name, interval.value, interval.low, interval.high, len(runs), np.min(values), np.max(values))
        )
    table = pd.DataFrame(rows, columns=["noise_level", "name", "value", "low", "high", "seeds", "seed_min", "seed_max"])
    # The statistic gives seeds and levels as they come; a reader wants the levels in order and the average last.
    order = table["noise_level"].map(lambda noise_level: math.inf if noise_level == AVERAGE else noise_level)
    return table.iloc[np.argsort(order.to_numpy(dtype=np.float64), kind="stable")].reset_index(drop=True)


def nested(table: pd.DataFrame) -> dict[str, dict[str, dict[str, float | None]]]:
    """The table of `summarise` as JSON has it: by noise level, then name; None for what is not defined."""
    columns = ["value", "low", "high"] + (["seed_min", "seed_max"] if (table["seeds"] > 1).any() else [])
    result: dict[str, dict[str, dict[str, float | None]]] = {}
    for row in table.to_dict("records"):
        key = row["noise_level"] if row["noise_level"] == AVERAGE else f"{row['noise_level']:g}"
        result.setdefault(key, {})[row["name"]] = {
            column: None if math.isnan(row[column]) else float(row[column]) for column in columns
        }
    return result
