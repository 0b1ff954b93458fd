"""What training cost: every figure from a file of the run, none guessed."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from monai_amat.study.costs import costs_text, training_costs, write_costs


def trained(folder: Path, seconds: float, *, epochs: Sequence[int] = (), margins: str = "") -> Path:
    """A folder as a finished training leaves it."""
    (folder / "models").mkdir(parents=True)
    (folder / "train.json").write_text(json.dumps({"complete": True, "seconds": seconds, "values": {}}))
    for epoch in epochs:
        (folder / "models" / f"resume_epoch={epoch:04d}.pt").touch()
    (folder / "models" / "model.pt").touch()
    if margins:
        (folder / "margins.csv").write_text(margins)
    return folder


MARGINS = """\
epoch,visits,accepted,clean_accepted,gradient_evaluations
1,10,0.0,0.2,200.0
2,30,0.4,0.4,450.0
3,0,,,0.0
"""


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, dict[int, Path]]:
    return {
        "STD": {0: trained(tmp_path / "std0", 20.0, epochs=(9, 10)), 1: trained(tmp_path / "std1", 40.0, epochs=(10,))},
        "SAT 5": {0: trained(tmp_path / "sat0", 100.0, epochs=(10,)), 1: trained(tmp_path / "sat1", 100.0)},
        "AMAT": {
            0: trained(tmp_path / "amat0", 90.0, epochs=(9999, 10000), margins=MARGINS),
            1: trained(tmp_path / "amat1", 60.0, margins="epoch,mean\n1,2.5\n"),
        },
    }


def test_every_figure_by_hand(runs: dict[str, dict[int, Path]]) -> None:
    costs = training_costs(runs, std=runs["STD"])
    assert list(costs.columns) == [
        *("arm", "seed", "training_seconds", "seconds_per_epoch", "gradient_evaluations"),
        *("accepted", "rejected_before_noise", "relative_to_std"),
    ]
    assert list(zip(costs["arm"], costs["seed"], strict=True)) == [(arm, seed) for arm in runs for seed in (0, 1)]
    assert costs["training_seconds"].tolist() == [20, 40, 100, 100, 90, 60]
    assert costs["relative_to_std"].tolist() == [1, 1, 5, 2.5, 4.5, 1.5]
    assert costs["seconds_per_epoch"].tolist()[:3] == [2, 4, 10]
    assert costs["seconds_per_epoch"][4] == 90 / 10000
    amat = costs.iloc[4]
    assert amat["gradient_evaluations"] == 650
    assert amat["accepted"] == pytest.approx((0 * 10 + 0.4 * 30) / 40)
    assert amat["rejected_before_noise"] == pytest.approx(1 - (0.2 * 10 + 0.4 * 30) / 40)


def test_what_no_file_holds_stays_empty(runs: dict[str, dict[int, Path]], tmp_path: Path) -> None:
    costs = write_costs(runs, tmp_path, std=None)
    assert costs["relative_to_std"].isna().all()
    known = ["gradient_evaluations", "accepted", "rejected_before_noise"]
    assert costs[known].notna().all(axis=1).tolist() == [False] * 4 + [True, False]
    assert costs[known].isna().all(axis=1).tolist() == [True] * 4 + [False, True]
    assert costs["seconds_per_epoch"].isna().tolist() == [False, False, False, True, False, True]
    read = pd.read_csv(tmp_path / "costs.csv")
    pd.testing.assert_frame_equal(read, costs.astype({"gradient_evaluations": "float64"}), check_dtype=False)
    assert ",650," in (tmp_path / "costs.csv").read_text()  # a count, not 650.0


def test_a_clean_network_of_some_seeds_is_compared_with_there(runs: dict[str, dict[int, Path]]) -> None:
    costs = training_costs(runs, std={1: runs["STD"][1]})
    assert costs["relative_to_std"].isna().tolist() == [True, False] * 3


def test_the_table_says_the_same(runs: dict[str, dict[int, Path]], tmp_path: Path) -> None:
    costs = write_costs(runs, tmp_path, std=runs["STD"])
    text = (tmp_path / "costs.md").read_text()
    table, _, notes = text.partition("\n\n")
    assert table == costs_text(costs)
    assert notes.endswith("\n")
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert lines[0] == [
        *("arm", "seed", "training, s", "s an epoch", "gradient evaluations", "accepted", "clean loss above ξ"),
        "time relative to STD",
    ]
    assert lines[2] == ["STD", "0", "20.0", "2.00", "", "", "", "1.00"]
    assert lines[6] == ["AMAT", "0", "90.0", "0.01", "650", "0.300", "0.650", "4.50"]
    assert len({len(line) for line in table.splitlines()}) == 1


def test_the_notes_say_what_the_columns_hold(runs: dict[str, dict[int, Path]], tmp_path: Path) -> None:
    write_costs(runs, tmp_path, std=runs["STD"])
    _, _, notes = (tmp_path / "costs.md").read_text().partition("\n\n")
    assert "start-up and loading" in notes
    assert "gradient evaluations are recorded only where margins are kept" in notes.lower()
    assert "attacked and trained\n  on with noise all the same" in notes


def test_large_counts_can_be_read(tmp_path: Path) -> None:
    row = {"arm": "AMAT", "seed": 0, "training_seconds": 12345.6, "gradient_evaluations": 1834000, "accepted": math.nan}
    assert "| AMAT | 0    | 12,345.6    | 1,834,000            |          |" in costs_text(pd.DataFrame([row]))


def test_a_run_that_was_never_trained_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere/train\.json is not there: what this training took"):
        training_costs({"STD": {0: tmp_path / "nowhere"}})
