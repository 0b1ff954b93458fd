"""What trying stronger attacks showed, all arms together."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from monai_amat.files import write_text_whole
from monai_amat.robustness.store import write_rows

__all__ = ["write_strength"]


def write_strength(results: Mapping[str, Path], output_dir: Path) -> pd.DataFrame:
    """Put the arms' `strength.csv` into one table, with a column `arm` in front, and their `strength.md` too.

    Args:
        results: folders with both files, by arm.
        output_dir: where `strength.csv` and `strength.md` go.

    Returns:
        the table.

    Raises:
        FileNotFoundError: when one of the files is not there.
    """
    frames, texts = [], []
    for arm, folder in results.items():
        for name in ("strength.csv", "strength.md"):
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"{folder / name} is not there, though the step is done; does the bundle's strength.json write it?"
                )
        rows = pd.read_csv(folder / "strength.csv")
        rows.insert(0, "arm", arm)
        frames.append(rows)
        text = (folder / "strength.md").read_text(encoding="utf-8")
        # Its own headings go one level down, below the arm's.
        texts.append(f"# {arm}\n\n" + re.sub(r"^(#+ )", r"#\1", text, flags=re.MULTILINE).strip() + "\n")
    table = pd.concat(frames, ignore_index=True)
    write_rows(output_dir / "strength.csv", table)
    write_text_whole(output_dir / "strength.md", "\n".join(texts))
    return table
