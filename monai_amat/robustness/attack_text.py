"""Attacks and losses in words, for tables and reports."""

from __future__ import annotations

from monai_amat.attacks import (
    Attack,
    AutoProjectedGradientDescent,
    ProjectedGradientDescent,
    Restarts,
    ShrinkingRadius,
    Square,
    WorstOf,
)
from monai_amat.losses.base import PerSampleLoss

__all__ = ["attack_text", "loss_text"]


def loss_text(loss: PerSampleLoss) -> str:
    """The loss by its name, with what it says of itself, as in `HeatmapOffsetLoss(heatmap=HeatmapBCE)`."""
    settings = loss.extra_repr()
    return type(loss).__name__ + (f"({settings})" if settings else "")


def attack_text(attack: Attack) -> str:
    """What the attack does, in words."""
    if isinstance(attack, Restarts):
        return f"strongest of {attack.times} starts: {attack_text(attack.attack)}"
    if isinstance(attack, WorstOf):
        members = (
            attack_text(member.attack) + ("" if member.loss is None else f" raising {loss_text(member.loss)}")
            for member in attack.members.values()
        )
        return f"worst per sample of: {'; '.join(members)}"
    if isinstance(attack, AutoProjectedGradientDescent):
        return f"{attack.steps} steps of Auto-PGD ({attack.norm}), best iterate"
    if isinstance(attack, ShrinkingRadius):
        factors = ", ".join(f"{factor:g}" for factor in attack.factors)
        return f"{attack.attack.steps} steps of Auto-PGD ({attack.norm}) at {factors} times ε"
    if isinstance(attack, Square):
        return f"random search ({attack.norm}) of {attack.queries} queries, no gradient"
    if type(attack) is not ProjectedGradientDescent:  # a subclass does something else
        return type(attack).__name__
    if attack.steps == 0:
        return f"random noise ({attack.norm}) of the same size, no gradient"
    start = "the image itself" if attack.random_start is None else "a random start"
    iterate = "best" if attack.best_iterate else "last"
    return f"{attack.steps} steps of {attack.rel_step:g}·ε ({attack.norm}) from {start}, {iterate} iterate"
