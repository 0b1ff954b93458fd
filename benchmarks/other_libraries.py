"""The attack of this package against that of foolbox and of torchattacks: the same L2 PGD, the same network and loss.

All are given one frozen network, one batch, ε, step size, number of steps and loss. Both libraries are made for
classifiers and images in [0, 1]: their cross-entropy over classes is replaced by the segmentation loss, summed over the
batch, and the images are mapped into [0, 1] with so much room that no pixel can reach an end within ε. This package
attacks through the same map. Losses are with a random start, each library's own, and the mean over all timed attacks;
without one, and in double precision, all must end at the same noise.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from counting import counted
from report import command_line, parse, publish
from timing import interleave, ratios, spread
from torch import Tensor, nn
from workload import Workload, fit, segmentation

from monai_amat.attacks import L2, FullStart, ProjectedGradientDescent
from monai_amat.engines import frozen

NAME = "other_libraries"
OURS = "monai_amat"
INSTALL = {
    "foolbox": "pip install -c constraints.txt foolbox",
    # Its requirements name torchvision, which only a second package in its wheel uses, and a requests of 2021.
    "torchattacks": "pip install -c constraints.txt --no-deps torchattacks",
}

Attack = Callable[[bool], Tensor]
"""Noisy images in [0, 1], with or without a random start."""


class UnitRange(nn.Module):
    """A network for images in [0, 1] that stand for `[-bound, bound]`."""

    def __init__(self, network: nn.Module, bound: float) -> None:
        super().__init__()
        self.network = network
        self.bound = bound

    def forward(self, inputs: Tensor) -> Any:
        """The network's output at `(2·inputs − 1)·bound`."""
        return self.network((2 * inputs - 1) * self.bound)


@dataclass(frozen=True)
class Task:
    """What all attack.

    Args:
        workload: network, loss and batch.
        model: the network for images in [0, 1].
        images: `(B, 1, H, W)` in [0, 1].
        epsilon: radius in units of these images.
        steps: gradient steps.
        rel_step: step size over radius.
    """

    workload: Workload
    model: nn.Module
    images: Tensor
    epsilon: float
    steps: int
    rel_step: float

    def losses(self, images: Tensor) -> Tensor:
        """Loss `(B,)`."""
        losses: Tensor = self.workload.loss(self.model(images), self.workload.labels)
        return losses


def make_task(workload: Workload, epsilon: float, steps: int) -> Task:
    """The workload in [0, 1], with room for ε on both sides."""
    bound = float(workload.images.abs().max()) + epsilon + 1.0
    images = (workload.images / bound + 1) / 2
    model = UnitRange(workload.network, bound).train(workload.network.training)
    return Task(workload, model, images, epsilon / (2 * bound), steps, 4 / steps)


def ours(task: Task) -> Attack:
    """This package's attack; it clips as the others do, and starts elsewhere at every call, as they do."""
    batch = len(task.images)
    calls = itertools.count()

    def attack(random_start: bool) -> Tensor:
        first = next(calls) * batch
        pgd = ProjectedGradientDescent(
            steps=task.steps,
            rel_step=task.rel_step,
            random_start=FullStart() if random_start else None,
            clip_range=(0.0, 1.0),
        )
        seeds = range(first, first + batch)
        return pgd(lambda noisy, rows: task.losses(noisy), task.images, task.epsilon, seeds=seeds).noisy

    return attack


def foolbox_pgd(task: Task) -> Attack:
    """`foolbox.attacks.L2ProjectedGradientDescentAttack` with its `get_loss_fn` overridden, as it invites to."""
    foolbox, eagerpy = _library("foolbox"), importlib.import_module("eagerpy")

    class SegmentationPGD(foolbox.attacks.L2ProjectedGradientDescentAttack):  # type: ignore[name-defined]
        def get_loss_fn(self, model: Any, labels: Any) -> Any:
            return lambda inputs: eagerpy.astensor(task.workload.loss(model(inputs).raw, task.workload.labels).sum())

    model = foolbox.PyTorchModel(task.model, bounds=(0, 1), device=task.images.device)
    goal = foolbox.criteria.Misclassification(task.workload.labels)

    def attack(random_start: bool) -> Tensor:
        pgd = SegmentationPGD(rel_stepsize=task.rel_step, steps=task.steps, random_start=random_start)
        # run, not a call: that would look for a class in the output.
        noisy: Tensor = pgd.run(model, task.images, goal, epsilon=task.epsilon)
        return noisy.detach()

    return attack


def torchattacks_pgd(task: Task) -> Attack:
    """`torchattacks.PGDL2` with the `nn.CrossEntropyLoss` that its module looks up replaced while it runs."""
    _library("torchattacks")
    module = importlib.import_module("torchattacks.attacks.pgdl2")
    loss = SimpleNamespace(CrossEntropyLoss=lambda: lambda pred, labels: task.workload.loss(pred, labels).sum())

    def attack(random_start: bool) -> Tensor:
        pgd = module.PGDL2(
            task.model,
            eps=task.epsilon,
            alpha=task.rel_step * task.epsilon,
            steps=task.steps,
            random_start=random_start,
        )
        with mock.patch.object(module, "nn", loss):
            noisy: Tensor = pgd(task.images, task.workload.labels)
        return noisy

    return attack


