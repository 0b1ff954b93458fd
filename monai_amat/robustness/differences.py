"""Is one arm better than another? Their difference on the same samples, with an interval of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from monai_amat.handlers.metric import Metric
from monai_amat.robustness.comparison import Results, merge_rows
from monai_amat.robustness.resampling import Statistic
from monai_amat.robustness.summary import by_noise_level, summarise_by

__all__ = ["differences"]


def differences(
    results: Results,
    *,
    metric: Metric,
    reference: str,
    group_key: str = "case",
    samples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """The differences of all other arms from a reference, at each noise level and on average.

    Samples differ far more among themselves than arms do, so that intervals of two arms may overlap widely although
    one beats the other on nearly every sample. Here each resample of the groups weighs both arms alike: an interval
    that excludes 0 shows a difference that is not due to the choice of samples. It does not show the chance in
    training; for that, give several seeds and look at their range.

    Args:
        results: rows by arm, or by arm and seed, the same seeds for every arm.
        metric: the metric they were made with.
        reference: name of the arm that the others are compared with.
        group_key: column to resample by.
        samples: bootstrap resamples.
        seed: seed of the bootstrap.

    Returns:
        the columns of `compare`, `value` being the arm's figure minus the reference's;
        `table_text` makes a Markdown table of it.

    Raises:
        FileNotFoundError: for a source that is not there.
        ValueError: when the reference is not among the arms, or the arms cannot be compared.

    Example:
        >>> from monai_amat.tasks.segmentation import DiceIndexMetric
        >>> counts = {"fp_1": 0, "fn_1": [1, 3, 2], "noise_level": 0.0, "sample_id": [0, 1, 2], "case": ["a", "b", "c"]}
        >>> arms = {"SAT": pd.DataFrame({"tp_1": 5, **counts}), "AMAT": pd.DataFrame({"tp_1": 9, **counts})}
        >>> table = differences(arms, metric=DiceIndexMetric(num_classes=2), reference="SAT")
        >>> bool((table["low"] > 0)[table["name"] == "adi"].all())
        True
    """
    if reference not in results:
        raise ValueError(f"the reference must be one of the arms {sorted(results)}, got {reference!r}")
    rows = merge_rows(results, group_key=group_key)
    seeds = {arm: sorted(of_arm["seed"].unique()) for arm, of_arm in rows.groupby("arm")} if "seed" in rows else {}
    if len({tuple(of_arm) for of_arm in seeds.values()}) > 1:
        raise ValueError(f"arms of different seeds cannot be compared run by run: {seeds}")
    tables = []
    for arm in results:
        if arm == reference:
            continue
        pair = rows[rows["arm"].isin([arm, reference])]
        table = summarise_by(
            pair, _minus(metric, arm, reference), group_key=group_key, samples=samples, seed=seed, level=0.95
        )
        table.insert(0, "arm", f"{arm} − {reference}")
        tables.append(table)
    if not tables:
        raise ValueError(f"nothing to compare {reference!r} with: give another arm")
    return pd.concat(tables, ignore_index=True)


def _minus(metric: Metric, arm: str, reference: str) -> Statistic:
    inner = by_noise_level(metric)

    def statistic(frame: pd.DataFrame, weights: np.ndarray | None) -> Mapping[Any, Any]:
        sides = []
        for name in (arm, reference):
            places = np.flatnonzero(frame["arm"].to_numpy() == name)
            sides.append(inner(frame.iloc[places], None if weights is None else weights[..., places]))
        return {key: sides[0][key] - sides[1][key] for key in sides[0]}

    return statistic
