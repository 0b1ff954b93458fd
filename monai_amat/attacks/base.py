"""What an attack takes and gives: objective, evaluation, result."""

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
    """What an objective says of some rows of the batch at one point.

    Args:
        loss: `(n,)`, what the attack raises; differentiable in the noisy input.
        accepted: `(n,)` bool, whether the network still does well enough there; None where no verdict is wanted.
    """

    loss: Tensor
    accepted: Tensor | None = None


Objective = Callable[[Tensor, Tensor], "Evaluation | Tensor"]
"""`objective(noisy, rows)`: evaluate rows `(n,)` of the batch at `noisy` `(n, *shape)`; a plain `(n,)` tensor
is a loss without a verdict. Network, loss, targets and thresholds are bound inside; an attack knows none of them. An
objective whose loss changes along the attack has a method `at(progress)`, see `monai_amat.attacks.progress`."""


@dataclass(frozen=True)
class AttackResult:
    """What an attack returns; every tensor has the sample at dim 0.

    Args:
        noisy: same shape and type as the inputs, detached.
        accepted: `(B,)` verdict at `noisy`; None where the objective gave none.
        all_accepted: `(B,)` whether every iterate was accepted, `noisy` included; None where the objective gave none.
        steps: `(B,)` gradient evaluations spent.
        stalled: `(B,)` steps at which the gradient was zero or not finite, so that the sample did not move.
        late_gain: `(B,)` by how much the loss rose over the last tenth of the steps, the best loss where the attack
            keeps the best point; None where the attack does not measure it.
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
    """An object that makes noisy inputs of a batch.

    Every attack says in which norm its radius is measured, and whether it follows verdicts. An attack that contains
    another attack passes both on.
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
    """The attack itself, if it has what every attack has.

    Raises:
        TypeError: for an object that is not callable, or lacks `norm` or `needs_verdicts`.

    Example:
        >>> check_attack(lambda objective, inputs, radius, seeds=None: ...)
        Traceback (most recent call last):
        ...
        TypeError: function is not an attack: norm is missing, expected a monai_amat.attacks.Norm; add the property...
    """
    name = type(attack).__name__
    if isinstance(attack, type) or not callable(attack):
        shown = f"the class {attack.__name__}" if isinstance(attack, type) else name
        raise TypeError(f"attack must be a callable object, got {shown}; give an instance, see monai_amat.attacks")
    for wanted, kind, text in (("norm", Norm, "a monai_amat.attacks.Norm"), ("needs_verdicts", bool, "a bool")):
        value = getattr(attack, wanted, None)
        if not isinstance(value, kind):
            found = "is missing" if value is None else f"is {value!r}"
            raise TypeError(
                f"{name} is not an attack: {wanted} {found}, expected {text}; add the property, see "
                "monai_amat.attacks.Attack"
            )
    checked: Attack = attack
    return checked


def as_evaluation(value: Evaluation | Tensor, count: int) -> Evaluation:
    """Check that an objective answered per sample.

    Raises:
        TypeError: when the verdict is not bool.
        ValueError: when the loss or the verdict is not `(count,)`.
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
        TypeError: when they are not floating point.
        ValueError: when one is not finite, or outside `clip_range`.
    """
    if not inputs.is_floating_point():
        raise TypeError(f"an attack needs floating-point inputs, got {inputs.dtype}; convert the image to float first")
    plain = inputs.detach().as_subclass(torch.Tensor)
    plain = plain.clone() if plain.is_inference() else plain
    plain = plain if plain.dtype == torch.float64 else plain.float()
    if not torch.isfinite(plain).all():
        rows = torch.nonzero(~torch.isfinite(plain).reshape(len(plain), -1).all(dim=1)).flatten().tolist()
        raise ValueError(f"inputs of samples {rows} of the batch hold NaN or infinite values; clean the images first")
    if clip_range is not None and plain.numel():
        low, high = plain.amin().item(), plain.amax().item()
        if low < clip_range[0] or high > clip_range[1]:
            raise ValueError(
                f"inputs lie in [{low:g}, {high:g}], outside clip_range {clip_range}; "
                "give the range of the images the network really sees, or clip_range=None"
            )
    return plain


def round_range(clip_range: tuple[float, float] | None, dtype: torch.dtype) -> tuple[float, float] | None:
    """The range with both bounds rounded to `dtype`: an image clipped to 0.1 in float32 must count as in range."""
    if clip_range is None or not dtype.is_floating_point:
        return clip_range
    low, high = torch.tensor(clip_range, dtype=dtype, device="cpu").tolist()
    return low, high


def check_radius(radius: Tensor | float, inputs: Tensor) -> Tensor:
    """The radius as `(B,)` on the inputs' device.

    Raises:
        ValueError: when it is negative, not finite or of another length.
    """
    given = torch.as_tensor(radius, dtype=inputs.dtype, device=inputs.device).detach()
    if given.ndim > 1 or (given.ndim == 1 and given.shape[0] != inputs.shape[0]):
        raise ValueError(f"radius must be a number or ({inputs.shape[0]},), got shape {tuple(given.shape)}")
    values = given.expand(inputs.shape[0])
    wrong = ~(torch.isfinite(values) & (values >= 0))
    if wrong.any():
        raise ValueError(f"radius must be finite and not negative, got {values[wrong].tolist()}")
    return values