LIBRARIES = {"foolbox": foolbox_pgd, "torchattacks": torchattacks_pgd}


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        others = " ".join(other for other in LIBRARIES if other != name)
        raise SystemExit(
            f"{name} is not installed: {INSTALL[name]}, or leave it out with --libraries {others}"
        ) from None


def in_double(workload: Workload, width: int) -> Workload:
    """The same network and batch in double precision."""
    network = segmentation(width, 1, 0).network.train(workload.network.training)
    network.load_state_dict(workload.network.state_dict())
    images = workload.images.double()
    return Workload(network.to(images.device, torch.float64), workload.loss, images, workload.labels)


def measure(name: str, task: Task, exact: Task, pairs: int, seed: int) -> dict[str, Any]:
    """One library against this package.

    Args:
        name: the library.
        task: what is timed.
        exact: the same in double precision, where twenty steps do not blow a last digit up.
        pairs: timed pairs.
        seed: of the libraries' random starts.
    """
    attacks = {name: LIBRARIES[name](task), OURS: ours(task)}
    with frozen(exact.workload.network):
        noise = {who: make(exact)(False) - exact.images for who, make in ((name, LIBRARIES[name]), (OURS, ours))}
    evaluations = {}
    for who, attack in attacks.items():
        with counted(task.workload.network) as evaluations[who]:
            attack(True)
    torch.manual_seed(seed)  # the libraries draw from the global generator
    kept: dict[str, list[Tensor]] = {who: [] for who in attacks}
    calls = {who: partial(_keep, attack, kept[who]) for who, attack in attacks.items()}
    seconds = interleave(calls, pairs, device=task.images.device)
    return {
        "library": name,
        "evaluations": evaluations,
        "seconds": {who: spread(values) for who, values in seconds.items()},
        "ratio": ratios(seconds, OURS, name),
        "clean_loss": float(task.losses(task.images).mean()),
        "loss": {who: _mean_loss(task, noisy) for who, noisy in kept.items()},
        "noise_apart": float((L2().size(noise[OURS] - noise[name]) / task.epsilon).max()),
    }


def _keep(attack: Attack, kept: list[Tensor]) -> None:
    kept.append(attack(True))


def _mean_loss(task: Task, runs: Sequence[Tensor]) -> float:
    if not all(float(noisy.min()) > 0 and float(noisy.max()) < 1 for noisy in runs):
        raise RuntimeError("an attack reached the end of the range, so that clipping took part: make more room for it")
    return float(torch.stack([task.losses(noisy).detach().mean() for noisy in runs]).mean())


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print and write; returns what the file holds."""
    parser = command_line(NAME, __doc__)
    parser.add_argument("--libraries", nargs="+", choices=list(LIBRARIES), default=list(LIBRARIES), help="(both)")
    parser.add_argument("--width", type=int, default=8, help="of the nnU-Net (%(default)s)")
    parser.add_argument("--batch", type=int, default=16, help="samples (%(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="of the attack (%(default)s)")
    parser.add_argument("--epsilon", type=float, default=5.0, help="L2 norm, in z-scored grey values (%(default)s)")
    parser.add_argument("--training", type=int, default=60, help="steps the network is trained before (%(default)s)")
    parser.add_argument("--pairs", type=int, default=20, help="timed pairs (%(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    options = parse(parser, arguments, {"width": 4, "batch": 3, "steps": 5, "training": 5, "pairs": 2})
    workload = segmentation(options.width, options.batch, options.seed, options.device)
    fit(workload, options.training)
    workload.network.eval()  # as trained networks are attacked; both libraries ask for it
    task = make_task(workload, options.epsilon, options.steps)
    exact = make_task(in_double(workload, options.width), options.epsilon, options.steps)
    with frozen(workload.network):
        results = [measure(name, task, exact, options.pairs, options.seed) for name in options.libraries]
    table = [
        {
            "library": row["library"],
            "forwards, theirs / ours": _both(row["evaluations"], row["library"], lambda e: str(e.forwards)),
            "their seconds": row["seconds"][row["library"]].text(),
            "ours ÷ theirs": row["ratio"].text(),
            "clean loss": f"{row['clean_loss']:.4f}",
            "loss reached, theirs / ours": _both(row["loss"], row["library"], lambda value: f"{value:.4f}"),
            "noise apart, of ε": f"{row['noise_apart']:.0e}",
        }
        for row in results
    ]
    return publish(NAME, options, results, table, device=task.images.device, packages=options.libraries)


def _both(values: dict[str, Any], name: str, text: Callable[[Any], str]) -> str:
    return f"{text(values[name])} / {text(values[OURS])}"


if __name__ == "__main__":
    main()
