"""What a table is called where people read it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from monai_amat.robustness import Report
from monai_amat.robustness import report as module


def table() -> pd.DataFrame:
    """Two figures of one unnamed arm."""
    return pd.DataFrame(
        [
            {"noise_level": level, "name": name, "value": 0.5, "low": 0.4, "high": 0.6, "seeds": 1}
            for name in ("adi", "tvdi", "asd")
            for level in (0.0, 5.0)
        ]
    )


def test_every_figure_is_drawn_under_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, dict[str, Any]] = {}
    monkeypatch.setattr(module, "plot_curves", lambda _, path, **labels: drawn.update({path.name: labels}))
    Report(ylabel="ADI", xlabel="ε", further={"asd": "distance, mm"}).write(table(), tmp_path / "new")
    assert drawn == {
        "curve.png": {"name": None, "ylabel": "ADI", "xlabel": "ε", "rms": None},
        "curve_asd.png": {"name": "asd", "ylabel": "distance, mm", "xlabel": "ε", "rms": None},
    }
    texts = (tmp_path / "new" / "table.md").read_text().split("\n\n")
    assert [text.split()[1] for text in texts] == ["adi", "asd"]


def test_notes_stand_below_the_tables_and_the_axis_says_the_norm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[dict[str, Any]] = []
    monkeypatch.setattr(module, "plot_curves", lambda _, path, **labels: drawn.append(labels))
    Report().write(table(), tmp_path, notes=["One.", "Two."], rms={5.0: 0.1}, norm="Linf")
    assert (tmp_path / "table.md").read_text().endswith("|\n\n- One.\n- Two.\n")
    assert drawn[0]["rms"] == {5.0: 0.1}
    assert drawn[0]["xlabel"] == "noise level ε (Linf norm over the whole image)"


def test_a_figure_that_there_is_not_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the table holds no 'map'"):
        Report(further={"map": "mAP"}).write(table(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_names_alone_are_refused_before_anything_is_attacked() -> None:
    with pytest.raises(TypeError, match=r"must give a label for the name of each figure, .* got \['tvdi'\]"):
        Report(further=["tvdi"])  # type: ignore[arg-type]
