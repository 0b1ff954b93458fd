"""Rows on disk: kept as they are, guarded by what made them, by one process at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from monai_amat.robustness.store import RowStore, read_rows, write_rows

IDENTIFIERS = ["001", "1", "1e3", "1000"]


def rows(*ids: int, level: float = 0.0) -> pd.DataFrame:
    cases = ["007", "NA", "a, b"]
    return pd.DataFrame(
        {
            "noise_level": level,
            "sample_id": ids,
            "case": [cases[i % 3] for i in ids],
            "loss": [i / 3 for i in ids],
        }
    )


def test_csv_rows_come_back_as_they_were(tmp_path: Path) -> None:
    frame = rows(1, 2, 3).assign(size=[0.1, float("nan"), 1e-300], patient=["1", "2", "3"], none=float("nan"))
    write_rows(tmp_path / "rows.csv", frame)
    again = read_rows(tmp_path / "rows.csv", text_columns=["case", "patient"])
    pd.testing.assert_frame_equal(again, frame, check_exact=True)


def test_identifiers_in_a_csv_stay_different_whatever_they_look_like(tmp_path: Path) -> None:
    frame = pd.DataFrame({"sample_id": range(4), "patient": IDENTIFIERS, "case": ["nan", "inf", "-0", "1_0"]})
    write_rows(tmp_path / "rows.csv", frame)
    pd.testing.assert_frame_equal(read_rows(tmp_path / "rows.csv"), frame)
    numbers = frame.assign(patient=["1", "2", "3", "40"], case=["1.5", "", "2.0", "1e-05"])
    write_rows(tmp_path / "rows.csv", numbers)
    again = read_rows(tmp_path / "rows.csv")
    assert again["patient"].tolist() == [1, 2, 3, 40]
    np.testing.assert_array_equal(again["case"], [1.5, np.nan, 2.0, 1e-5])


def test_a_file_that_is_no_csv_is_named(tmp_path: Path) -> None:
    file = tmp_path / "broken.csv"
    for content in (b"", b'a,b\n"1', b"\xff\xfe\x00"):
        file.write_bytes(content)
        with pytest.raises(RuntimeError, match=r"broken.csv cannot be read.*delete it and run again"):
            read_rows(file)


def test_the_store_gives_back_what_it_was_given(tmp_path: Path) -> None:
    first = rows(3, 1, level=1.5).assign(patient=IDENTIFIERS[:2], size=[0.1, float("nan")], Size=[1, 2])
    second = rows(0, 2, level=1.5).assign(patient=IDENTIFIERS[2:], size=[1e-300, 3.0], Size=[3, 4])
    third = rows(7, level=1.52).assign(patient="4", size=0.0, Size=0)
    with RowStore(tmp_path) as store:
        assert store.read().empty and store.finished(1.5) == set()
        for frame in (first, second, third):
            store.write(frame)
        assert (store.finished(1.5), store.finished(1.52), store.finished(1)) == ({0, 1, 2, 3}, {7}, set())
    expected = pd.concat([first, second, third]).sort_values(["noise_level", "sample_id"], ignore_index=True)
    with RowStore(tmp_path) as store:
        pd.testing.assert_frame_equal(store.read(), expected, check_exact=True)


def test_numbers_are_kept_as_a_csv_shows_them(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random(200)
    frame = rows(*range(200)).assign(
        single=values.astype(np.float32), double=values, flag=values > 0.5, none=float("nan")
    )
    with RowStore(tmp_path) as store:
        store.write(frame)
        again = store.read()
    assert again.to_csv() == frame.to_csv()
    assert again["none"].dtype == np.float64


def test_settings_are_compared_by_what_they_say(tmp_path: Path) -> None:
    with RowStore(tmp_path) as store:
        store.guard({"attack": {"steps": 3, "clip": (0, 1)}})
        store.guard({"attack": {"steps": 4, "clip": [0, 1]}})  # nothing is kept yet: nothing to protect
        store.write(rows(0))
    with RowStore(tmp_path) as store:
        store.guard({"attack": {"clip": [0, 1], "steps": 4}})
        with pytest.raises(RuntimeError, match=r"attack.steps 4, but this run has 5; without seed, but .*: give"):
            store.guard({"attack": {"steps": 5, "clip": [0, 1]}, "seed": 1})


def test_a_batch_is_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    with RowStore(tmp_path) as store:
        store.write(rows(0, 1))
        with pytest.raises(TypeError):
            store.write(rows(2, 3).assign(case=pd.Series(["text", b"text"], dtype=object)))
        store.write(rows(1, 4).assign(loss=-1.0))  # what is kept stays
        assert store.read()["loss"].tolist() == [0.0, 1 / 3, -1.0]


WRITER = """
import sys
import pandas as pd
from monai_amat.robustness.store import RowStore

with RowStore(sys.argv[1]) as store:
    store.guard({"run": 1})
    for batch in range(100_000):
        ids = range(50 * batch, 50 * batch + 50)
        store.write(pd.DataFrame({"noise_level": 1.0, "sample_id": ids, "case": "x" * 500, "batch": batch}))
        print(batch, flush=True)
"""


def test_a_killed_process_leaves_whole_batches_and_no_lock_and_two_at_once_are_refused(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    for round_ in range(3):
        folder = tmp_path / str(round_)
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True, env=environment
        )
        try:
            assert writer.stdout is not None
            said = [writer.stdout.readline() for _ in range(3 + round_)]
            with pytest.raises(RuntimeError, match=r"rows.sqlite is in use by another process; wait until"):
                RowStore(folder).__enter__()
            time.sleep(0.003 * round_)
        finally:
            writer.send_signal(signal.SIGKILL)
            writer.communicate()
        with RowStore(folder) as store:
            sizes = store.read().groupby("batch").size()
        assert (sizes == 50).all()
        assert len(sizes) >= len(said)


def test_a_file_that_is_no_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.sqlite").write_bytes(b"text" * 1000)
    with pytest.raises(RuntimeError, match=r"rows.sqlite is not a file of rows .*give another output_dir, or delete"):
        RowStore(tmp_path).__enter__()
    with pytest.raises(RuntimeError, match="is closed"):
        RowStore(tmp_path / "other").read()
