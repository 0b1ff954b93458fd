"""What makes the attack loop faster on a CPU: one change at a time against a base, by the sample.

The base is one forward and input gradient of the nnU-Net in single precision, contiguous memory, one thread, batch 16.
A change that is faster but gives another gradient is not always better: the table also has the smallest cosine between
a sample's gradient and the base's, and the mean loss that PGD-10 reaches with it, computed in single precision. The
network is first trained on its batch, and has all its heads, as in training; --evaluation keeps only the last. At the
end, the same work by two processes of one thread each and by one process of two.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import torch
from report import command_line, parse, publish
from timing import interleave, ratios, spread
from torch import Tensor
from torch.nn import functional as F
from workload import Workload, fit, segmentation

from monai_amat.attacks import ProjectedGradientDescent
from monai_amat.engines import frozen

NAME = "cpu_speed"
EPSILON = 10.0
CHANGES = ("channels_last", "bfloat16", "bfloat16, channels_last", "compile", "two threads")


@dataclass(frozen=True)
class Variant:
    """How a gradient is computed.

    Args:
        name: what differs from the base.
        batch: samples.
        threads: threads of one operator.
        channels_last: memory format of weights and images.
        bfloat16: run under autocast.
        compiled: through `torch.compile`.
    """

    name: str
    batch: int
    threads: int = 1
    channels_last: bool = False
    bfloat16: bool = False
    compiled: bool = False


def variants(base: Variant, batches: Sequence[int], changes: Sequence[str]) -> list[Variant]:
    """The base with one change each."""
    named = {
        "channels_last": replace(base, channels_last=True),
        "bfloat16": replace(base, bfloat16=True),
        "bfloat16, channels_last": replace(base, bfloat16=True, channels_last=True),
        "compile": replace(base, compiled=True),
        "two threads": replace(base, threads=2),
    }
    chosen = [replace(named[name], name=name) for name in changes]
    return chosen + [replace(base, name=f"batch {batch}", batch=batch) for batch in batches if batch != base.batch]


def obstacle(variant: Variant) -> str | None:
    """Why the variant cannot run, or would show nothing, on this machine."""
    if variant.bfloat16 and not any(_capable(name) for name in ("avx512_bf16", "amx_bf16")):
        return "the processor has neither avx512_bf16 nor amx_bf16"
    if variant.compiled and shutil.which(os.environ.get("CXX", "g++")) is None:
        return "torch.compile needs a C++ compiler, and neither g++ nor CXX was found"
    if variant.threads > (os.cpu_count() or 1):
        return f"there are {os.cpu_count()} cores"
    return None


def _capable(name: str) -> bool:
    return bool(torch.cpu.get_capabilities().get(name, False))


def losses_of(variant: Variant, workload: Workload) -> Callable[[Tensor], Tensor]:
    """The losses `(n,)` of the workload's first samples at given images; its network is frozen by the caller."""
    network, labels = workload.network, workload.labels
    if variant.channels_last:
        # nn.Module.to, in place; a network of one's own for every variant.
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    called: Callable[[Tensor], Any] = torch.compile(network) if variant.compiled else network
    layout = torch.channels_last if variant.channels_last else torch.contiguous_format

    def call(images: Tensor) -> Tensor:
        if torch.get_num_threads() != variant.threads:
            torch.set_num_threads(variant.threads)
        with torch.autocast("cpu", torch.bfloat16) if variant.bfloat16 else nullcontext():
            return workload.loss(called(images.contiguous(memory_format=layout)), labels[: len(images)])

    return call


def gradient_of(losses: Callable[[Tensor], Tensor], images: Tensor) -> Callable[[], Tensor]:
    """A call that computes the gradient of the losses at these images."""
    point = images.clone().requires_grad_(True)

    def call() -> Tensor:
        (gradient,) = torch.autograd.grad(losses(point).sum(), point)
        return gradient

    return call


def compare(base: Variant, variant: Variant, width: int, options: Any) -> dict[str, Any]:
    """One variant against the base at one width."""
    described = {"width": width, "variant": variant.name, **asdict(variant)}
    why = obstacle(variant)
    if why is not None:
        return {**described, "left_out": why}
    most = max(base.batch, variant.batch)
    with ExitStack() as stack:
        losses, calls = {}, {}
        for one in (base, variant):
            workload = segmentation(width, most, options.seed)
            torch.set_num_threads(base.threads)
            fit(workload, options.training)
            workload.network.train(not options.evaluation)
            stack.enter_context(frozen(workload.network))
            losses[one.name] = losses_of(one, workload)
            calls[one.name] = gradient_of(losses[one.name], workload.images[: one.batch])
        seconds = interleave(calls, options.pairs, warmup=2)
        common = workload.images[: min(base.batch, variant.batch)]
        first, second = (calls[one.name]().flatten(1)[: len(common)] for one in (base, variant))
        reached = {}
        for name, evaluate in losses.items():
            noisy = _attacked(evaluate, common)
            with torch.no_grad():
                reached[name] = float(losses["base"](noisy).mean())
    by_sample = {
        "base": [value / base.batch for value in seconds[base.name]],
        "changed": [value / variant.batch for value in seconds[variant.name]],
    }
    return {
        **described,
        "seconds_per_sample": {name: spread(values) for name, values in by_sample.items()},
        "ratio": ratios(by_sample, "changed", "base"),
        "cosine": float(F.cosine_similarity(first.double(), second.double(), dim=1).min()),
        "loss_reached": {"base": reached["base"], "changed": reached[variant.name]},
    }


