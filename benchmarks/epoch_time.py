"""How long an epoch of each way of training takes, and how much of the device's arithmetic it uses.

The paper (section 3.2) gives 10, 114 and 120 seconds for STD, SAT and AMAT on the hippocampus with one V100. Here the
bundle's own trainers run some epochs each at the paper's settings (or smaller ones, by --overlays and --id value pairs
of the bundle). Arithmetic is counted by torch in one step of each; the share is of what a large matrix product reaches
on the same device in the same precision. AMAT keeps its thresholds while training, so that no calibrated network is
needed; a step of it costs the same.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from fire.parser import DefaultParseValue
from ignite.engine import Events
from monai.bundle import ConfigWorkflow
from monai.data import get_track_meta, set_track_meta
from report import command_line, parse, publish
from timing import spread
from torch.utils.flop_counter import FlopCounterMode

from monai_amat.study import Arm, Bundle

NAME = "epoch_time"
BUNDLE = Path(__file__).resolve().parents[1] / "bundles" / "hippocampus_amat"


def matmul_rate(device: torch.device, amp: bool, *, size: int | None = None, rounds: int = 10) -> float:
    """FLOP a second of a square matrix product, the best of some rounds."""
    size = size or (8192 if device.type == "cuda" else 1024)
    dtype = torch.float16 if amp else torch.float32
    one, other = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(rounds):
        _wait(device)
        started = time.perf_counter()
        one @ other
        _wait(device)
        best = min(best, time.perf_counter() - started)
    return float(2 * size**3 / best)


def train(arm: Arm, bundle: Bundle, options: Any, values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Some epochs of one arm: seconds of each, arithmetic of a step."""
    files = [str(bundle.config(name)) for name in ("train", *arm.overlays, *options.overlays)]
    given = {
        "bundle_root": str(bundle.root),
        "dataset_dir": str(options.dataset_dir),
        "output_dir": str(folder),
        "seed": options.seed,
        "max_epochs": options.epochs + 1,
        "val_interval": options.epochs + 2,
        **values,
        **dict(arm.values),
    }
    parsed = {key: DefaultParseValue(value) if isinstance(value, str) else value for key, value in given.items()}
    workflow = ConfigWorkflow(files, logging_file=False, **parsed)
    workflow.initialize()
    trainer = workflow.parser.get_parsed_content("train::trainer")
    device = workflow.parser.get_parsed_content("device")
    clock: dict[str, Any] = {"seconds": [], "started": 0.0, "flop": 0}
    counter = FlopCounterMode(display=False)

    def start(engine: Any) -> None:
        _wait(device)
        clock["started"] = time.perf_counter()

    def stop(engine: Any) -> None:
        _wait(device)
        clock["seconds"].append(time.perf_counter() - clock["started"])

    def finish_count(engine: Any) -> None:
        counter.__exit__(None, None, None)
        clock["flop"] = counter.get_total_flops()

    trainer.add_event_handler(Events.EPOCH_STARTED, start)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, stop)
    trainer.add_event_handler(Events.ITERATION_STARTED(once=1), lambda engine: counter.__enter__())
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=1), finish_count)
    trainer.run()
    amp = bool(workflow.parser.get_parsed_content("amp"))
    steps = trainer.state.epoch_length
    # The first epoch counts, compiles and fills caches.
    seconds = spread(clock["seconds"][1:])
    rate = clock["flop"] * steps / seconds.median
    return {
        "arm": arm.label,
        "steps": steps,
        "batch": workflow.parser.get_parsed_content("batch_size"),
        "amp": amp,
        "device": str(device),
        "seconds": seconds,
        "flop_per_step": clock["flop"],
        "share_of_matmul": rate / matmul_rate(device, amp),
    }


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print and write; returns what the file holds."""
    parser = command_line(NAME, __doc__)
    parser.add_argument("--dataset_dir", type=Path, required=True, help="Task04_Hippocampus, or a phantom")
    parser.add_argument("--arms", nargs="+", default=["std", "sat:5", "amat_running:warmup=1"], help="(%(default)s)")
    parser.add_argument(
        "--epochs", type=int, default=3, help="timed epochs of each, after one that is not (%(default)s)"
    )
    parser.add_argument("--overlays", nargs="*", default=[], help="of the bundle over all arms, for example small")
    parser.add_argument("--set", nargs="*", default=[], metavar="ID=VALUE", help="values of the bundle in all arms")
    options = parse(parser, arguments, {"epochs": 1})
    bundle = Bundle(BUNDLE)
    values = dict(pair.split("=", 1) for pair in options.set)
    results = []
    for spec in options.arms:
        with tempfile.TemporaryDirectory() as folder:
            tracked = get_track_meta()
            try:
                results.append(train(Arm.parse(spec, bundle), bundle, options, values, Path(folder)))
            finally:
                set_track_meta(tracked)  # the bundle sets it for the whole process
    base = results[0]["seconds"].median
    table = [
        {
            "arm": row["arm"],
            "batch": row["batch"],
            "steps per epoch": row["steps"],
            "seconds per epoch": row["seconds"].text(1),
            f"÷ {results[0]['arm']}": f"{row['seconds'].median / base:.1f}",
            "GFLOP per step": f"{row['flop_per_step'] / 1e9:.1f}",
            "share of a matrix product's rate": f"{row['share_of_matmul']:.1%}",
        }
        for row in results
    ]
    return publish(NAME, options, results, table, device=torch.device(results[0]["device"]))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
