"""Errors of single landmarks, from the rows of the study.

    python docs/results/cephalometric/landmarks.py OUTPUT_DIR/arms [--evaluation forwards] [--seed 1]

Prints the median error, which a landmark that was never learnt does not move, and the mean over those landmarks that
every arm finds within 10 mm on clean images, on average.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from monai_amat.markdown import markdown_table

LEARNT = 10.0  # mm


def main() -> None:
    """Read a finished study and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("arms", type=Path)
    parser.add_argument("--evaluation", default="robustness")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    files = sorted(given.arms.glob(f"*/seed={given.seed}/{given.evaluation}/robustness.csv"))
    rows = {file.parents[2].name: pd.read_csv(file) for file in files}
    errors = {arm: table.set_index("noise_level").filter(regex=r"^error_\d+$") for arm, table in rows.items()}
    clean = pd.DataFrame({arm: table.loc[0.0].mean() for arm, table in errors.items()})
    learnt = clean.index[(clean < LEARNT).all(axis=1)]
    print(f"Learnt by every arm: {len(learnt)} of {len(clean)} landmarks.\n")
    for arm, worst in clean.items():
        if (worst >= LEARNT).any():
            print(f"{arm}: {worst[worst >= LEARNT].round(1).to_dict()}\n")
    median = {arm: table.stack().groupby(level=0).median() for arm, table in errors.items()}
    mean = {arm: table[learnt].stack().groupby(level=0).mean() for arm, table in errors.items()}
    for name, figures in (("median error, mm", median), ("MRE of those landmarks, mm", mean)):
        table = pd.DataFrame(figures).T
        lines = [[name, *(f"{level:g}" for level in table.columns)]]
        lines += [[str(arm), *(f"{value:.2f}" for value in values)] for arm, values in table.iterrows()]
        print(markdown_table(lines) + "\n")


if __name__ == "__main__":
    main()
