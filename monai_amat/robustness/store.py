"""Rows of a robustness run: kept in one SQLite file while it runs, exported as CSV at its end."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pandas as pd

from monai_amat.changes import refuse_changed
from monai_amat.files import whole_file

__all__ = ["RowStore", "read_rows", "write_rows"]


class RowStore:
    """Finished rows in `folder/rows.sqlite`, with the settings that they were made under.

    Use it as a context manager. While it is open no other process can open it; a process that is killed gives it free.
    The rows of a batch are kept all together or not at all, even where the process is killed. Each row is kept as JSON:
    text stays text, whatever it looks like, and numbers keep all their digits.

    Args:
        folder: output folder of the run; made if needed.

    Raises:
        RuntimeError: on entry, when another process has the file open, or the file is not such a store.
    """

    def __init__(self, folder: str | Path) -> None:
        self.file = Path(folder) / "rows.sqlite"
        self._connection: sqlite3.Connection | None = None

    def __enter__(self) -> RowStore:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.file, timeout=0, isolation_level=None)
        try:
            # In this mode the lock of the first transaction is kept until the connection is closed.
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("BEGIN EXCLUSIVE")
            connection.execute("CREATE TABLE IF NOT EXISTS settings (json TEXT NOT NULL)")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS rows "
                "(noise_level REAL, sample_id INTEGER, json TEXT NOT NULL, PRIMARY KEY (noise_level, sample_id))"
            )
            connection.execute("COMMIT")
        except sqlite3.OperationalError as error:
            connection.close()
            if "locked" not in str(error):
                raise RuntimeError(f"{self.file} cannot be opened ({error}); {self._advice}") from error
            raise RuntimeError(
                f"{self.file} is in use by another process; wait until that process ends, or give another output_dir"
            ) from error
        except sqlite3.DatabaseError as error:
            connection.close()
            raise RuntimeError(f"{self.file} is not a file of rows ({error}); {self._advice}") from error
        self._connection = connection
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()
        self._connection = None

    @property
    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            raise RuntimeError(f"{self.file} is closed; use the store in a with statement")
        return self._connection

    @property
    def _advice(self) -> str:
        return f"give another output_dir, or delete {self.file} to start over"

    def guard(self, settings: dict[str, Any]) -> None:
        """Keep `settings` with the first rows, and refuse rows that were made under other settings afterwards.

        Raises:
            RuntimeError: when the store holds rows that were made under other settings.
        """
        now = json.loads(json.dumps(settings))
        if self._open.execute("SELECT 1 FROM rows LIMIT 1").fetchone():
            kept = self._open.execute("SELECT json FROM settings").fetchone()
            refuse_changed(self.file, json.loads(kept[0]) if kept else {}, now, self._advice)
        with self._transaction():
            self._open.execute("DELETE FROM settings")
            self._open.execute("INSERT INTO settings VALUES (?)", (json.dumps(now),))

    def write(self, rows: pd.DataFrame) -> None:
        """Keep the rows of a batch, all of them or none.

        Args:
            rows: `noise_level`, `sample_id` and further columns; NaN where there is no value. A row that is kept
                already stays as it is.
        """
        columns = [_plain(rows[name]) for name in rows.columns]
        texts = [json.dumps(dict(zip(rows.columns, row, strict=True))) for row in zip(*columns, strict=True)]
        keys = zip(rows["noise_level"].tolist(), rows["sample_id"].tolist(), texts, strict=True)
        with self._transaction():
            self._open.executemany("INSERT OR IGNORE INTO rows VALUES (?, ?, ?)", list(keys))

    def read(self) -> pd.DataFrame:
        """All rows by noise level and sample ID; empty without columns where there are none."""
        found = self._open.execute("SELECT json FROM rows ORDER BY noise_level, sample_id")
        frame = pd.DataFrame([json.loads(text) for (text,) in found])
        undefined = [name for name in frame.columns if frame[name].isna().all()]
        return frame.astype(dict.fromkeys(undefined, np.float64))

    def finished(self, noise_level: float) -> set[int]:
        """IDs of the samples whose rows are kept for a noise level."""
        found = self._open.execute("SELECT sample_id FROM rows WHERE noise_level = ?", (float(noise_level),))
        return {sample for (sample,) in found}

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All statements inside take effect, or none."""
        self._open.execute("BEGIN")
        try:
            yield
        except BaseException:
            self._open.execute("ROLLBACK")
            raise
        self._open.execute("COMMIT")


def _plain(values: pd.Series[Any]) -> list[Any]:
    """Values of a column as JSON takes them; None for NaN."""
    if values.dtype in (np.float32, np.float16):
        # The shortest decimal that gives this number, not all digits of the equal double.
        return [None if math.isnan(value) else float(str(value)) for value in values.to_numpy()]
    return [None if isinstance(value, float) and math.isnan(value) else value for value in values.tolist()]


def write_rows(file: Path, rows: pd.DataFrame) -> None:
    """Write rows as CSV, whole or not at all; numbers with all their digits."""
    with whole_file(file) as stream:
        stream.write(rows.to_csv(index=False, lineterminator="\n").encode("utf-8"))


def read_rows(file: Path, *, text_columns: Sequence[str] = ()) -> pd.DataFrame:
    """Read rows that `write_rows` wrote.

    A column is read as numbers only where writing the numbers gives the same text again: identifiers such as `001`,
    `1` and `1e3` stay text, and stay different.

    Args:
        file: the CSV.
        text_columns: columns that stay text in any case, such as case names that are whole numbers.

    Raises:
        RuntimeError: for a file that is not such a CSV file.
    """
    try:
        texts = pd.read_csv(file, dtype=str, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, ValueError) as error:
        raise RuntimeError(
            f"{file} cannot be read as rows of a robustness run ({error}); delete it and run again"
        ) from error
    # An empty field is a value that is not defined.
    columns = {name: texts[name].where(texts[name] != "") for name in texts.columns}
    return pd.DataFrame(
        {name: values if name in text_columns else _numbers(values) for name, values in columns.items()}
    )


def _numbers(texts: pd.Series[Any]) -> pd.Series[Any]:
    """The column as whole numbers or numbers where these give the same texts again, else as it is."""
    present = texts.dropna()
    for kind, largest in ((int, 2**63), (float, math.inf)):
        try:
            numbers = [kind(text) for text in present]
        except ValueError:
            continue
        if all(str(number) == text and abs(number) < largest for number, text in zip(numbers, present, strict=True)):
            whole = kind is int and len(present) == len(texts)
            return pd.Series(numbers, present.index, dtype=np.int64 if whole else np.float64).reindex(texts.index)
    return texts
