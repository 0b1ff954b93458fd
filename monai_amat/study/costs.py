"""What training cost, arm by arm: the table that belongs beside every robustness curve."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from monai_amat.files import write_text_whole
from monai_amat.markdown import markdown_table
from monai_amat.robustness.store import write_rows

__all__ = ["costs_text", "training_costs", "write_costs"]

# Column, heading, decimals.
_HEADINGS = {
    "training_seconds": ("training, s", 1),
    "seconds_per_epoch": ("s an epoch", 2),
    "gradient_evaluations": ("gradient evaluations", 0),
    "accepted": ("accepted", 3),
    "rejected_before_noise": ("clean loss above ξ", 3),
    "relative_to_std": ("time relative to STD", 2),
}

_NOTES = """\
- Times are by the wall clock of the whole run, start-up and loading included, in "s an epoch" and "relative to STD" as
  well: the shorter the training, the more these weigh.
- Gradient evaluations are recorded only where margins are kept; an empty cell does not mean that there was no attack.
- "Clean loss above ξ": share of visits that are not accepted even without noise. Such samples are attacked and trained
  on with noise all the same; only the verdict is known beforehand.
"""


def training_costs(runs: Mapping[str, Mapping[int, Path]], *, std: Mapping[int, Path] | None = None) -> pd.DataFrame:
    """Time and gradient evaluations of finished trainings.

    A figure that no file of the run holds stays empty: gradient evaluations and verdicts are known of trainings with
    margins only, whose `margins.csv` has them.

    Args:
        runs: folders of runs, by arm and seed.
        std: folders of the clean network's runs by seed, which times are compared with.

    Returns:
        one row per arm and seed: `arm`, `seed`; `training_seconds` by the wall clock, all attempts together,
        start-up and loading included; `seconds_per_epoch`; `gradient_evaluations`, those of the attack in all;
        shares of visits, `accepted` whose noisy sample was and `rejected_before_noise` whose clean sample was not,
        which is attacked and trained on all the same; `relative_to_std`, the training time over that of the clean
        network of the same seed.

    Raises:
        FileNotFoundError: for a run without a record of its training.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> _ = (root / "train.json").write_text('{"complete": true, "seconds": 30.0, "values": {}}')
        >>> training_costs({"STD": {0: root}}, std={0: root})["relative_to_std"].item()
        1.0
    """
    rows = []
    for arm, by_seed in runs.items():
        for seed, folder in by_seed.items():
            seconds = _seconds(folder)
            epochs = _epochs(folder)
            reference = _seconds(std[seed]) if std and seed in std else math.nan
            rows.append(
                {
                    "arm": arm,
                    "seed": seed,
                    "training_seconds": seconds,
                    "seconds_per_epoch": seconds / epochs if epochs else math.nan,
                    **_verdicts(folder / "margins.csv"),
                    "relative_to_std": seconds / reference if reference else math.nan,
                }
            )
    return pd.DataFrame(rows).astype({"gradient_evaluations": "Int64"})


def costs_text(costs: pd.DataFrame) -> str:
    """The same as a Markdown table.

    Example:
        >>> row = {"arm": "STD", "seed": 0, "training_seconds": 30.0, "accepted": math.nan}
        >>> print(costs_text(pd.DataFrame([row])))
        | arm | seed | training, s | accepted |
        |-----|------|-------------|----------|
        | STD | 0    | 30.0        |          |
    """
    columns = {name: _HEADINGS.get(name, (name, 0)) for name in costs.columns}
    lines = [[heading for heading, _ in columns.values()]]
    for row in costs.to_dict("records"):
        lines.append([_cell(row[name], digits) for name, (_, digits) in columns.items()])
    return markdown_table(lines)


def write_costs(
    runs: Mapping[str, Mapping[int, Path]], output_dir: Path, *, std: Mapping[int, Path] | None = None
) -> pd.DataFrame:
    """Write `training_costs` to `costs.csv` and, with notes on its columns, to `costs.md`; return them."""
    costs = training_costs(runs, std=std)
    write_rows(output_dir / "costs.csv", costs)
    write_text_whole(output_dir / "costs.md", f"{costs_text(costs)}\n\n{_NOTES}")
    return costs


def _seconds(folder: Path) -> float:
    record = folder / "train.json"
    if not record.is_file():
        raise FileNotFoundError(f"{record} is not there: what this training took is not known; run the study again")
    return float(json.loads(record.read_text(encoding="utf-8"))["seconds"])


def _epochs(folder: Path) -> int | None:
    """How many epochs were trained, by the last checkpoint."""
    found = [re.fullmatch(r"resume_epoch=(\d+)\.pt", path.name) for path in (folder / "models").glob("resume_*.pt")]
    return max((int(match[1]) for match in found if match), default=None)


def _verdicts(file: Path) -> dict[str, float]:
    """Sums over all epochs of a table of margins."""
    table = pd.read_csv(file) if file.is_file() else pd.DataFrame()

    def share(name: str) -> float:
        if name not in table or "visits" not in table:
            return math.nan
        visits = table["visits"].sum()
        return float((table[name] * table["visits"]).sum() / visits) if visits else math.nan

    evaluations = table["gradient_evaluations"].sum() if "gradient_evaluations" in table else math.nan
    return {
        "gradient_evaluations": float(evaluations),
        "accepted": share("accepted"),
        "rejected_before_noise": 1 - share("clean_accepted"),
    }


def _cell(value: Any, digits: int) -> str:
    if isinstance(value, str):
        return value
    return "" if pd.isna(value) else f"{value:,.{digits}f}"
