"""The stronger of two attacks for every image, from the rows of the study.

    python docs/results/bccd/worst.py OUTPUT_DIR/arms

Of the attack on the whole loss (``robustness``) and that on its class term (``class_attack``) the one that leaves the
lower IoU of an image's true objects, at every noise level that both were tried at; prints IoU and mAP. Of mAP it is
no lower bound: images are chosen by their IoU.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from monai_amat.robustness import compare, table_text
from monai_amat.robustness.strength import worst_rows
from monai_amat.tasks.detection import DetectionMetric

ARMS = {"STD": "std", "SAT 2.5": "sat_2.5", "SAT 5": "sat_5", "AMAT": "amat", "AMAT shuffled": "amat_shuffled"}
EVALUATIONS = ("robustness", "class_attack")
METRIC = DetectionMetric(classes=("RBC", "WBC", "Platelets"))


def worst(run: Path) -> pd.DataFrame:
    """The rows of the stronger attack."""
    read = [
        pd.read_csv(run / name / "robustness.csv").sort_values(["noise_level", "sample_id"]) for name in EVALUATIONS
    ]
    shared = sorted(set(read[0]["noise_level"]) & set(read[1]["noise_level"]))
    levels = [[rows[rows["noise_level"] == level].reset_index(drop=True) for rows in read] for level in shared]
    return pd.concat([worst_rows(level, METRIC) for level in levels], ignore_index=True)


def main() -> None:
    """Read a finished study and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("arms", type=Path)
    arms = parser.parse_args().arms
    table = compare({label: worst(arms / name / "seed=0") for label, name in ARMS.items()}, metric=METRIC)
    for name in ("iou_true", "map", "map50"):
        print(table_text(table, name=name), end="\n\n")


if __name__ == "__main__":
    main()
