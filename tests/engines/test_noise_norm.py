"""The size of the noise is measured in the norm of the attack, whatever wraps the attack."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from monai_amat.attacks import Attack, AttackResult, Linf, Norm, ProjectedGradientDescent, Restarts
from tests.engines.preparing import adversarial, batch, instance_net, last_of, noisy


class Shift:
    """An attack of the user's own: every pixel moved by the radius."""

    needs_verdicts = False

    def __init__(self, norm: Norm) -> None:
        self.norm = norm

    def __call__(self, objective: Any, inputs: Tensor, radius: Any, *, seeds: Any = None) -> AttackResult:
        noisy = inputs + radius[:, None, None, None]
        return AttackResult(noisy, None, None, torch.ones(len(inputs)), torch.zeros(len(inputs)))


class Nameless(Shift):
    """The same without its norm."""

    norm = None  # type: ignore[assignment]

    def __init__(self) -> None:
        pass


LINF = ProjectedGradientDescent(norm="inf", steps=2)


@pytest.mark.parametrize(
    "attack",
    [LINF, Shift(Linf()), Restarts(Shift(Linf()), 2), Restarts(Restarts(Restarts(LINF, 1), 1), 1)],
    ids=["pgd", "own", "own in restarts", "restarts three deep"],
)
def test_noise_is_measured_in_the_norm_of_the_attack(attack: Attack) -> None:
    prepare = adversarial(attack=attack, radius=0.25)
    prepare(batch())
    torch.testing.assert_close(last_of(prepare).noise_norm, torch.full((4,), 0.25))
    evaluation = noisy(instance_net(), attack=attack, epsilon=0.25)
    evaluation(batch())
    torch.testing.assert_close(last_of(evaluation).noise_norm, torch.full((4,), 0.25))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Nameless(), "norm of the attack Nameless must be a monai_amat.attacks.Norm, got no such property; add"),
        (
            lambda *args, **kwargs: None,
            "norm of the attack function must be a monai_amat.attacks.Norm, got no such property",
        ),
        (ProjectedGradientDescent, "attack must be a callable object, got the class ProjectedGradientDescent"),
        (None, "attack must be a callable object, got NoneType"),
    ],
)
def test_what_does_not_say_its_norm_is_no_attack(wrong: Any, message: str) -> None:
    for make in (
        lambda: adversarial(attack=wrong),
        lambda: noisy(instance_net(), attack=wrong),
        lambda: Restarts(wrong, 2),
    ):
        with pytest.raises(TypeError, match=message):
            make()
