"""What does an attack do to a trained network for each gradient that it takes? Losses, steps and suites compared.

The network is one that a segmentation bundle has trained, on the bundle's own test slices (a balanced subset), at one
noise level. Each attack is a robustness curve of that level; a run that was stopped goes on. Damage is measured by ADI,
lower is a stronger attack; brackets are 95 % intervals over volumes; differences from the paper's attack are paired.
Without --checkpoint the network is drawn at random and the data are a phantom: to see that it runs.

    python benchmarks/attack_damage.py --checkpoint STD=runs/std/models/model.pt SAT10=runs/sat/models/model.pt \
        --dataset_dir /data/Task04_Hippocampus --set base_features=8
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from monai.bundle import ConfigParser
from report import command_line, parse, publish

from monai_amat.attacks import (
    Attack,
    AutoProjectedGradientDescent,
    ProjectedGradientDescent,
    ShrinkingRadius,
    Square,
)
from monai_amat.losses import (
    AttackCrossEntropy,
    CosPGDLoss,
    JensenShannon,
    PerSampleLoss,
    SegPGDLoss,
    SphericalLoss,
)
from monai_amat.robustness import RobustnessCurve, bootstrap
from monai_amat.tasks.segmentation import DiceCELoss, SmoothDiceIndex, segmentation_suite, write_phantom

NAME = "attack_damage"
BUNDLE = Path(__file__).resolve().parents[1] / "bundles" / "hippocampus_amat"
REFERENCE = "PGD-100, training loss (paper)"

Candidates = Mapping[str, tuple[Attack, PerSampleLoss | None]]


def candidates(metric: Any, *, short: int = 20, long: int = 60, queries: int = 300) -> Candidates:
    """The attacks by name, each with the loss that it raises (None: the training loss)."""
    auto = AutoProjectedGradientDescent(steps=short)
    losses = {
        "training loss": None,
        "Dice": DiceCELoss(weights={"ce": 0.0}),
        "cross-entropy": AttackCrossEntropy(),
        "balanced cross-entropy": AttackCrossEntropy(balanced=True),
        "masked balanced cross-entropy": AttackCrossEntropy(balanced=True, masked=True),
        "Jensen-Shannon": JensenShannon(),
        "CosPGD": CosPGDLoss(),
        "spherical": SphericalLoss(),
        "smooth ADI": SmoothDiceIndex(),
    }
    found: dict[str, tuple[Attack, PerSampleLoss | None]] = {
        REFERENCE: (ProjectedGradientDescent(steps=5 * short, rel_step=1 / short), None),
        f"PGD-{short}, training loss": (ProjectedGradientDescent(steps=short, rel_step=5 / short), None),
        f"PGD-{short}, SegPGD": (ProjectedGradientDescent(steps=short, rel_step=5 / short), SegPGDLoss()),
        **{f"APGD-{short}, {name}": (auto, loss) for name, loss in losses.items()},
        f"APGD-{5 * short}, smooth ADI": (AutoProjectedGradientDescent(steps=5 * short), SmoothDiceIndex()),
        f"large radius first, {long} steps, smooth ADI": (
            ShrinkingRadius(attack=AutoProjectedGradientDescent(steps=long)),
            SmoothDiceIndex(),
        ),
        f"Square, {queries} queries, training loss": (Square(queries=queries), None),
        f"suite: worst of APGD-{short} on training loss and smooth ADI": (
            segmentation_suite(metric=metric, steps=short),
            None,
        ),
    }
    return found


def parsed(options: Any, checkpoint: str | None) -> Callable[[str], Any]:
    """What the bundle's configuration holds by name."""
    parser = ConfigParser()
    parser.read_config([str(BUNDLE / "configs" / f"{name}.json") for name in ("train", "robustness")])
    values = dict(item.split("=", 1) for item in options.set)
    changes = {name: json.loads(value) for name, value in values.items()}
    if checkpoint is not None:
        changes["checkpoint"] = checkpoint
    changes |= {"bundle_root": str(BUNDLE), "dataset_dir": str(options.dataset_dir), "test_slices": options.slices}
    changes |= {"amp": False, "num_workers": 0, "device": "$torch.device('cpu')"}
    for name, value in changes.items():
        parser[name] = value
    return parser.get_parsed_content