def _attacked(losses: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """PGD-10 as in training, from one start."""
    attack = ProjectedGradientDescent(steps=10, rel_step=0.4)
    return attack(lambda noisy, rows: losses(noisy), images, EPSILON, seeds=range(len(images))).noisy


def compare_processes(width: int, base: Variant, options: Any) -> dict[str, Any]:
    """Two processes of one thread against one process of two threads, over the same number of gradients."""
    with ExitStack() as stack:
        first, second, double = (
            stack.enter_context(_worker(width, replace(base, threads=threads), options)) for threads in (1, 1, 2)
        )
        calls = {
            "base": partial(_work, [double], 2 * options.gradients),
            "changed": partial(_work, [first, second], options.gradients),
        }
        seconds = interleave(calls, options.pairs)
    samples = 2 * options.gradients * base.batch
    by_sample = {name: [value / samples for value in values] for name, values in seconds.items()}
    return {
        "width": width,
        "variant": "two processes of one thread, against one of two threads",
        "seconds_per_sample": {name: spread(values) for name, values in by_sample.items()},
        "ratio": ratios(by_sample, "changed", "base"),
    }


@contextmanager
def _worker(width: int, variant: Variant, options: Any) -> Iterator[Connection]:
    """A process that computes the number of gradients sent to it."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, width, variant, options), daemon=True)
    process.start()
    theirs.close()
    try:
        ours.recv()  # ready
        yield ours
    finally:
        ours.close()
        process.join(timeout=10)
        process.kill()


def _serve(connection: Connection, width: int, variant: Variant, options: Any) -> None:
    workload = segmentation(width, variant.batch, options.seed)
    workload.network.train(not options.evaluation)
    with frozen(workload.network):
        call = gradient_of(losses_of(variant, workload), workload.images[: variant.batch])
        call()
        connection.send("ready")
        try:
            while True:
                for _ in range(connection.recv()):
                    call()
                connection.send("done")
        except EOFError:  # the other end is closed
            return


def _work(workers: Sequence[Connection], gradients: int) -> None:
    for worker in workers:
        worker.send(gradients)
    for worker in workers:
        worker.recv()


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print and write; returns what the file holds."""
    parser = command_line(NAME, __doc__)
    parser.add_argument("--widths", type=int, nargs="+", default=[8, 16], help="of the nnU-Net (%(default)s)")
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 32, 64], help="the first is the base's")
    parser.add_argument("--changes", nargs="*", choices=CHANGES, default=list(CHANGES), help="(all)")
    parser.add_argument(
        "--evaluation", action="store_true", help="one head, as evaluation attacks, not all of training"
    )
    parser.add_argument("--pairs", type=int, default=20, help="timed pairs (%(default)s)")
    parser.add_argument("--training", type=int, default=60, help="steps the network is trained before (%(default)s)")
    parser.add_argument("--gradients", type=int, default=10, help="of each process, a round (%(default)s)")
    quick = {
        "widths": [4],
        "batches": [2, 3],
        # Compiling takes a minute.
        "changes": [name for name in CHANGES if name != "compile"],
        "pairs": 1,
        "training": 5,
        "gradients": 1,
    }
    options = parse(parser, arguments, quick)
    base = Variant("base", options.batches[0])
    threads = torch.get_num_threads()
    results = []
    try:
        for width in options.widths:
            chosen = variants(base, options.batches, options.changes)
            results += [compare(base, variant, width, options) for variant in chosen]
            results.append(compare_processes(width, base, options))
    finally:
        torch.set_num_threads(threads)
    return publish(NAME, options, results, [_line(row) for row in results])


def _line(row: dict[str, Any]) -> dict[str, object]:
    line: dict[str, object] = {"width": row["width"], "change": row["variant"]}
    if "left_out" in row:
        columns = ("÷ base", "smallest cosine to the base's gradient", "loss reached, changed / base")
        return {**line, "ms per sample": row["left_out"], **dict.fromkeys(columns, "–")}
    reached = row.get("loss_reached")
    return {
        **line,
        "ms per sample": row["seconds_per_sample"]["changed"].text(2, 1e3),
        "÷ base": row["ratio"].text(),
        "smallest cosine to the base's gradient": f"{row['cosine']:.5f}" if "cosine" in row else "–",
        "loss reached, changed / base": f"{reached['changed']:.4f} / {reached['base']:.4f}" if reached else "–",
    }


if __name__ == "__main__":
    main()
