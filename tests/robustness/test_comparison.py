"""Arms side by side: tables, merged files, and refusals of what cannot be compared."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from monai_amat.robustness import Report, compare, merge_rows, summarise, table_text, write_comparison
from monai_amat.robustness.comparison import Results
from monai_amat.tasks.segmentation import DiceIndexMetric

METRIC = DiceIndexMetric(num_classes=2)


def rows(quality: float, levels: tuple[float, ...] = (0.0, 5.0), samples: int = 12, seed: int = 0) -> pd.DataFrame:
    draw = np.random.default_rng(seed)
    parts = []
    for level in levels:
        hits = draw.binomial(20, quality * np.exp(-level / 5), samples)
        part = pd.DataFrame({"tp_1": hits, "fp_1": 20 - hits, "fn_1": 20 - hits})
        part.insert(0, "noise_level", level)
        part.insert(1, "sample_id", range(samples))
        part.insert(2, "case", [f"{i % 4:03d}" for i in range(samples)])
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def folder(path: Path, frame: pd.DataFrame) -> Path:
    path.mkdir(parents=True)
    frame.to_csv(path / "robustness.csv", index=False)
    (path / "summary.json").write_text(json.dumps({"levels": {}, "attack": {"steps": 7}, "seconds": 1.5}))
    return path


def test_frames_files_and_folders_give_the_same_table(tmp_path: Path) -> None:
    frame = rows(0.9)
    where = folder(tmp_path / "run", frame)
    tables = [compare({"STD": source}, metric=METRIC) for source in (frame, where, str(where / "robustness.csv"))]
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0])
    pd.testing.assert_frame_equal(tables[0].drop(columns="arm"), summarise(frame, METRIC))


def test_arms_that_were_attacked_in_other_ways_are_told(tmp_path: Path) -> None:
    one, other = folder(tmp_path / "one", rows(0.9)), folder(tmp_path / "other", rows(0.8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_comparison({"STD": one, "SAT": other, "frame": rows(0.7)}, tmp_path / "alike", metric=METRIC)
    (other / "summary.json").write_text(json.dumps({"attack": {"steps": 20}, "seconds": 9}))
    with pytest.warns(
        UserWarning, match=r"SAT, seed 1 .here. was not attacked as STD .there.: attack.steps: 7 there, 20"
    ):
        write_comparison({"STD": one, "SAT": {1: other}}, tmp_path / "unlike", metric=METRIC)
    # Noise that was made on another network is another attack.
    (other / "summary.json").write_text(json.dumps({"attack": {"steps": 7}, "source": "1a2b"}))
    with pytest.warns(UserWarning, match="SAT .here. was not attacked as STD .there.: source"):
        write_comparison({"STD": one, "SAT": other}, tmp_path / "transfer", metric=METRIC)


def test_arms_keep_their_order_and_seeds_are_told_apart() -> None:
    results: Results = {"STD": rows(0.5), "AMAT": {3: rows(0.9), 4: rows(0.9, seed=4)}}
    merged = merge_rows(results)
    assert list(merged.columns[:3]) == ["arm", "seed", "noise_level"]
    assert merged.groupby("arm", sort=False)["seed"].unique().map(list).to_dict() == {"STD": [0], "AMAT": [3, 4]}
    table = compare(results, metric=METRIC)
    assert list(dict.fromkeys(table["arm"])) == ["STD", "AMAT"]
    assert table.groupby("arm")["seeds"].unique().map(list).to_dict() == {"STD": [1], "AMAT": [2]}


def test_table_text_aligns_and_shows_intervals_and_seeds() -> None:
    results: Results = {"STD": rows(0.5), "AMAT": {3: rows(0.9), 4: rows(0.9, seed=4)}}
    table = compare(results, metric=METRIC)
    lines = table_text(table, digits=2).splitlines()
    assert [cell.strip() for cell in lines[0].strip("|").split("|")] == ["adi at noise", "0", "5", "Avg"]
    assert len({len(line) for line in lines}) == 1
    row = table[(table["arm"] == "AMAT") & (table["noise_level"] == 5.0) & (table["name"] == "tvdi")].iloc[0]
    cell = table_text(table, name="tvdi").splitlines()[3].strip("|").split("|")[2].strip()
    assert cell == (
        f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}] ({row['seed_min']:.3f}–{row['seed_max']:.3f})"
    )
    with pytest.raises(ValueError, match="holds no 'mre'; it holds"):
        table_text(table, name="mre")


def test_what_is_written_is_whole_and_says_where_it_comes_from(tmp_path: Path) -> None:
    results = {"STD": folder(tmp_path / "std", rows(0.5)), "AMAT": folder(tmp_path / "amat", rows(0.9))}
    output = tmp_path / "out"
    table = write_comparison(results, output, metric=METRIC, report=Report(ylabel="Average Dice index"))
    assert sorted(file.name for file in output.iterdir()) == ["curve.png", "robustness.csv", "summary.json", "table.md"]
    merged = pd.read_csv(output / "robustness.csv", dtype={"case": str})
    assert merged.groupby("arm", sort=False).size().to_dict() == {"STD": 24, "AMAT": 24}
    assert merged["case"].iloc[0] == "000"
    assert "seed" not in merged
    summary = json.loads((output / "summary.json").read_text())
    assert summary["arms"]["AMAT"]["runs"]["0"] == {"attack": {"steps": 7}, "seconds": 1.5}
    row = table[(table["arm"] == "STD") & (table["noise_level"] == "Avg") & (table["name"] == "adi")].iloc[0]
    assert summary["arms"]["STD"]["levels"]["Avg"]["adi"]["value"] == row["value"]
    assert matplotlib.image.imread(output / "curve.png").shape[2] >= 3


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            rows(0.9, levels=(0.0, 5.0, 9.0)),
            r"B was not tried on the same .* as A \(12 samples at noise 0, 5, 9; there",
        ),
        (rows(0.9, samples=8), r"8 samples at noise 0, 5; there 12 samples"),
        (pd.concat([rows(0.9), rows(0.9)]), "B: some samples occur twice"),
    ],
)
def test_what_cannot_be_compared_is_refused(other: pd.DataFrame, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare({"A": rows(0.9), "B": other}, metric=METRIC)


def test_missing_runs_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"robustness.csv is not there; run the robustness curve"):
        compare({"A": tmp_path}, metric=METRIC)
    with pytest.raises(ValueError, match="no arm to compare"):
        compare({}, metric=METRIC)
