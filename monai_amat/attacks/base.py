"""The contract of an attack: objective, evaluation, result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from monai_amat.attacks.norms import Norm
from monai_amat.checks import check_per_sample

__all__ = [
    "Attack",
    "AttackResult",
    "Evaluation",
    "Objective",
    "as_evaluation",
    "check_attack",
    "check_inputs",
    "check_radius",
    "round_range",
]


@dataclass(frozen=True)
class Evaluation:
    """Loss and verdict of some rows of the batch at one point.

    Args:
        loss: `(n,)`, the loss that the attack raises; differentiable in the noisy input.
        accepted: `(n,)` bool, whether the output of the network is still acceptable; None without verdicts.
    """

    loss: Tensor
    accepted: Tensor | None = None


Objective = Callable[[Tensor, Tensor], "Evaluation | Tensor"]
"""`objective(noisy, rows)`: evaluate rows `(n,)` of the batch at `noisy` `(n, *shape)`; a plain `(n,)` tensor
is a loss without a verdict. Network, loss, targets and thresholds are bound inside; an attack does not see them. An
objective whose loss changes along the attack has a method `at(progress)`, see `monai_amat.attacks.progress`."""


@dataclass(frozen=True)
class AttackResult:
    """The result of an attack; every tensor has the sample at dim 0.

    Args:
        noisy: same shape and type as the inputs, detached.
        accepted: `(B,)` verdict at `noisy`; None if the objective gives no verdicts.
        all_accepted: `(B,)` whether every iterate was accepted, including `noisy`; None without verdicts.
        steps: `(B,)` number of gradient evaluations.
        stalled: `(B,)` steps at which the gradient was zero or not finite, so that the sample did not move.
        late_gain: `(B,)` rise of the loss over the last tenth of the steps (of the best loss, if the attack keeps the
            best point); None if the attack does not measure it.
        winner: `(B,)` int64, the number of the attack whose noise this is; None for a single attack.
    """

    noisy: Tensor
    accepted: Tensor | None
    all_accepted: Tensor | None
    steps: Tensor
    stalled: Tensor
    late_gain: Tensor | None = None
    winner: Tensor | None = None


class Attack(Protocol):
    """An object that adds noise to the inputs of a batch.

    Every attack has the norm of its radius, and whether it needs verdicts. An attack that contains another attack
    returns the values of the inner attack.
    """

    @property
    def norm(self) -> Norm:
        """The norm in which the radius and the size of the noise are measured."""

    @property
    def needs_verdicts(self) -> bool:
        """Whether the objective must return verdicts (`Evaluation.accepted`)."""

    def __call__(
        self, objective: Objective, inputs: Tensor, radius: Tensor | float, *, seeds: Sequence[int] | None = None
    ) -> AttackResult:
        """Attack `inputs` `(B, *shape)` within `radius` (number or `(B,)`, in the units of the inputs)."""


def check_attack(attack: Any) -> Attack:
    """The attack itself, after a check that it fulfils `Attack`.

    Raises:
        TypeError: if the object is not callable, or has no `norm` or `needs_verdicts`.

    Example:
        >>> check_attack(lambda objective, inputs, radius, seeds=None: ...)
        Traceback (most recent call last):
        ...
        TypeError: norm of the attack function must be a monai_amat.attacks.Norm, got no such property; add it, see ...
    """
    name = type(attack).__name__
    if isinstance(attack, type) or not callable(attack):
        shown = f"the class {attack.__name__}" if isinstance(attack, type) else name
        raise TypeError(f"attack must be a callable object, got {shown}; give an instance, see monai_amat.attacks")
    for wanted, kind, text in (("norm", Norm, "a monai_amat.attacks.Norm"), ("needs_verdicts", bool, "a bool")):
        value = getattr(attack, wanted, None)
        if not isinstance(value, kind):
            found = "no such property" if value is None else repr(value)
            raise TypeError(
                f"{wanted} of the attack {name} must be {text}, got {found}; add it, see monai_amat.attacks.Attack"
            )
    checked: Attack = attack
    return checked


def as_evaluation(value: Evaluation | Tensor, count: int) -> Evaluation:
    """The value of an objective as an `Evaluation`, after a check that it has one loss per sample.

    Raises:
        TypeError: if the verdict is not bool.
        ValueError: if the loss or the verdict is not `(count,)`.
    """
    evaluation = value if isinstance(value, Evaluation) else Evaluation(value)
    check_per_sample(evaluation.loss, count, "the loss of the objective")
    if evaluation.accepted is not None:
        check_per_sample(evaluation.accepted, count, "the verdict of the objective")
        if evaluation.accepted.dtype != torch.bool:
            raise TypeError(f"the verdict of the objective must be bool, got {evaluation.accepted.dtype}")
    return evaluation


def check_inputs(inputs: Tensor, clip_range: tuple[float, float] | None) -> Tensor:
    """The inputs as a plain detached tensor of at least single precision.

    Raises:
        TypeError: if they are not floating point.
        ValueError: if a value is not finite, or outside `clip_range`.
    """
    if not inputs.is_floating_point():
        raise TypeError(f"an attack needs floating-point inputs, got {inputs.dtype}; convert the images to float")
    plain = inputs.detach().as_subclass(torch.Tensor)
    plain = plain.clone() if plain.is_inference() else plain
    plain = plain if plain.dtype == torch.float64 else plain.float()
    if not torch.isfinite(plain).all():
        rows = torch.nonzero(~torch.isfinite(plain).reshape(len(plain), -1).all(dim=1)).flatten().tolist()
        raise ValueError(f"inputs must be finite, got NaN or infinity in samples {rows} of the batch; clean the images")
    if clip_range is not None and plain.numel():
        low, high = plain.amin().item(), plain.amax().item()
        if low < clip_range[0] or high > clip_range[1]:
            raise ValueError(
                f"inputs must lie in clip_range {clip_range}, got values in [{low:g}, {high:g}]; set clip_range to the "
                "range of the images that the network gets, or to None"
            )
    return plain


def round_range(clip_range: tuple[float, float] | None, dtype: torch.dtype) -> tuple[float, float] | None:
    """The range rounded to `dtype`: float32 cannot represent 0.1, and an image clipped to 0.1 must pass as in range."""
    if clip_range is None or not dtype.is_floating_point:
        return clip_range
    low, high = torch.tensor(clip_range, dtype=dtype, device="cpu").tolist()
    return low, high


def check_radius(radius: Tensor | float, inputs: Tensor) -> Tensor:
    """The radius as `(B,)` on the inputs' device.

    Raises:
        ValueError: if it is negative, not finite, or its length is not the batch size.
    """
    given = torch.as_tensor(radius, dtype=inputs.dtype, device=inputs.device).detach()
    if given.ndim > 1 or (given.ndim == 1 and given.shape[0] != inputs.shape[0]):
        raise ValueError(f"radius must be a number or ({inputs.shape[0]},), got shape {tuple(given.shape)}")
    values = given.expand(inputs.shape[0])
    wrong = ~(torch.isfinite(values) & (values >= 0))
    if wrong.any():
        raise ValueError(f"radius must be finite and not negative, got {values[wrong].tolist()}")
    return values
