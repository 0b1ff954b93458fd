"""Probes of an attack's strength: other attacks that a good one should not lose to, and those that it must beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from monai_amat.attacks import (
    L2,
    Attack,
    AutoProjectedGradientDescent,
    FullStart,
    Linf,
    ProjectedGradientDescent,
    Restarts,
    ShrinkingRadius,
    Square,
)
from monai_amat.checks import check_not_negative, check_positive, check_within
from monai_amat.engines import network_fingerprint
from monai_amat.losses.base import PerSampleLoss
from monai_amat.robustness.attack_text import attack_text, loss_text

__all__ = ["Probe", "standard_probes"]

_HUGE = 30.0


@dataclass(frozen=True)
class Probe:
    """One way of making noise.

    Args:
        attack: makes the noise.
        attack_loss: what it raises; the loss that is recorded by default.
        source: network that the noise is made on; the attacked one by default. With another it is a transfer attack.
        noise_level: ε of its own, in the units of the network's input, instead of the table's: a radius so large that
            the metric must break down, or 0 for clean images.
        noise_factor: ε of its own as a multiple of the table's largest, instead of `noise_level`.

    Raises:
        ValueError: when both are given.

    Example:
        >>> print(Probe(ProjectedGradientDescent(steps=100, rel_step=0.05)))
        100 steps of 0.05·ε (L2) from a random start, last iterate
        >>> print(Probe(Restarts(ProjectedGradientDescent(norm="inf", best_iterate=True), 3)))
        strongest of 3 starts: 20 steps of 0.25·ε (Linf) from a random start, best iterate
    """

    attack: Attack
    attack_loss: PerSampleLoss | None = None
    source: nn.Module | None = None
    noise_level: float | None = None
    noise_factor: float | None = None

    def __post_init__(self) -> None:
        if self.noise_level is not None and self.noise_factor is not None:
            raise ValueError(
                f"a probe has one noise level, got noise_level={self.noise_level:g} and noise_factor="
                f"{self.noise_factor:g}; give one of them"
            )

    def at(self, highest: float) -> Probe:
        """The probe with its noise level as a number, where `highest` is the table's largest."""
        if self.noise_factor is None:
            return self
        return replace(self, noise_level=self.noise_factor * highest, noise_factor=None)

    def __str__(self) -> str:
        if self.noise_level == 0:
            return "clean images"
        parts = [attack_text(self.attack)]
        if self.attack_loss is not None:
            weights = ", ".join(f"{name} × {weight:g}" for name, weight in self.attack_loss.weights.items())
            parts.append(f"raising {loss_text(self.attack_loss)}" + (f" with {weights}" if weights else ""))
        if self.source is not None:
            parts.append(f"made on the network of weights {network_fingerprint(self.source)}")
        if self.noise_level is not None:
            parts.append(f"always at noise {self.noise_level:g}")
        if self.noise_factor is not None:
            parts.append(f"at {self.noise_factor:g} times the largest noise level")
        return "; ".join(parts)


