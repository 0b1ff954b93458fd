"""The active test of an attack (Zimmermann et al. 2022): does it find examples that are known to exist?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from monai_amat.attacks import L2, Attack, AttackResult, Norm, Objective, WorstOf
from monai_amat.attacks.norms import per_sample
from monai_amat.engines.objective import BatchObjective
from monai_amat.seeding import fold, generator

__all__ = ["ActiveTest"]

_MOST_FEATURES = 50_000
_LOGIT = 5.0
_INNER = 0.95
_RANDOM_TRIES = 50


@dataclass
class ActiveTest:
    """Plant a point that counts as adversarial at the edge of the ball, and see whether the attack finds its region.

    For one image x: `points` points drawn in the ball of radius .95ε, and x itself, are the inner points; one point on
    the sphere of radius ε is the boundary point. The head of the network is replaced by a linear function of the
    network's own features that separates the boundary point from the inner ones: the inputs of its last layer with
    weights, `f`, give `z = w · f` with −1 at all inner points and 1 at the boundary point, w being the shortest such
    vector. Then the very attack of the evaluation runs from x and raises `ln(1 + exp(5z))`; it has found the region
    where `z > 0`. A sound attack nearly always finds it, and random points on the sphere nearly never; where they do,
    the test is too easy.

    It takes the place of an attack in a `PrepareBatch…`, changes nothing and notes what it found.

    Source: Zimmermann, Brendel, Tramer and Carlini 2022, "Increasing confidence in adversarial robustness evaluations".
    There the head is a logistic regression; both separate the points, and the shortest vector has a closed form.

    Args:
        attack: the attack of the evaluation.
        points: inner points beside the image; more make the region smaller, and each costs one forward.
        samples: how many images to test; further ones are left alone.
        found: for each image so far, whether the attack found the region.
        found_at_random: for each image so far, the share of random points in the region.
        skipped: why the test could not be run; empty where it could.
    """

    attack: Attack
    points: int = 100
    samples: int = 2
    found: list[bool] = field(default_factory=list)
    found_at_random: list[float] = field(default_factory=list)
    skipped: str = ""

    @property
    def norm(self) -> Norm:
        """The norm of the attack."""
        return self.attack.norm

    @property
    def needs_verdicts(self) -> bool:
        """Never."""
        return False

    def __call__(
        self, objective: Objective, inputs: Tensor, radius: Tensor | float, *, seeds: Sequence[int] | None = None
    ) -> AttackResult:
        """Test the first images of a batch.

        Raises:
            TypeError: for an objective that is not a `BatchObjective`.
        """
        if not isinstance(objective, BatchObjective):
            raise TypeError(f"an attack is tested through a BatchObjective, got {type(objective).__name__}")
        radii = torch.as_tensor(radius, dtype=inputs.dtype, device=inputs.device).expand(len(inputs))
        for row in range(len(inputs)):
            if len(self.found) >= self.samples or self.skipped:
                break
            self._test(
                objective,
                inputs[row : row + 1].detach(),
                row,
                radii[row : row + 1],
                row if seeds is None else seeds[row],
            )
        count = torch.zeros(len(inputs), dtype=torch.int64, device=inputs.device)
        return AttackResult(inputs.detach().clone(), None, None, count, count.clone())

    def report(self) -> dict[str, Any]:
        """What was found, for JSON."""
        count = len(self.found)
        return {
            "images": count,
            "found": sum(self.found) / count if count else None,
            "found_at_random": sum(self.found_at_random) / count if count else None,
            "skipped": self.skipped,
        }

    def _test(self, objective: BatchObjective, image: Tensor, row: int, radius: Tensor, seed: int) -> None:
        layer = last_layer(objective, image, row)
        if layer is None:
            self.skipped = "the network has no layer with weights whose inputs could serve as features"
            return
        features = _Features(objective, layer, row)
        inner = [
            image + self._draw(image, _INNER * radius, fold(seed, number), full=False) for number in range(self.points)
        ]
        edge = image + self._draw(image, radius, fold(seed, self.points), full=True)
        with torch.no_grad():
            known = torch.stack([features(point) for point in (image, *inner, edge)])
        head = separate(known)
        if head is None:
            self.skipped = "the features of the last layer do not separate the points"
            return
        found = without_losses(self.attack)(_Planted(features, head), image, radius, seeds=[seed])
        with torch.no_grad():
            self.found.append(bool(head(features(found.noisy)) > 0))
            tries = [
                image + self._draw(image, radius, fold(seed, self.points + 1 + number), full=True)
                for number in range(_RANDOM_TRIES)
            ]
            self.found_at_random.append(sum(bool(head(features(point)) > 0) for point in tries) / len(tries))

    def _draw(self, image: Tensor, radius: Tensor, seed: int, *, full: bool) -> Tensor:
        """Noise drawn uniformly in the ball, or, with `full`, on its sphere."""
        source = generator(seed)
        if isinstance(self.norm, L2):
            noise = torch.randn(image.shape, generator=source)
            length = 1.0 if full else float(torch.rand(1, generator=source)) ** (1 / image.numel())
        else:
            noise = torch.rand(image.shape, generator=source) * 2 - 1
            length = 1.0 if full else float(noise.abs().max())
        noise = noise.to(image)
        return noise * per_sample(length * radius / self.norm.size(noise), noise)


def without_losses(attack: Attack) -> Attack:
    """The attack with a planted head as its only loss: a suite's losses and metric are those of the task."""
    if not isinstance(attack, WorstOf):
        return attack
    members = {name: without_losses(member.attack) for name, member in attack.members.items()}
    return replace(attack, attacks=members, metric=None, done_at=None)


