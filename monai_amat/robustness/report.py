"""How figures are shown: tables as text, and the curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from monai_amat.files import write_text_whole
from monai_amat.markdown import markdown_table
from monai_amat.robustness.notes import noise_label
from monai_amat.robustness.plots import plot_curves
from monai_amat.robustness.summary import AVERAGE

__all__ = ["Report", "table_text"]


@dataclass(frozen=True)
class Report:
    """Labels of the figures in tables and pictures.

    Args:
        ylabel: label of the headline figure; its name by default.
        xlabel: label of the noise level, with its norm and its unit; by default with the attack's norm.
        further: labels of the figures to show beside the headline, by name.

    Raises:
        TypeError: for further figures without labels.

    Example:
        >>> Report(ylabel="average Dice", further={"tvdi": "Dice over all voxels"}).further
        {'tvdi': 'Dice over all voxels'}
    """

    ylabel: str | None = None
    xlabel: str | None = None
    further: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.further, Mapping):
            raise TypeError(
                f"further must give a label for the name of each figure, such as {{'tvdi': '…'}}; got {self.further!r}"
            )

    def write(
        self,
        table: pd.DataFrame,
        folder: str | Path,
        *,
        notes: Sequence[str] = (),
        rms: Mapping[float, float] | None = None,
        norm: str | None = None,
    ) -> None:
        """Write `table.md`, `curve.png` and, for each of the further figures, `curve_<name>.png`.

        Args:
            table: of `compare`, or of `summarise` for one unnamed arm.
            folder: output folder; made if needed.
            notes: sentences below the tables, see `reading_notes`.
            rms: root mean square of the noise per value by noise level, for the axis.
            norm: in which ε is measured, for the axis where the report has no `xlabel`.

        Raises:
            ValueError: for a further figure that the table does not have.
        """
        texts = [table_text(table), *(table_text(table, name=name) for name in self.further)]
        if notes:
            texts.append("\n".join(f"- {note}" for note in notes))
        xlabel = noise_label(norm) if self.xlabel is None else self.xlabel
        write_text_whole(Path(folder) / "table.md", "\n\n".join(texts) + "\n")
        for name, label in ((None, self.ylabel), *self.further.items()):
            file = "curve.png" if name is None else f"curve_{name}.png"
            plot_curves(table, Path(folder) / file, name=name, ylabel=label, xlabel=xlabel, rms=rms)


def table_text(table: pd.DataFrame, *, name: str | None = None, digits: int = 3) -> str:
    """One figure as a Markdown table: one row per arm, one column per noise level, intervals in brackets.

    With several seeds the range of their values follows the interval in parentheses.

    Args:
        table: of `compare`, or of `summarise`.
        name: which figure; the headline by default.
        digits: decimals.

    Raises:
        ValueError: for a figure that the table does not have.

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