def measure(options: Any, arm: str, checkpoint: str | None) -> list[dict[str, Any]]:
    """One row per attack on one network."""
    content = parsed(options, checkpoint)
    network = content("network" if checkpoint is None else "curve#network")
    metric, frames, rows = content("metric"), {}, []
    chosen = candidates(metric, short=options.steps, long=3 * options.steps, queries=options.queries)
    for number, (name, (attack, loss)) in enumerate(chosen.items()):
        curve = RobustnessCurve(
            network=network,
            data_loader=content("validate#dataloader"),
            loss=content("loss"),
            attack=attack,
            attack_loss=loss,
            noise_levels=[options.epsilon],
            metric=metric,
            output_dir=options.rows / arm / f"{number:02d}",
            inferer=content("attack_inferer"),
            prepare_batch=content("plain_batch"),
            progress=False,
        )
        frames[name] = curve.run()
        level = json.loads((curve.output_dir / "summary.json").read_text())["levels"][f"{options.epsilon:g}"]
        rows.append({"arm": arm, "attack": name, "gradients": level["gradient_evaluations"]})
        rows[-1]["seconds"] = level["seconds"]
    return [row | paired(frames[row["attack"]], frames[REFERENCE], metric) for row in rows]


def paired(frame: pd.DataFrame, reference: pd.DataFrame, metric: Any) -> dict[str, Any]:
    """ADI, and its difference from the reference on the same slices, with intervals over volumes."""

    def statistic(rows: pd.DataFrame, weights: np.ndarray | None) -> Mapping[Any, Any]:
        own, other = metric.summary(frame, weights)["adi"], metric.summary(reference, weights)["adi"]
        return {"adi": own, "difference": own - other}

    found = bootstrap(frame, statistic, group="case", samples=1000, seed=0, level=0.95)
    return {
        name: {"value": found[name].value, "low": found[name].low, "high": found[name].high}
        for name in ("adi", "difference")
    }


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print and write."""
    parser = command_line(NAME, __doc__)
    parser.add_argument(
        "--checkpoint", nargs="*", default=[], metavar="ARM=FILE", help="networks that a bundle trained"
    )
    parser.add_argument("--dataset_dir", type=Path, help="the bundle's data; a phantom by default")
    parser.add_argument("--set", nargs="*", default=[], metavar="ID=JSON", help="ids of the bundle's configuration")
    parser.add_argument("--epsilon", type=float, default=6.0, help="noise level (%(default)s)")
    parser.add_argument("--slices", type=int, default=24, help="test slices (%(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="of the short attacks (%(default)s)")
    parser.add_argument("--queries", type=int, default=300, help="of the random search (%(default)s)")
    parser.add_argument("--rows", type=Path, default=Path("runs/benchmarks/attack_damage"), help="(%(default)s)")
    quick = {"slices": 2, "steps": 1, "queries": 2, "set": ["base_features=4", "patch_size=[32, 32]"]}
    options = parse(parser, arguments, quick)
    with tempfile.TemporaryDirectory() as folder:
        if options.quick:
            options.rows = Path(folder) / "rows"
        if options.dataset_dir is None:
            options.dataset_dir = write_phantom(Path(folder) / "phantom", volumes=15, shape=(14, 24, 14), seed=0)
        arms = dict(item.split("=", 1) for item in options.checkpoint) or {"untrained": None}
        results = [row for arm, file in arms.items() for row in measure(options, arm, file)]
        table = [
            {
                "network": row["arm"],
                "attack": row["attack"],
                "gradients per slice": f"{row['gradients']:g}",
                "ADI [95 %]": interval(row["adi"]),
                "against the paper's": "" if row["attack"] == REFERENCE else interval(row["difference"], "+"),
                "seconds": f"{row['seconds']:.0f}",
            }
            for row in results
        ]
        return publish(NAME, options, results, table)


def interval(found: Mapping[str, float], sign: str = "") -> str:
    """A figure with its interval."""
    return "{value:{s}.3f} [{low:{s}.3f}, {high:{s}.3f}]".format(**found, s=sign)


if __name__ == "__main__":
    main()