class _Planted:
    """The objective of the test: raised where the planted head sees the boundary point."""

    def __init__(self, features: _Features, head: Callable[[Tensor], Tensor]) -> None:
        self.features = features
        self.head = head

    def __call__(self, noisy: Tensor, rows: Tensor) -> Tensor:
        # Features without a gradient give a gradient of zero, so that the attack stalls and does not stop.
        return functional.softplus(_LOGIT * self.head(self.features(noisy))).reshape(1) + 0 * noisy.sum()


class _Features:
    """Features `(n,)` of one image: the inputs of a layer, of all its calls in one application of the network."""

    def __init__(self, objective: BatchObjective, layer: nn.Module, row: int) -> None:
        self.objective = objective
        self.layer = layer
        self.row = row

    def __call__(self, image: Tensor) -> Tensor:
        with recorded(self.layer) as inputs:
            self.objective.predict(image, torch.tensor([self.row], device=image.device))
        flat = torch.cat([values.float().flatten() for values in inputs])
        return flat[:: max(len(flat) // _MOST_FEATURES, 1)]


@contextmanager
def recorded(layer: nn.Module) -> Iterator[list[Tensor]]:
    """A list to which each call of the layer inside adds its input."""
    inputs: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    try:
        yield inputs
    finally:
        handle.remove()


def last_layer(objective: BatchObjective, image: Tensor, row: int) -> nn.Module | None:
    """The layer with weights that is called last, such as the 1 × 1 convolution of a segmentation network."""
    called: list[nn.Module] = []
    layers = [
        module for module in objective.network.modules() if isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
    ]
    handles = [layer.register_forward_pre_hook(lambda module, _: called.append(module)) for layer in layers]
    try:
        with torch.no_grad():
            objective.predict(image, torch.tensor([row], device=image.device))
    finally:
        for handle in handles:
            handle.remove()
    return called[-1] if called else None


def separate(features: Tensor) -> Callable[[Tensor], Tensor] | None:
    """The shortest linear function that is −1 on all rows but the last and 1 on the last; None where there is none.

    Args:
        features: `(points, n)`.

    Example:
        >>> head = separate(torch.tensor([[0.0, 0.0], [0.0, 1.0], [2.0, 0.0]]))
        >>> [round(head(torch.tensor(point)).item(), 4) for point in ([0.0, 1.0], [2.0, 0.0], [1.5, 0.0])]
        [-1.0, 1.0, 0.5]
    """
    middle = features.mean(0)
    centred = (features - middle).double()
    scale = centred.abs().amax().clamp_min(1e-30)
    centred = centred / scale
    wanted = -torch.ones(len(features), dtype=torch.float64, device=features.device)
    wanted[-1] = 1.0
    products = centred @ centred.T
    offset = wanted.mean()
    solved = torch.linalg.lstsq(
        products, (wanted - offset)[:, None], driver="gelsd" if products.device.type == "cpu" else None
    )
    weights = (centred.T @ solved.solution)[:, 0]
    if not bool(((centred @ weights + offset).sign() == wanted.sign()).all()):
        return None
    direction = (weights / scale).to(features.dtype)
    return lambda values: (values - middle) @ direction + offset.to(features.dtype)
