"""The arms' strength tables, put together."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from monai_amat.study.strength import write_strength


def looked_at(folder: Path, value: float) -> Path:
    folder.mkdir(parents=True)
    (folder / "strength.csv").write_text(f"probe,value\npgd-20,{value}\npgd-100,{value / 3!r}\n")
    (folder / "strength.md").write_text(f"# Attack strength\n\n- {value}\n\n## More\n\n#no heading\n")
    return folder


def test_tables_and_texts_are_put_together_by_arm(tmp_path: Path) -> None:
    results = {"STD": looked_at(tmp_path / "a", 0.5), "SAT 5": looked_at(tmp_path / "b", 0.7)}
    table = write_strength(results, tmp_path / "out")
    read = pd.read_csv(tmp_path / "out" / "strength.csv")
    pd.testing.assert_frame_equal(read, table)
    assert list(table.columns) == ["arm", "probe", "value"]
    assert table["arm"].tolist() == ["STD", "STD", "SAT 5", "SAT 5"]
    assert table["value"].tolist() == [0.5, 0.5 / 3, 0.7, 0.7 / 3]
    assert (tmp_path / "out" / "strength.md").read_text() == (
        "# STD\n\n## Attack strength\n\n- 0.5\n\n### More\n\n#no heading\n\n"
        "# SAT 5\n\n## Attack strength\n\n- 0.7\n\n### More\n\n#no heading\n"
    )


@pytest.mark.parametrize("name", ["strength.csv", "strength.md"])
def test_a_file_that_the_bundle_did_not_write_is_named(name: str, tmp_path: Path) -> None:
    folder = looked_at(tmp_path / "a", 0.5)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"a/{name} is not there, though the step is done"):
        write_strength({"STD": folder}, tmp_path / "out")
    assert not (tmp_path / "out").exists()
