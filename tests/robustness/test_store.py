"""Rows on disk: kept as they are, guarded by what made them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from monai_amat.robustness.store import PartStore, read_rows, write_rows


def rows(*ids: int) -> pd.DataFrame:
    cases = ["007", "NA", "a, b"]
    return pd.DataFrame({"sample_id": ids, "case": [cases[i % 3] for i in ids], "loss": [i / 3 for i in ids]})


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    frame = rows(1, 2, 3).assign(size=[0.1, float("nan"), 1e-300])
    write_rows(tmp_path / "rows.csv", frame)
    pd.testing.assert_frame_equal(read_rows(tmp_path / "rows.csv", text_columns=["case"]), frame)


def test_levels_are_kept_apart(tmp_path: Path) -> None:
    store = PartStore(tmp_path, text_columns=["case"])
    assert store.finished(1) == set()
    store.write(1, rows(0, 1))
    store.write(1.0, rows(4))
    store.write(1.5, rows(2))
    store.write(1.52, rows(3))
    assert store.finished(1) == {0, 1, 4}
    assert store.finished(1.5) == {2}
    assert store.read(1)["case"].tolist() == ["007", "NA", "NA"]


def test_settings_are_compared_by_what_they_say(tmp_path: Path) -> None:
    store = PartStore(tmp_path, text_columns=["case"])
    store.guard({"attack": {"steps": 3, "clip": (0, 1)}})
    store.guard({"attack": {"steps": 4, "clip": [0, 1]}})  # nothing kept yet: nothing to protect
    store.write(0, rows(0))
    store.guard({"attack": {"clip": [0, 1], "steps": 4}})
    with pytest.raises(RuntimeError, match=r"attack.steps: 4 there, 5 here; seed: absent there, 1 here\. Give another"):
        store.guard({"attack": {"steps": 5, "clip": [0, 1]}, "seed": 1})
    store.settings_file.unlink()
    with pytest.raises(RuntimeError, match="is gone"):
        store.guard({"attack": {"clip": [0, 1], "steps": 4}})


def test_a_file_that_is_no_csv_is_named(tmp_path: Path) -> None:
    file = tmp_path / "broken.csv"
    for content in (b"", b'a,b\n"1', b"\xff\xfe\x00"):
        file.write_bytes(content)
        with pytest.raises(RuntimeError, match=r"broken.csv cannot be read.*delete it and run again"):
            read_rows(file, text_columns=[])
