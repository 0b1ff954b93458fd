"""The verdict on an attack: believable, understating, masked, or undecided, from its table and its checks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

__all__ = ["Judgement", "is_used_up", "judge"]

BELIEVABLE = "believable"
UNDERSTATES = "understates the damage by at least"
MASKED = "not to be believed: gradients are masked"
UNKNOWN = "cannot be told at this level"

_NOTICED = 0.02  # share of the clean figure, and of the damage, below which nothing is read from a difference
_STALLED = 0.25  # share of the steps without a usable gradient
_AS_RANDOM = 0.5  # random noise does this share of the damage
_WORSE = 0.2  # more steps or starts lose this share of the rise of the loss
_SATURATED = 0.9  # share of the places whose softmax is 1 in single precision
_USED_UP = 0.01  # share of the clean figure below which nothing is left to lower
_ACTIVE = 0.5  # share of planted points that the attack finds

RANDOM = "random"
"""Name of the probe that is noise alone."""
STRONGER = ("pgd-", "best-of-", "best-iterate")
"""Names of probes that take more steps or starts of the attack itself begin so."""


@dataclass(frozen=True)
class Judgement:
    """What is said of the attack at one noise level, or at all.

    Args:
        text: begins with one of the four verdicts.
        reasons: why, one phrase each.
    """

    text: str
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.text + (f" ({'; '.join(self.reasons)})" if self.reasons else "")


def judge(
    table: pd.DataFrame,
    *,
    reference: str,
    worst: str,
    higher_is_better: bool = True,
    checks: Mapping[str, Any] | None = None,
) -> Judgement:
    """The verdict over all noise levels.

    Signs of masked gradients come first: a sound attack would do more damage, and no probe here need have found it.
    Then the worst of all probes is compared with the reference.

    Args:
        table: of `AttackStrength`.
        reference: name of the attack that is judged.
        worst: name of the row of all probes together.
        higher_is_better: whether a larger headline figure is a better network.
        checks: reports of `NetworkCheck` and `ActiveTest`, under `network` and `active`.
    """
    found = _of_the_network(checks or {})
    clean = table[table["noise_level"] == 0]
    base = None if clean.empty else dict(clean.iloc[0])
    gains: list[tuple[float, str]] = []
    comparable = False
    for level, rows in table[table["noise_level"] > 0].groupby("noise_level"):
        named = {str(row["probe"]): row for row in rows.to_dict("records")}
        if reference not in named or worst not in named:
            continue
        own = _Level(named, reference, worst, -1.0 if higher_is_better else 1.0, base)
        found += [f"{reason} at noise {level:g}" for reason in own.masked()]
        if (gain := own.understated()) is not None:
            gains.append((gain[0], f"{gain[1]} ({rows['metric'].iloc[0]} at noise {level:g}, {worst})"))
        comparable |= own.comparable()
    if found:
        return Judgement(MASKED, tuple(found))
    if gains:
        return Judgement(f"{UNDERSTATES} {max(gains)[1]}")
    if not comparable:
        return Judgement(UNKNOWN, ("the figure is used up, or no probe changes it noticeably",))
    return Judgement(BELIEVABLE, ("no probe does noticeably more damage, and no sign of masked gradients was found",))


def is_used_up(value: float, clean: float) -> bool:
    """Whether a figure that is better where it is higher has nothing left, so that no attack could lower it further.

    Args:
        value: the figure under attack; its least value is 0.
        clean: the figure on clean images; NaN where it is not known.

    Example:
        >>> is_used_up(0.005, 0.8), is_used_up(0.3, 0.8), is_used_up(0.0, math.nan), is_used_up(-2.0, 0.8)
        (True, False, True, False)
    """
    if math.isnan(clean):
        return round(value, 3) == 0
    return clean > 0 and 0 <= value <= _USED_UP * clean


def _of_the_network(checks: Mapping[str, Any]) -> list[str]:
    """Signs that need no table."""
    network, active = checks.get("network", {}), checks.get("active", {})
    found = []
    if network.get("random"):
        found.append(
            "two forwards of the same images differ by "
            f"{network['difference_of_two_forwards']:.1%} of the largest output: the network is random"
        )
    if network.get("saturated", 0.0) >= _SATURATED:
        found.append(f"the softmax is saturated at {network['saturated']:.0%} of the places of clean images")
    share, at_random = active.get("found"), active.get("found_at_random")
    if share is not None and share < _ACTIVE and (at_random or 0.0) < _ACTIVE:
        found.append(f"the attack finds {share:.0%} of the points that the active test plants")
    return found


class _Level:
    """The rows of one noise level."""

    def __init__(
        self,
        rows: Mapping[str, Mapping[Any, Any]],
        reference: str,
        worst: str,
        sign: float,
        clean: Mapping[Any, Any] | None,
    ) -> None:
        self.rows = rows
        self.own, self.worst = rows[reference], rows[worst]
        self.reference = reference
        self.sign = sign  # of a change of the figure that is damage
        self.clean = clean

    @property
    def damage(self) -> float:
        """What the reference does to the figure; NaN without clean rows."""
        return math.nan if self.clean is None else self.sign * (self.own["value"] - self.clean["value"])

    @property
    def noticed(self) -> float:
        """The smallest change of the figure from which something is read."""
        clean = abs(self.own["value"] if self.clean is None else self.clean["value"])
        return _NOTICED * max(clean, 0.0 if math.isnan(self.damage) else self.damage)

    @property
    def rise(self) -> float:
        """By how much the reference raises the loss; NaN without clean rows."""
        return math.nan if self.clean is None else self.own["loss"] - self.clean["loss"]

    def masked(self) -> list[str]:
        """Signs that the gradient does not lead to the damage that there is."""
        found = []
        steps = self.own["gradient_evaluations"]
        if steps and self.own["stalled"] / steps >= _STALLED:
            found.append(f"{self.own['stalled'] / steps:.0%} of the steps of {self.reference} have no usable gradient")
        if RANDOM in self.rows and self.clean is not None:
            by_noise = self.sign * (self.rows[RANDOM]["value"] - self.clean["value"])
            if by_noise > self.noticed and by_noise >= _AS_RANDOM * self.damage:
                found.append(f"random noise does {by_noise:.3f} of damage, {self.reference} {self.damage:.3f}")
        for name in self.rows:
            if self.rows[name]["gradient_evaluations"] == 0 and self._beats(name):
                found.append(f"{name}, which uses no gradient, does more damage than {self.reference}")
            elif name.startswith(STRONGER) and self._loses(name):
                found.append(f"{name} raises the loss less than {self.reference}")
        return found

    def understated(self) -> tuple[float, str] | None:
        """How much more the probes do together, where that is noticeable, as a number and in words."""
        gain = self.sign * self.worst["difference"]
        low, high = sorted((self.sign * self.worst["difference_low"], self.sign * self.worst["difference_high"]))
        if math.isnan(gain) or gain <= self.noticed or low <= 0:
            return None
        return gain, f"{gain:.3f}" if math.isnan(low) else f"{gain:.3f} [{low:.3f}, {high:.3f}]"

    def comparable(self) -> bool:
        """Whether the attacks change the figure enough to compare them, and leave something of it."""
        if math.isnan(self.own["value"]):
            return False
        if self.sign < 0 and is_used_up(self.own["value"], math.nan if self.clean is None else self.clean["value"]):
            return False
        if self.clean is None:
            return True
        return self.sign * (self.worst["value"] - self.clean["value"]) > self.noticed

    def _beats(self, name: str) -> bool:
        """Whether a probe does noticeably more damage, by the figure or by the loss that both raise."""
        row = self.rows[name]
        ends = (self.sign * row["difference_low"], self.sign * row["difference_high"])
        if self.sign * row["difference"] > self.noticed and not min(ends) <= 0:
            return True
        gain = row["loss_difference"]
        return bool(gain > 0.1 * max(self.rise, 0.0) and gain > _NOTICED * abs(self.own["loss"])) and not (
            row["loss_difference_low"] <= 0
        )

    def _loses(self, name: str) -> bool:
        """Whether more steps or starts of the attack itself raise the loss clearly less."""
        row = self.rows[name]
        if (
            name == self.reference
            or math.isnan(self.rise)
            or row["gradient_evaluations"] < self.own["gradient_evaluations"]
        ):
            return False
        return bool(row["loss_difference"] < -_WORSE * self.rise and row["loss_difference_high"] < 0 and self.rise > 0)
