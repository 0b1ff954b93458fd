"""What the margins of ten million samples take: memory, disk, and time by batch size and by number of samples."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from memory import megabytes, memory_of
from report import command_line, parse, publish
from timing import interleave, ratios, spread
from torch import Tensor

from monai_amat.margins import PaperRule, SampleMargins

NAME = "margins_memory"
DELTA = 2.5
RULE = PaperRule(step=DELTA, max_margin=15.0)


def visits(size: int, batch: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """IDs, verdicts and noise norms of one step, `(batch,)` each."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(size, (batch,), generator=generator)
    return ids, torch.rand(batch, generator=generator) < 0.5, torch.full((batch,), DELTA)


def hold(size: int, seed: int) -> Callable[[], object]:
    """Make margins, update and look some up; what is left is the margins."""
    steps = [visits(size, 4096, seed + step) for step in range(10)]
    SampleMargins(10, DELTA).update(*visits(10, 16, seed), RULE)  # what PyTorch loads at first use is not counted

    def work() -> object:
        margins = SampleMargins(size, DELTA)
        for ids, accepted, norms in steps:
            margins.update(ids, accepted, norms, RULE)
            margins[ids]
        return margins

    return work


def save(size: int, folder: str) -> Callable[[], object]:
    """Save the state of margins that are there already."""
    margins = SampleMargins(size, DELTA)
    torch.save(SampleMargins(10, DELTA).state_dict(), Path(folder, "small.pt"))
    return lambda: torch.save(margins.state_dict(), Path(folder, "margins.pt"))


def load(size: int, folder: str) -> Callable[[], object]:
    """Load it into margins that are there already."""
    margins = SampleMargins(size, DELTA)
    torch.load(Path(folder, "small.pt"), weights_only=True)
    return lambda: margins.load_state_dict(torch.load(Path(folder, "margins.pt"), weights_only=True))


def measure_memory(size: int, seed: int) -> dict[str, Any]:
    """Bytes of the tensor, of the process, and on disk."""
    with tempfile.TemporaryDirectory() as folder:
        memory = {"in use": memory_of(hold, size, seed), "while saving": memory_of(save, size, folder)}
        disk = Path(folder, "margins.pt").stat().st_size
        memory["while loading"] = memory_of(load, size, folder)
    return {"samples": size, "tensor": SampleMargins(size, DELTA).values.nbytes, "memory": memory, "disk": disk}


def measure_time(kind: str, batch: int, options: Any) -> dict[str, Any]:
    """Microseconds of an update or a look-up, in a large set against a small one."""
    calls = {}
    for size in (options.small, options.size):
        margins = SampleMargins(size, DELTA)
        steps = [visits(size, batch, options.seed + step) for step in range(options.calls)]
        calls[str(size)] = partial(_update if kind == "update" else _look_up, margins, steps)
    seconds = interleave(calls, options.pairs)
    return {
        "kind": kind,
        "batch": batch,
        "seconds": {name: spread([value / options.calls for value in values]) for name, values in seconds.items()},
        "ratio": ratios(seconds, str(options.size), str(options.small)),
    }


def _update(margins: SampleMargins, steps: Sequence[tuple[Tensor, Tensor, Tensor]]) -> None:
    for ids, accepted, norms in steps:
        margins.update(ids, accepted, norms, RULE)


def _look_up(margins: SampleMargins, steps: Sequence[tuple[Tensor, Tensor, Tensor]]) -> None:
    for ids, _, _ in steps:
        margins[ids]


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print and write; returns what the file holds."""
    parser = command_line(NAME, __doc__)
    parser.add_argument("--size", type=int, default=10_000_000, help="samples (%(default)s)")
    parser.add_argument("--small", type=int, default=10_000, help="samples to compare with (%(default)s)")
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 256, 4096], help="visits per step (%(default)s)")
    parser.add_argument("--calls", type=int, default=100, help="steps per timing (%(default)s)")
    parser.add_argument("--pairs", type=int, default=20, help="timed pairs (%(default)s)")
    options = parse(parser, arguments, {"batches": [16, 256], "calls": 5, "pairs": 2})
    memory = measure_memory(options.size, options.seed)
    times = [measure_time(kind, batch, options) for kind in ("update", "look-up") for batch in options.batches]
    small, large = str(options.small), str(options.size)
    lines = {f"tensor of {options.size:,} margins": f"{megabytes(memory['tensor'])} MB"}
    lines["on disk"] = f"{megabytes(memory['disk'])} MB"
    for when, taken in memory["memory"].items():
        lines[f"process, {when}"] = f"+{megabytes(taken.held)} MB, at its peak +{megabytes(taken.peak)} MB"
    for row in times:
        spent = row["seconds"][large].text(1, 1e6)
        lines[f"{row['kind']} of {row['batch']}"] = f"{spent} µs, {row['ratio'].text(2)} × that of {small} samples"
    table = [{"what": what, "value": value} for what, value in lines.items()]
    return publish(NAME, options, {"memory": memory, "times": times}, table)


if __name__ == "__main__":
    main()
