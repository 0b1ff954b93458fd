"""Rows of a robustness run on disk: whole files a batch, so that a killed run goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from monai_amat.changes import changes
from monai_amat.files import whole_file, write_text_whole

__all__ = ["PartStore", "read_rows", "write_rows"]


class PartStore:
    """Finished rows under `folder/parts/<noise level>/<first sample ID>.csv`, guarded by `folder/settings.json`.

    Args:
        folder: output folder of the run.
        text_columns: columns that stay text whatever they look like, such as case names that are digits.
    """

    def __init__(self, folder: Path, *, text_columns: Sequence[str]) -> None:
        self.folder = Path(folder)
        self.text_columns = tuple(text_columns)

    @property
    def settings_file(self) -> Path:
        """Where the settings of the kept rows are."""
        return self.folder / "settings.json"

    def guard(self, settings: dict[str, Any]) -> None:
        """Keep `settings` with the first rows, and refuse rows made under others afterwards.

        Raises:
            RuntimeError: when rows are there that were made under other settings.
        """
        parts = self.folder / "parts"
        now = json.loads(json.dumps(settings))
        if parts.is_dir() and any(parts.rglob("*.csv")):
            advice = f"Give another output_dir, or delete {self.folder} to start over."
            if not self.settings_file.is_file():
                raise RuntimeError(
                    f"{parts} holds rows, but {self.settings_file} that says what made them is gone. {advice}"
                )
            changed = list(changes(json.loads(self.settings_file.read_text(encoding="utf-8")), now))
            if changed:
                raise RuntimeError(f"{self.folder} holds rows of another run: {'; '.join(changed)}. {advice}")
        write_text_whole(self.settings_file, json.dumps(now, indent=2) + "\n")

    def write(self, noise_level: float, rows: pd.DataFrame) -> None:
        """Keep the rows of a batch, all of them or none."""
        write_rows(self._level(noise_level) / f"{int(rows['sample_id'].iloc[0]):08d}.csv", rows)

    def read(self, noise_level: float) -> pd.DataFrame:
        """All rows kept for a noise level, in no particular order; empty without columns where there are none.

        Raises:
            RuntimeError: for a file that cannot be read.
        """
        files = sorted(self._level(noise_level).glob("*.csv"))
        parts = [read_rows(file, text_columns=self.text_columns) for file in files]
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()

    def finished(self, noise_level: float) -> set[int]:
        """IDs of the samples whose rows are kept for a noise level."""
        rows = self.read(noise_level)
        return set() if rows.empty else set(rows["sample_id"].tolist())

    def _level(self, noise_level: float) -> Path:
        return self.folder / "parts" / f"{float(noise_level)!r}"


def write_rows(file: Path, rows: pd.DataFrame) -> None:
    """Write rows as CSV, whole or not at all; numbers with all their digits."""
    with whole_file(file) as stream:
        stream.write(rows.to_csv(index=False, lineterminator="\n").encode("utf-8"))


def read_rows(file: Path, *, text_columns: Sequence[str]) -> pd.DataFrame:
    """Read what `write_rows` wrote.

    Raises:
        RuntimeError: for a file that is no such CSV.
    """
    try:
        return pd.read_csv(
            file,
            dtype=dict.fromkeys(text_columns, str),
            # A case may be called NA; an undefined number is an empty field.
            keep_default_na=False,
            na_values=[""],
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, ValueError) as error:
        raise RuntimeError(
            f"{file} cannot be read as rows of a robustness run ({error}); delete it and run again"
        ) from error
