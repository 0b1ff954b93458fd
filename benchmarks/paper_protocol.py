"""The paper's protocol on the hippocampus, for as long as there is time: one command, run again until it is done.

It times the epochs (epoch_time.py), then runs the study at the paper's settings (2-D nnU-Net of width 32, batch 366,
100 epochs of 50 steps, SGD, PGD-20 in training, PGD-100 in evaluation) with whatever device there is, and stops when
its minutes are over. Everything it needs to go on is under --output_dir; carry that folder to another machine, and the
same command goes on there.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import epoch_time


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 when the study is done, 3 when time was up before, otherwise the study's own exit code."""
    parser = argparse.ArgumentParser(
        prog="python benchmarks/paper_protocol.py", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--dataset_dir", type=Path, required=True, help="Task04_Hippocampus")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/paper_protocol"), help="(%(default)s)")
    parser.add_argument("--arms", nargs="+", default=["std", "sat:1", "sat:5", "sat:10", "sat:15", "amat"])
    parser.add_argument("--minutes", type=float, help="stop after so many; without it, when it is done")
    parser.add_argument("--overlays", nargs="*", default=[], help="of the bundle over all arms, to try it out: small")
    parser.add_argument("--set", nargs="*", default=[], metavar="ID=VALUE", help="values of the bundle in all runs")
    options = parser.parse_args(arguments)
    shared = ["--dataset_dir", str(options.dataset_dir), "--overlays", *options.overlays]
    times = options.output_dir / "epoch_time.json"
    if not times.is_file():
        epoch_time.main([*shared, "--output", str(times), "--set", *options.set])
    values = [word for pair in options.set for word in (f"--{pair.partition('=')[0]}", pair.partition("=")[2])]
    command = [
        *(sys.executable, "-m", "monai_amat", "compare", "--bundle", str(epoch_time.BUNDLE)),
        *("--arms", *options.arms, "--output_dir", str(options.output_dir), *shared, *values),
    ]
    with subprocess.Popen(command) as study:
        try:
            return study.wait(None if options.minutes is None else 60 * options.minutes)
        except subprocess.TimeoutExpired:
            study.terminate()  # not SIGINT, which a program in the background may not hear
            study.wait()
            print(f"{options.minutes:g} minutes are over; the same command goes on from here", flush=True)
            return 3


if __name__ == "__main__":
    sys.exit(main())
