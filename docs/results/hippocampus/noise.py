"""How much noise each arm was trained with, where its margins ended, and what it came to: noise.png and noise.md.

    python docs/results/hippocampus/noise.py OUTPUT_DIR/arms

OUTPUT_DIR is that of study.sh, which must have run.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from monai_amat.study.arms import Arm, Bundle

BUNDLE = Bundle(Path(__file__).parents[3] / "bundles" / "hippocampus_amat")
GROUPS = {"classes none": "empty", "classes 1": "one class (anterior)", "classes 2": "one class (posterior)"} | {
    "classes 1,2": "both classes"
}


def trained_noise(spec: str, folder: Path) -> float:
    """Mean L2 norm of the noise over all visits of a training."""
    table = folder / "margins.csv"
    if table.is_file():
        return float(pd.read_csv(table)["noise_norm"].mean())  # every epoch has as many visits
    largest = float(spec.partition(":")[2] or 0)
    # Uniform and ramp have half of their largest ε on average.
    return largest / 2 if spec.startswith(("sat_uniform", "sat_ramp")) else largest


def main(study: Path) -> None:
    """Read a finished study and write beside its other results."""
    summary = json.loads((study / "summary.json").read_text(encoding="utf-8"))
    rows = []
    for spec in summary["study"]["arms"]:
        arm = Arm.parse(spec, BUNDLE)
        folder = study / "arms" / arm.folder / "seed=0"
        levels = summary["arms"][arm.label]["levels"]
        row = {"arm": arm.label, "noise trained with": trained_noise(spec, folder)}
        row |= {f"ADI {name}": levels[level]["adi"]["value"] for name, level in {"clean": "0", "mean": "Avg"}.items()}
        row |= {"low": levels["Avg"]["adi"]["low"], "high": levels["Avg"]["adi"]["high"]}
        if (folder / "margins.csv").is_file():
            last = pd.read_csv(folder / "margins.csv").iloc[-1]
            row |= {"median margin": last["q50"]} | {name: last[f"mean[{group}]"] for group, name in GROUPS.items()}
        rows.append(row)
    table = pd.DataFrame(rows)
    _draw(table, study / "noise.png")
    shown = table.drop(columns=["low", "high"])
    lines = [list(shown.columns), ["---"] * len(shown.columns)]
    lines += [[v if isinstance(v, str) else "" if pd.isna(v) else f"{v:.3g}" for v in row] for row in shown.to_numpy()]
    (study / "noise.md").write_text("".join(f"| {' | '.join(line)} |\n" for line in lines), encoding="utf-8")


def _draw(table: pd.DataFrame, path: Path) -> None:
    figure, axes = plt.subplots(figsize=(9.5, 4.8), layout="constrained")
    adaptive = table["arm"].str.startswith("AMAT")
    for chosen, marker, label in ((~adaptive, "o", "STD, SAT and its controls"), (adaptive, "s", "AMAT")):
        part = table[chosen]
        errors = [part["ADI mean"] - part["low"], part["high"] - part["ADI mean"]]
        axes.errorbar(part["noise trained with"], part["ADI mean"], errors, fmt=marker, capsize=2, lw=0.8, label=label)
    # Names in a column to the right, in the order of the points and joined to them: many points are close together.
    ordered = table.sort_values("ADI mean")
    for place, (_, row) in zip(np.linspace(0.02, 0.98, len(ordered)), ordered.iterrows(), strict=True):
        axes.annotate(
            row["arm"],
            (row["noise trained with"], row["ADI mean"]),
            xytext=(1.04, place),
            textcoords="axes fraction",
            fontsize=7,
            va="center",
            arrowprops={"arrowstyle": "-", "lw": 0.3, "color": "0.6", "relpos": (0, 0.5)},
        )
    axes.set(xlabel="mean L2 norm of the noise trained with", ylabel="ADI, mean over noise 0 to 10")
    axes.legend(frameon=False, loc="upper left")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
