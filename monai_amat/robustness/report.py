"""How figures are shown: a table in text, and the curves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from monai_amat.files import write_text_whole
from monai_amat.markdown import markdown_table
from monai_amat.robustness.plots import plot_curves
from monai_amat.robustness.summary import AVERAGE

__all__ = ["Report", "table_text"]


@dataclass(frozen=True)
class Report:
    """What figures are called where people read them.

    Args:
        ylabel: the headline figure in its picture; its name by default.
        xlabel: the noise level, with its norm and its unit.
        further: figures to show beside the headline, by name, and what they are called.

    Raises:
        TypeError: for further figures without what they are called.

    Example:
        >>> Report(ylabel="average Dice", further={"tvdi": "Dice over all voxels"}).further
        {'tvdi': 'Dice over all voxels'}
    """

    ylabel: str | None = None
    xlabel: str = "noise level ε"
    further: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.further, Mapping):
            raise TypeError(
                f"further figures are names and what they are called, {{'tvdi': '…'}}; got {self.further!r}"
            )

    def write(self, table: pd.DataFrame, folder: str | Path) -> None:
        """Write `table.md`, `curve.png` and, for each of the further figures, `curve_<name>.png`.

        Args:
            table: of `compare`, or of `summarise` for one unnamed arm.
            folder: where to; made if need be.

        Raises:
            ValueError: for a further figure that the table has not got.
        """
        texts = [table_text(table), *(table_text(table, name=name) for name in self.further)]
        write_text_whole(Path(folder) / "table.md", "\n\n".join(texts) + "\n")
        for name, label in ((None, self.ylabel), *self.further.items()):
            file = "curve.png" if name is None else f"curve_{name}.png"
            plot_curves(table, Path(folder) / file, name=name, ylabel=label, xlabel=self.xlabel)


def table_text(table: pd.DataFrame, *, name: str | None = None, digits: int = 3) -> str:
    """One figure as a Markdown table: a row an arm, a column a noise level, intervals in brackets.

    With several seeds the range of their values follows the interval in parentheses.

    Args:
        table: of `compare`, or of `summarise`.
        name: which figure; the headline by default.
        digits: decimals.

    Raises:
        ValueError: for a figure that the table has not got.

    Example:
        >>> row = {"arm": "STD", "noise_level": 0.0, "name": "adi", "value": 0.5, "low": 0.4, "high": 0.6, "seeds": 1}
        >>> print(table_text(pd.DataFrame([row]), digits=2))
        | adi at noise | 0                 |
        |--------------|-------------------|
        | STD          | 0.50 [0.40, 0.60] |
    """
    chosen = str(table["name"].iloc[0]) if name is None else name
    rows = table[table["name"] == chosen]
    if rows.empty:
        raise ValueError(f"the table holds no {chosen!r}; it holds {sorted(set(table['name']))}")
    levels = list(dict.fromkeys(rows["noise_level"]))
    lines = [[f"{chosen} at noise", *(level if level == AVERAGE else f"{level:g}" for level in levels)]]
    arms = list(dict.fromkeys(rows["arm"])) if "arm" in rows.columns else [""]
    for arm in arms:
        of_arm = rows[rows["arm"] == arm] if "arm" in rows.columns else rows
        cells = {row["noise_level"]: _cell(row, digits) for row in of_arm.to_dict("records")}
        lines.append([arm, *(cells.get(level, "") for level in levels)])
    return markdown_table(lines)


def _cell(row: Mapping[Any, Any], digits: int) -> str:
    text = f"{row['value']:.{digits}f}"
    if not math.isnan(row["low"]):
        text += f" [{row['low']:.{digits}f}, {row['high']:.{digits}f}]"
    if row["seeds"] > 1:
        text += f" ({row['seed_min']:.{digits}f}–{row['seed_max']:.{digits}f})"
    return text
