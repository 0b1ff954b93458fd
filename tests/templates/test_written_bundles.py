"""The committed bundles are what the templates make."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_amat.__main__ import main
from monai_amat.templates import BUNDLES, bundle_files

REPOSITORY = Path(__file__).resolve().parents[2]
# What a user trains inside a bundle's folder is none of its files.
MADE_BY_RUNS = ("runs", "models", "eval", "predictions")


@pytest.mark.parametrize("name", BUNDLES)
def test_the_committed_bundle_is_what_is_written(name: str) -> None:
    root = REPOSITORY / "bundles" / f"{name}_amat"
    files = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    committed = {file.as_posix() for file in files if file.parts[0] not in MADE_BY_RUNS}
    written = bundle_files(name)
    assert committed == set(written)
    for file, text in written.items():
        assert (root / file).read_text(encoding="utf-8") == text, f"{file}: run `make bundles`"
        assert "{{" not in text


def test_the_command_writes_all_of_them_over_older_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stale = tmp_path / "heart_amat" / "configs" / "train.json"
    stale.parent.mkdir(parents=True)
    stale.write_text("{}")
    assert main(["bundles", str(tmp_path)]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / f"{name}_amat") for name in BUNDLES]
    assert stale.read_text(encoding="utf-8") == bundle_files("heart")["configs/train.json"]


def test_another_name_is_refused() -> None:
    with pytest.raises(ValueError, match="'liver', expected one of hippocampus"):
        bundle_files("liver")