def standard_probes(
    attack: ProjectedGradientDescent,
    *,
    huge_radius: float | None = None,
    steps: Sequence[int] = (20, 100, 200),
    restarts: Sequence[int] = (3, 5),
    source: nn.Module | None = None,
    attack_loss: PerSampleLoss | None = None,
    losses: Mapping[str, PerSampleLoss] | None = None,
    metric_loss: PerSampleLoss | None = None,
    auto_steps: int = 100,
    queries: int = 300,
) -> dict[str, Probe]:
    """What an evaluation by projected gradient descent should be compared with, for a table of its strength.

    - `pgd-<steps>`: the attack itself, called `pgd-100` where it takes 100 steps (the paper, section 3), and the
      same with other numbers of steps. α = steps · `rel_step` is kept: more steps are smaller steps.
    - `best-iterate`: the attack itself, but of its iterates the one of highest loss; `best-of-<n>`: likewise the
      best of n random starts.
    - `other-loss`, `transfer`: raising another loss, or made on another network, where these are given.
    - `apgd`: as many steps of Auto-PGD on the same loss; `apgd-<name>`: on another loss, for each one given, such as
      those of the SEA evaluation (masked and balanced cross-entropy, Jensen-Shannon) and one that is free of the scale
      of the logits.
    - `large-radius-first`: Auto-PGD from twice the radius down to the radius itself (`ShrinkingRadius`) on a smooth
      form of the reported metric, where that is given: the strongest of all as a rule.
    - `square`: random search without gradients on the same loss. Where it does more, gradients are masked.
    - `random`: no gradient, a random start alone. An attack that is not clearly stronger sees no gradient.
    - `huge-radius`: the attack itself with so much noise that nothing may be left. Where something is, gradients are
      masked.
    - `clean`: no noise.

    Args:
        attack: the evaluation's attack.
        huge_radius: ε so large that the metric must break down, in the units of the network's input; 30 times the
            table's largest noise level by default.
        steps: numbers of steps to try beside the attack's own.
        restarts: numbers of random starts to try.
        source: another network for the same task, such as one trained on clean images; without it there is no transfer
            probe.
        losses: further losses by name for Auto-PGD.
        metric_loss: a smooth form of the metric that is reported, such as
            `monai_amat.tasks.segmentation.SmoothDiceIndex`.
        auto_steps: gradient steps of each Auto-PGD; 0 leaves these probes out.
        queries: forwards of the random search; 0 leaves it out.
        attack_loss: another loss for the attack to raise, such as one of the recorded loss's terms alone.

    Returns:
        probes by name, for `AttackStrength`.

    Raises:
        ValueError: for an attack without steps, or numbers out of range.

    Example:
        >>> probes = standard_probes(ProjectedGradientDescent(steps=100, rel_step=0.05))
        >>> list(probes)[:5], probes["pgd-20"].attack.rel_step
        (['pgd-20', 'pgd-100', 'pgd-200', 'best-iterate', 'best-of-3'], 0.25)
    """
    if attack.steps < 1:
        raise ValueError("standard_probes needs an attack that takes steps, got steps=0: give the evaluation's attack")
    if huge_radius is not None:
        check_positive("huge_radius", huge_radius)
    check_not_negative("auto_steps", auto_steps)
    check_not_negative("queries", queries)
    for count in steps:
        check_within("steps", count, 1)
    if wrong := [times for times in restarts if times < 2]:
        raise ValueError(f"restarts must be at least 2, one start being the attack itself, got {wrong}")
    length = attack.rel_step * attack.steps  # α
    best = replace(attack, random_start=attack.random_start or FullStart(), best_iterate=True)
    others = {count: replace(attack, steps=count, rel_step=length / count) for count in steps}
    probes = {f"pgd-{count}": Probe(other) for count, other in sorted((others | {attack.steps: attack}).items())}
    if not attack.best_iterate:
        probes["best-iterate"] = Probe(replace(attack, best_iterate=True))
    probes |= {f"best-of-{times}": Probe(Restarts(best, times)) for times in sorted(set(restarts))}
    if attack_loss is not None:
        probes["other-loss"] = Probe(attack, attack_loss=attack_loss)
    if source is not None:
        probes["transfer"] = Probe(attack, source=source)
    shared: dict[str, Any] = {"norm": attack.norm, "clip_range": attack.clip_range, "amp": attack.amp}
    if auto_steps:
        auto = AutoProjectedGradientDescent(steps=auto_steps, **shared)
        probes["apgd"] = Probe(auto)
        probes |= {f"apgd-{name}": Probe(auto, attack_loss=loss) for name, loss in (losses or {}).items()}
        if metric_loss is not None:
            probes["large-radius-first"] = Probe(ShrinkingRadius(attack=auto), attack_loss=metric_loss)
    if queries and isinstance(attack.norm, L2 | Linf):
        probes["square"] = Probe(Square(queries=queries, **shared))
    probes["random"] = Probe(replace(attack, steps=0, random_start=FullStart(), best_iterate=False))
    probes["huge-radius"] = (
        Probe(attack, noise_factor=_HUGE) if huge_radius is None else Probe(attack, noise_level=float(huge_radius))
    )
    probes["clean"] = Probe(attack, noise_level=0.0)
    return probes
