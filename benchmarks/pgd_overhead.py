"""What projected gradient descent costs beyond its gradients: time and memory against a loop that only takes them.

The loop evaluates the network and its input gradient as often as the attack does, at the clean images, and does nothing
with them: no random start, no step, no projection. The network is seen through `frozen` on both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from counting import counted
from memory import megabytes, memory_of
from report import command_line, parse, publish
from timing import interleave, ratios, spread
from workload import Workload, segmentation

from monai_amat.attacks import ProjectedGradientDescent
from monai_amat.engines import BatchObjective, frozen

NAME = "pgd_overhead"
EPSILON = 5.0
BARE, PLAIN, BATCH = "bare loop", "PGD, plain objective", "PGD, BatchObjective"


def contender(kind: str, workload: Workload, steps: int) -> Callable[[], object]:
    """What is timed; the caller freezes the network.

    Args:
        kind: `BARE`, `PLAIN` or `BATCH`.
        workload: network and batch.
        steps: gradient evaluations.
    """
    network, loss, labels = workload.network, workload.loss, workload.labels
    if kind == BARE:
        point = workload.images.clone().requires_grad_(True)

        def loop() -> object:
            gradient = None
            for _ in range(steps):
                (gradient,) = torch.autograd.grad(loss(network(point), labels).sum(), point)
            return gradient

        return loop
    attack = ProjectedGradientDescent(steps=steps, rel_step=4 / steps)
    objective = BatchObjective(network, loss, labels) if kind == BATCH else _plain(workload)
    return lambda: attack(objective, workload.images, EPSILON)


def _plain(workload: Workload) -> Any:
    def objective(noisy: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return workload.loss(workload.network(noisy), workload.labels[rows])

    return objective


def prepare(
    kind: str, width: int, batch: int, steps: int, seed: int, device: str, threads: int
) -> Callable[[], object]:
    """The contender in a process of its own, whose memory is measured."""
    torch.set_num_threads(threads)
    workload = segmentation(width, batch, seed, device)
    stack = ExitStack()
    stack.enter_context(frozen(workload.network))
    call = contender(kind, workload, steps)

    def work() -> object:
        with stack:
            return call()

    return work


def measure(width: int, options: Any, device: torch.device) -> list[dict[str, Any]]:
    """Both attacks against the loop at one width."""
    workload = segmentation(width, options.batch, options.seed, device)
    evaluations, calls = {}, {}
    rows: list[dict[str, Any]] = []
    with frozen(workload.network):
        for kind in (BARE, PLAIN, BATCH):
            calls[kind] = contender(kind, workload, options.steps)
            with counted(workload.network) as evaluations[kind]:
                calls[kind]()
        for kind in (PLAIN, BATCH):
            seconds = interleave({BARE: calls[BARE], kind: calls[kind]}, options.pairs, device=device)
            rows.append({"seconds": seconds, "ratio": ratios(seconds, kind, BARE)})
    shared = (width, options.batch, options.steps, options.seed, str(device), torch.get_num_threads())
    memory = {kind: memory_of(prepare, kind, *shared) for kind in calls}
    return [
        {
            "width": width,
            "contender": kind,
            "evaluations": {name: evaluations[name] for name in (BARE, kind)},
            "seconds": {name: spread(values) for name, values in row["seconds"].items()},
            "ratio": row["ratio"],
            "memory": {name: memory[name] for name in (BARE, kind)},
        }
        for kind, row in zip((PLAIN, BATCH), rows, strict=True)
    ]


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print and write; returns what the file holds."""
    parser = command_line(NAME, __doc__)
    parser.add_argument("--widths", type=int, nargs="+", default=[8, 32], help="of the nnU-Net (%(default)s)")
    parser.add_argument("--batch", type=int, default=16, help="samples (%(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="of the attack (%(default)s)")
    parser.add_argument("--pairs", type=int, default=12, help="timed pairs (%(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    options = parse(parser, arguments, {"widths": [4], "batch": 2, "steps": 3, "pairs": 2})
    device = torch.device(options.device)
    results = [row for width in options.widths for row in measure(width, options, device)]
    table = [
        {
            "width": row["width"],
            "attack": row["contender"],
            "forwards (loop)": _both(row, "forwards"),
            "gradients (loop)": _both(row, "gradients"),
            "seconds of the loop": row["seconds"][BARE].text(),
            "time ÷ loop's": row["ratio"].text(),
            "peak MB (loop)": _memory(row, "total"),
            "of it by the work, MB (loop)": _memory(row, "peak"),
            **({"GPU MB (loop)": _memory(row, "gpu")} if device.type == "cuda" else {}),
        }
        for row in results
    ]
    return publish(NAME, options, results, table, device=device)


def _both(row: dict[str, Any], name: str) -> str:
    ours, loop = (getattr(row["evaluations"][kind], name) for kind in (row["contender"], BARE))
    return f"{ours} ({loop})"


def _memory(row: dict[str, Any], name: str) -> str:
    ours, loop = (megabytes(getattr(row["memory"][kind], name)) for kind in (row["contender"], BARE))
    return f"{ours} ({loop})"


if __name__ == "__main__":
    main()
