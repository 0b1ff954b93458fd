"""Several arms side by side: one table, one CSV, one JSON, one picture."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from monai_amat.changes import changes
from monai_amat.files import write_text_whole
from monai_amat.handlers.metric import Metric
from monai_amat.robustness.notes import noise_rms, reading_notes
from monai_amat.robustness.report import Report
from monai_amat.robustness.store import read_rows, write_rows
from monai_amat.robustness.summary import nested, summarise

__all__ = ["Results", "Source", "compare", "merge_rows", "write_comparison"]

# What a run's summary says of the attack; seeds of the network and the machine may differ.
_ATTACKED = (
    *("attack", "source", "attack_loss", "loss", "prepare_batch", "inferer"),
    *("metric", "data", "seed", "settings"),
)

Source = str | Path | pd.DataFrame
"""Rows of a run: a frame, a `robustness.csv`, or the folder that holds one."""

Results = Mapping[str, Source | Mapping[int, Source]]
"""Rows by arm, or by arm and training seed."""


def merge_rows(results: Results, *, group_key: str = "case") -> pd.DataFrame:
    """All arms' rows in one frame, with columns `arm` and, where an arm comes by seeds, `seed` in front.

    Raises:
        FileNotFoundError: for a source that is not there.
        ValueError: when arms were not tried on the same samples at the same noise levels.
    """
    if not results:
        raise ValueError("no arm to compare; give results={'name': <output folder of a RobustnessCurve>, …}")
    seeded = any(isinstance(source, Mapping) for source in results.values())
    frames, expected, first = [], None, ""
    for arm, seed, source in _runs(results):
        rows = _rows(source, group_key)
        run = arm if seed is None else f"{arm}, seed {seed}"
        tried = rows[["noise_level", "sample_id", group_key]].sort_values(
            ["noise_level", "sample_id"], ignore_index=True
        )
        tried = tried.loc[:, ~tried.columns.duplicated()]  # "sample_id" may be the group itself
        if tried.duplicated().any():
            raise ValueError(f"{run}: some samples occur twice at one noise level; give each run's rows once")
        if expected is None:
            expected, first = tried, run
        elif not tried.equals(expected):
            raise ValueError(
                f"{run} was not tried on the same samples and noise levels as {first} ({_extent(tried)}; there "
                f"{_extent(expected)}); run both with one data set and one list of noise levels"
            )
        frame = rows.drop(columns=["arm", "seed"], errors="ignore")
        if seeded:
            frame.insert(0, "seed", 0 if seed is None else seed)
        frame.insert(0, "arm", arm)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def compare(
    results: Results, *, metric: Metric, group_key: str = "case", samples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Every arm at every noise level and on average, with bootstrap intervals; several seeds give their mean and range.

    All arms, levels and seeds see the same resamples of the groups.

    Args:
        results: rows by arm, or by arm and seed.
        metric: the metric they were made with.
        group_key: column to resample by.
        samples: bootstrap resamples.
        seed: seed of the bootstrap.

    Returns:
        the rows of `summarise` with a column `arm` in front.

    Raises:
        FileNotFoundError: for a source that is not there.
        ValueError: when the arms cannot be compared, see `merge_rows`.
    """
    rows = merge_rows(results, group_key=group_key)
    return _tabulate(rows, metric, group_key, samples, seed)


def write_comparison(
    results: Results,
    output_dir: str | Path,
    *,
    metric: Metric,
    report: Report | None = None,
    group_key: str = "case",
    samples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Write `robustness.csv` (all rows), `summary.json`, `table.md` and `curve.png` of several arms.

    Args:
        results: rows by arm, or by arm and seed. How each run was made, in its own `summary.json`, is kept.
        output_dir: where to write; made if needed.
        metric: the metric the rows were made with.
        report: labels of the figures, and which are shown beside the headline.
        group_key: column to resample by.
        samples: bootstrap resamples.
        seed: seed of the bootstrap.

    Returns:
        the table of `compare`.

    Raises:
        FileNotFoundError: for a source that is not there.
        ValueError: when the arms cannot be compared.
    """
    rows = merge_rows(results, group_key=group_key)
    table = _tabulate(rows, metric, group_key, samples, seed)
    folder = Path(output_dir)
    write_rows(folder / "robustness.csv", rows)
    arms: dict[str, Any] = {str(arm): {"levels": nested(of_arm)} for arm, of_arm in table.groupby("arm", sort=False)}
    attacked: dict[str, Any] = {}
    for arm, run_seed, source in _runs(results):
        made = _provenance(source)
        arms[arm].setdefault("runs", {})[str(0 if run_seed is None else run_seed)] = made
        attacked[arm if run_seed is None else f"{arm}, seed {run_seed}"] = {
            key: made[key] for key in _ATTACKED if key in made
        }
    _warn_of_unlike(attacked)
    summary = {"bootstrap": {"samples": samples, "seed": seed, "level": 0.95, "group": group_key}, "arms": arms}
    write_text_whole(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
    norms = {str(made.get("norm")) for of_arm in arms.values() for made in of_arm["runs"].values()}
    norm = norms.pop() if len(norms) == 1 and norms != {"None"} else None
    notes = reading_notes(rows, group_key=group_key, norm=norm)
    (Report() if report is None else report).write(table, folder, notes=notes, rms=noise_rms(rows), norm=norm)
    return table


def _warn_of_unlike(attacked: Mapping[str, Mapping[str, Any]]) -> None:
    """Warn where arms were attacked in different ways, which may be on purpose, each by its own loss for example."""
    known = [(run, made) for run, made in attacked.items() if made]
    for run, made in known[1:]:
        first, expected = known[0]
        if differing := "; ".join(changes(expected, made)):
            warnings.warn(f"{run} (here) was not attacked as {first} (there): {differing}", stacklevel=3)


def _runs(results: Results) -> list[tuple[str, int | None, Source]]:
    runs: list[tuple[str, int | None, Source]] = []
    for arm, source in results.items():
        if isinstance(source, Mapping):
            runs += [(arm, int(seed), of_seed) for seed, of_seed in source.items()]
        else:
            runs.append((arm, None, source))
    return runs


def _rows(source: Source, group_key: str) -> pd.DataFrame:
    if isinstance(source, pd.DataFrame):
        return source
    file = Path(source)
    file = file / "robustness.csv" if file.is_dir() else file
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not there; run the robustness curve that writes it first")
    return read_rows(file, text_columns=[group_key])


def _provenance(source: Source) -> dict[str, Any]:
    """What the run's own summary says beside its figures."""
    if isinstance(source, pd.DataFrame):
        return {}
    file = Path(source) / "summary.json" if Path(source).is_dir() else Path(source).with_name("summary.json")
    if not file.is_file():
        return {}
    summary: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return {key: value for key, value in summary.items() if key not in ("levels", "bootstrap")}


def _tabulate(rows: pd.DataFrame, metric: Metric, group_key: str, samples: int, seed: int) -> pd.DataFrame:
    tables = []
    for arm, of_arm in rows.groupby("arm", sort=False):
        table = summarise(of_arm, metric, group_key=group_key, samples=samples, seed=seed)
        table.insert(0, "arm", arm)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _extent(tried: pd.DataFrame) -> str:
    levels = ", ".join(f"{level:g}" for level in tried["noise_level"].unique())
    return f"{tried['sample_id'].nunique()} samples at noise {levels}"
