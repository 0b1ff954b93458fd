"""A training step of AMAT against one of SAT, epoch by epoch: seconds, gradients and forwards per visit.

The hippocampus bundle's own configuration (train.json, small.json over it) makes three trainers: SAT, AMAT by the
paper's rule and AMAT at the boundary, from the same weights, over the same batches. The thresholds are fitted on a
plain training that is shorter than theirs, so that samples come to be accepted. MONAI's unchanged trainers take one
step each in turn; loading is not timed.

A boundary step takes fewer gradients where samples are rejected on the way, and more forwards, for verdicts. So beside
the seconds stand both, the share of samples rejected on their clean image already, before any noise, and the gradients
spent on those and on the others: the overlay's `floor` is Δ, so that such a sample gets plain noise of that size, in
full steps. A step that is cheap because the network is bad has no merit.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from counting import counted
from ignite.engine import Events
from monai.bundle import ConfigParser
from monai.data import set_track_meta
from monai.utils import set_determinism
from report import command_line, parse, publish
from timing import interleave, ratios, spread
from torch import Tensor

from monai_amat.tasks.segmentation import write_phantom

NAME = "training_step"
CONFIGS = Path(__file__).resolve().parents[1] / "bundles" / "hippocampus_amat" / "configs"
ARMS = {"SAT": ["sat"], "AMAT paper": ["amat"], "AMAT boundary": ["amat", "amat_boundary"]}
# What the trainer does between epochs is not part of a step.
LEFT_OUT = ("stats", "tensorboard", "progress", "resume")
QUICK = {"patch_size": [32, 32], "base_features": 4, "batch_size": 4, "train_cases": 3, "attack_steps": 2}


class SteppedTrainer:
    """A MONAI trainer that stops before and after every step.

    Args:
        parser: the arm's configuration.
    """

    def __init__(self, parser: ConfigParser) -> None:
        # In this order: the seed is set before the weights are drawn.
        parser.get_parsed_content("initialize")
        self.trainer = parser.get_parsed_content("train::trainer")
        self.prepare_batch = parser.get_parsed_content("train::prepare_batch")
        self.margin_handler = parser.get_parsed_content("margin_handler") if "margin_handler" in parser else None
        self.visits: list[Visits] = []
        self.trainer.add_event_handler(Events.ITERATION_STARTED, lambda engine: engine.interrupt())
        self.trainer.add_event_handler(Events.ITERATION_COMPLETED, self._note)

    def fetch(self) -> None:
        """Go on to the next batch, through whatever is done between epochs."""
        self.trainer.run()

    def step(self) -> None:
        """One step: attack, forward, backward, optimiser, margins."""
        self.trainer.run()

    def _note(self, engine: Any) -> None:
        judged = None if self.margin_handler is None else self.margin_handler.visits.clean_accepted
        self.visits.append(Visits(self.prepare_batch.last.result.steps, judged))
        engine.interrupt()


@dataclass(frozen=True)
class Visits:
    """The samples of one step.

    Args:
        gradients: `(B,)` gradient evaluations that the attack reports.
        clean_accepted: `(B,)` whether the clean image is accepted; None where no threshold judges it.
    """

    gradients: Tensor
    clean_accepted: Tensor | None


def configuration(folder: Path, dataset_dir: Path, names: Sequence[str], values: dict[str, Any]) -> ConfigParser:
    """One arm of the bundle, at the scale of `small.json`."""
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / f"{name}.json") for name in ("train", *names, "small")])
    fixed = {"device": "$torch.device('cpu')", "dataset_dir": str(dataset_dir), "output_dir": str(folder)}
    parser.update({"bundle_root": str(CONFIGS.parent), **fixed, **values})
    for name in LEFT_OUT:
        parser[f"train::{name}"] |= {"_disabled_": True}
    # MONAI leaves a disabled component out of the list that it stands in.
    parser["train::handlers"] = [
        part | {"_disabled_": "Validation" in part["_target_"]} for part in parser["train::handlers"]
    ]
    if "calibrate" in parser:
        parser["calibrate::handlers"] = [
            part for part in parser["calibrate::handlers"] if "Progress" not in part["_target_"]
        ]
    return parser


def fit_thresholds(folder: Path, dataset_dir: Path, values: dict[str, Any]) -> str:
    """Train plainly, fit ξ, and return the file."""
    parser = configuration(folder, dataset_dir, [], values)
    parser.get_parsed_content("initialize")
    parser.get_parsed_content("train::trainer").run()
    parser = configuration(folder, dataset_dir, ["calibrate"], values)
    parser.get_parsed_content("initialize")
    parser.get_parsed_content("calibrate::evaluator").run()
    return str(parser.get_parsed_content("thresholds_file"))


def make_arms(options: Any, folder: Path) -> dict[str, SteppedTrainer]:
    """The three trainers, before their first step."""
    values = {"seed": options.seed, "iterations_per_epoch": options.iterations, **(QUICK if options.quick else {})}
    dataset_dir = options.dataset_dir
    if dataset_dir is None:
        shape = (16, 22, 14) if options.quick else (36, 50, 36)
        dataset_dir = write_phantom(folder / "phantom", volumes=options.volumes, shape=shape)
    thresholds = fit_thresholds(folder / "std", dataset_dir, values | {"max_epochs": options.std_epochs})
    values["max_epochs"] = options.epochs
    arms = {}
    for name, configs in ARMS.items():
        own = values if name == "SAT" else {**values, "thresholds_file": thresholds}
        arms[name] = SteppedTrainer(configuration(folder / name, dataset_dir, configs, own))
    return arms


def run_epoch(epoch: int, arms: dict[str, SteppedTrainer], rounds: int) -> list[dict[str, Any]]:
    """One epoch of all arms in turn; one row per arm."""

    def fetch() -> None:
        for arm in arms.values():
            arm.fetch()

    with contextlib.ExitStack() as stack:
        counts = {name: stack.enter_context(counted(arm.trainer.network)) for name, arm in arms.items()}
        seconds = interleave({name: arm.step for name, arm in arms.items()}, rounds, warmup=0, before=fetch)
    first = next(iter(arms))
    rows = []
    for name, arm in arms.items():
        visits, arm.visits = arm.visits, []
        gradients = torch.cat([visit.gradients for visit in visits]).double()
        row: dict[str, Any] = {
            "epoch": epoch,
            "arm": name,
            "seconds": spread(seconds[name]),
            "ratio": ratios(seconds, name, first),
            "visits": len(gradients),
            "gradients_per_visit": float(gradients.mean()),
            # The training step itself takes two of each per visit: x and x̃.
            "forwards_per_visit": counts[name].samples / len(gradients) - 2,
            "backwards_per_visit": counts[name].gradient_samples / len(gradients) - 2,
        }
        if arm.margin_handler is not None:
            accepted = torch.cat([visit.clean_accepted for visit in visits if visit.clean_accepted is not None])
            row |= {
                "rejected_before_noise": float((~accepted).double().mean()),
                "gradients_of_these": _mean(gradients[~accepted]),
                "gradients_of_others": _mean(gradients[accepted]),
                "mean_margin": float(arm.margin_handler.adaptive.values.mean()),
            }
        rows.append(row)
    return rows


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print and write; returns what the file holds."""
    parser = command_line(NAME, __doc__)
    parser.add_argument("--dataset_dir", type=Path, help="Decathlon folder; the phantom by default")
    parser.add_argument("--volumes", type=int, default=25, help="of the phantom (%(default)s)")
    parser.add_argument("--std_epochs", type=int, default=4, help="plain training before ξ is fitted (%(default)s)")
    parser.add_argument("--epochs", type=int, default=12, help="of each arm (%(default)s)")
    parser.add_argument("--iterations", type=int, default=16, help="steps per epoch (%(default)s)")
    options = parse(parser, arguments, {"volumes": 15, "std_epochs": 1, "epochs": 2, "iterations": 2})
    with tempfile.TemporaryDirectory() as folder, quiet():
        arms = make_arms(options, Path(folder))
        results = [row for epoch in range(1, options.epochs + 1) for row in run_epoch(epoch, arms, options.iterations)]
        for arm in arms.values():
            arm.trainer.run()  # what comes after the last step
    table = [
        {
            "epoch": row["epoch"],
            "arm": row["arm"],
            "seconds per step": row["seconds"].text(),
            "÷ SAT's": row["ratio"].text(),
            "gradients per visit": f"{row['gradients_per_visit']:.2f}",
            "forwards per visit": f"{row['forwards_per_visit']:.2f}",
            "rejected before any noise": _text(row.get("rejected_before_noise"), ".0%"),
            "gradients of these / of others": " / ".join(
                _text(row.get(name), ".2f") for name in ("gradients_of_these", "gradients_of_others")
            ),
            "mean margin": _text(row.get("mean_margin"), ".2f"),
        }
        for row in results
    ]
    return publish(NAME, options, results, table)


@contextlib.contextmanager
def quiet() -> Any:
    """Undo what the bundle sets for its whole process, and keep its warnings off the table."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module=r"monai\.bundle")
            warnings.filterwarnings("ignore", message="ξ accepts")
            yield
    finally:
        logging.disable(level)
        set_track_meta(True)
        set_determinism(None)


def _mean(values: Tensor) -> float | None:
    return float(values.mean()) if len(values) else None


def _text(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


if __name__ == "__main__":
    main()
