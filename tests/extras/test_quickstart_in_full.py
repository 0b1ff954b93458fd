"""The quickstart at its own scale: minutes, so only when asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_amat.study import quickstart


@pytest.mark.extras
@pytest.mark.timeout(3600)
def test_quickstart_shows_the_difference(tmp_path: Path) -> None:
    table = quickstart(tmp_path / "quickstart")
    adi = table[table["name"] == "adi"].set_index(["arm", "noise_level"])["value"]
    assert adi["STD", 0.0] > 0.7 and adi["STD", 10.0] < 0.05
    for arm in ("SAT 5", "AMAT"):
        assert adi[arm, 0.0] > 0.6 and adi[arm, 6.0] > 0.3 > adi["STD", 6.0]
