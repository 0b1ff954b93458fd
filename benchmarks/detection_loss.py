"""What it costs a detector to have one loss per image: against ultralytics' criterion, and in an attack.

The loss of each image is compared with the package's criterion on the whole batch, both with the gradient with respect
to the network's outputs. The attack is compared with a loop that only takes as many gradients of that per-image loss
with respect to the images, at the clean images, and does nothing with them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from report import command_line, parse, publish
from timing import interleave, ratios, spread
from torch import Tensor

from monai_amat.attacks import ProjectedGradientDescent
from monai_amat.engines import BatchObjective, frozen
from monai_amat.tasks.detection import DetectionLoss, YOLOv5

NAME = "detection_loss"
CLASSES = 3
EPSILON = 5.0
OURS, THEIRS = "per image", "ultralytics, per batch"
PGD, BARE = "PGD", "bare loop"


@dataclass(frozen=True)
class Workload:
    """A detector and a batch for it.

    Args:
        network: YOLOv5 in training mode.
        loss: the loss of each image.
        images: `(B, 3, H, W)` in 0..1.
        target: `(B, objects, 5)`, class and corners in pixels.
    """

    network: YOLOv5
    loss: DetectionLoss
    images: Tensor
    target: Tensor


def detection(size: str, pixels: int, batch: int, objects: int, seed: int, device: torch.device) -> Workload:
    """A fresh network, noise for images, and boxes of 1/16 to 1/4 of the image's side anywhere in it.

    Args:
        size: of YOLOv5.
        pixels: side of the images.
        batch: number of images.
        objects: boxes per image.
        seed: decides weights, images and boxes.
        device: where to put them.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = YOLOv5(CLASSES, size).train().to(device)
        images = torch.rand(batch, 3, pixels, pixels)
        sides = pixels * (1 / 16 + 3 / 16 * torch.rand(batch, objects, 2))
        corner = torch.rand(batch, objects, 2) * (pixels - sides)
        labels = torch.randint(0, CLASSES, (batch, objects, 1)).float()
    target = torch.cat([labels, corner, corner + sides], dim=-1)
    return Workload(network, DetectionLoss(network), images.to(device), target.to(device))


def loss_calls(workload: Workload) -> dict[str, Callable[[], object]]:
    """Both losses with their gradients, on outputs that the network gave once."""
    criterion = workload.network.model.init_criterion()
    with torch.no_grad(), frozen(workload.network) as network:
        raw = network(workload.images)
    leaves = {name: raw[name].detach().requires_grad_(True) for name in ("boxes", "scores")}
    raw = {**raw, **leaves}
    batch, objects, _ = workload.target.shape
    low, high = workload.target[..., 1:].flatten(0, 1).chunk(2, dim=-1)
    truth = {
        "batch_idx": torch.arange(batch, device=low.device).repeat_interleave(objects),
        "cls": workload.target[..., :1].flatten(0, 1),
        "bboxes": torch.cat([(low + high) / 2, high - low], dim=-1) / workload.images.shape[-1],
    }
    return {
        OURS: lambda: torch.autograd.grad(workload.loss(raw, workload.target).sum(), list(leaves.values())),
        THEIRS: lambda: torch.autograd.grad(criterion(raw, truth)[0].sum(), list(leaves.values())),
    }


def attack_calls(workload: Workload, network: torch.nn.Module, steps: int) -> dict[str, Callable[[], object]]:
    """The attack and the loop; the caller freezes the network."""
    point = workload.images.clone().requires_grad_(True)
    attack = ProjectedGradientDescent(steps=steps, rel_step=5 / steps, clip_range=(0.0, 1.0))
    objective = BatchObjective(network, workload.loss, workload.target)

    def loop() -> object:
        gradient = None
        for _ in range(steps):
            (gradient,) = torch.autograd.grad(workload.loss(network(point), workload.target).sum(), point)
        return gradient

    return {PGD: lambda: attack(objective, workload.images, EPSILON), BARE: loop}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print and write; returns what the file holds."""
    parser = command_line(NAME, __doc__)
    parser.add_argument("--size", default="n", help="of YOLOv5 (%(default)s)")
    parser.add_argument("--pixels", type=int, default=320, help="side of the images (%(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="images for the loss (%(default)s)")
    parser.add_argument("--objects", type=int, default=13, help="an image; BCCD has 13 on average (%(default)s)")
    parser.add_argument("--attacked", type=int, default=4, help="images for the attack (%(default)s)")
    parser.add_argument("--steps", type=int, default=5, help="of the attack (%(default)s)")
    parser.add_argument("--pairs", type=int, default=20, help="timed pairs (%(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    quick = {"pixels": 64, "batch": 4, "objects": 3, "attacked": 2, "steps": 2, "pairs": 2}
    options = parse(parser, arguments, quick)
    device = torch.device(options.device)
    rows = []
    workload = detection(options.size, options.pixels, options.batch, options.objects, options.seed, device)
    seconds = interleave(loss_calls(workload), options.pairs, device=device)
    rows.append(("loss and its gradient", options.batch, OURS, THEIRS, seconds))
    workload = detection(options.size, options.pixels, options.attacked, options.objects, options.seed, device)
    with frozen(workload.network) as network:
        seconds = interleave(attack_calls(workload, network, options.steps), max(options.pairs // 4, 1), device=device)
    rows.append((f"attack of {options.steps} steps", options.attacked, PGD, BARE, seconds))
    results = [
        {
            "what": what,
            "images": images,
            "seconds": {name: spread(values) for name, values in taken.items()},
            "ratio": ratios(taken, ours, base),
            "of": [ours, base],
        }
        for what, images, ours, base, taken in rows
    ]
    table = [
        {
            "what": row["what"],
            "images": row["images"],
            "milliseconds": f"{row['seconds'][row['of'][0]].text(1, 1000)} ({row['of'][0]})",
            "against": f"{row['seconds'][row['of'][1]].text(1, 1000)} ({row['of'][1]})",
            "ratio": row["ratio"].text(),
        }
        for row in results
    ]
    return publish(NAME, options, results, table, device=device, packages=["ultralytics"])


if __name__ == "__main__":
    main()
