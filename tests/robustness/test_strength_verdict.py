"""The verdict on an attack, from tables made by hand."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest

from monai_amat.robustness.strength_verdict import BELIEVABLE, MASKED, UNDERSTATES, UNKNOWN, judge

NAN = math.nan


def row(probe: str, value: float, loss: float, noise: float = 6.0, **changes: Any) -> dict[str, Any]:
    """A probe against a reference with figure .5 and loss 2, known to ±.01."""
    made: dict[str, Any] = {"probe": probe, "noise_level": noise, "metric": "adi", "value": value, "loss": loss}
    for name, difference in (("difference", value - 0.5), ("loss_difference", loss - 2.0)):
        made |= {name: difference, f"{name}_low": difference - 0.01, f"{name}_high": difference + 0.01}
    return made | {"gradient_evaluations": 100.0, "stalled": 0.0} | changes


CLEAN = row("clean", 0.8, 1.0, 0.0)
OWN = row("pgd-100", 0.5, 2.0)
SOUND = [OWN, row("random", 0.79, 1.02), row("square", 0.6, 1.6, gradient_evaluations=0.0), CLEAN]


def said(*rows: dict[str, Any], worst: dict[str, Any] | None = None, **changes: Any) -> str:
    table = pd.DataFrame([*rows, row("worst", 0.495, 2.01) if worst is None else worst])
    return str(judge(table, **{"reference": "pgd-100", "worst": "worst", **changes}))


def test_a_sound_attack_is_believed() -> None:
    assert said(*SOUND).startswith(BELIEVABLE)


def test_what_the_probes_gain_together_is_what_is_understated() -> None:
    worst = row("worst", 0.35, 2.4)
    assert said(*SOUND, worst=worst) == f"{UNDERSTATES} 0.150 [0.140, 0.160] (adi at noise 6, worst)"
    # A gain whose interval reaches zero is none.
    assert said(*SOUND, worst=worst | {"difference_high": 0.001}).startswith(BELIEVABLE)
    # An error is worse where it is higher.
    rows = [row("pgd-100", 0.5, 2.0), row("clean", 0.1, 1.0, 0.0)]
    assert said(*rows, worst=row("worst", 0.7, 2.4), higher_is_better=False).startswith(f"{UNDERSTATES} 0.200")


def test_the_largest_gain_of_all_levels_is_told() -> None:
    rows = [row("pgd-100", 0.5, 2.0, 2.0), row("worst", 0.45, 2.0, 2.0), *SOUND]
    assert said(*rows, worst=row("worst", 0.3, 2.4)).startswith(f"{UNDERSTATES} 0.200 [0.190, 0.210] (adi at noise 6")


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([OWN | {"stalled": 30.0}, CLEAN], "30% of the steps of pgd-100 have no usable gradient"),
        ([OWN, row("random", 0.6, 1.8), CLEAN], "random noise does 0.200 of damage, pgd-100 0.300"),
        (
            [OWN, row("square", 0.45, 1.6, gradient_evaluations=0.0), CLEAN],
            "square, which uses no gradient, does more damage than pgd-100",
        ),
        (
            [OWN, row("square", 0.6, 2.3, gradient_evaluations=0.0), CLEAN],
            "square, which uses no gradient, does more damage than pgd-100",
        ),
        ([OWN, row("pgd-200", 0.6, 1.7), CLEAN], "pgd-200 raises the loss less than pgd-100"),
        ([OWN, row("best-of-5", 0.6, 1.7), CLEAN], "best-of-5 raises the loss less than pgd-100"),
    ],
)
def test_each_sign_of_masked_gradients_convicts(rows: list[dict[str, Any]], reason: str) -> None:
    assert said(*rows) == f"{MASKED} ({reason} at noise 6)"
    # And comes before what the probes gain.
    assert said(*rows, worst=row("worst", 0.2, 3.0)).startswith(MASKED)


@pytest.mark.parametrize(
    "harmless",
    [
        OWN | {"stalled": 20.0},
        row("random", 0.7, 1.4),
        row("square", 0.495, 2.005, gradient_evaluations=0.0),
        row("square", 0.45, 1.6, difference_high=0.02, gradient_evaluations=0.0),
        row("pgd-20", 0.6, 1.7, gradient_evaluations=20.0),
        row("pgd-200", 0.5, 1.95),
        row("apgd-other", 0.49, 2.5),
    ],
    ids=lambda changed: f"{changed['probe']} {changed['value']}",
)
def test_what_sound_networks_show_too_does_not_convict(harmless: dict[str, Any]) -> None:
    rows = [row for row in SOUND if row["probe"] != harmless["probe"]]
    assert said(*rows, harmless).startswith(BELIEVABLE)


def test_where_no_attack_changes_anything_nothing_can_be_told() -> None:
    rows = [row("pgd-100", 0.795, 1.01), row("square", 0.796, 1.01), CLEAN]
    assert said(*rows, worst=row("worst", 0.79, 1.02) | {"difference": -0.005}) == (
        f"{UNKNOWN} (the figure is used up, or no probe changes it noticeably)"
    )
    undefined = {"value": NAN} | {f"difference{end}": NAN for end in ("", "_low", "_high")}
    assert said(OWN | undefined, worst=row("worst", 0.5, 2.0) | undefined).startswith(UNKNOWN)


@pytest.mark.parametrize(
    ("checks", "reason"),
    [
        ({"network": {"random": True, "difference_of_two_forwards": 0.25}}, "differ by 25.0% of the largest output"),
        ({"network": {"saturated": 0.95}}, "the softmax is saturated at 95% of the places of clean images"),
        ({"active": {"found": 0.25, "found_at_random": 0.0}}, "finds 25% of the points that the active test plants"),
    ],
)
def test_the_checks_convict(checks: dict[str, Any], reason: str) -> None:
    verdict = said(*SOUND, checks=checks)
    assert verdict.startswith(MASKED)
    assert reason in verdict


def test_the_checks_acquit() -> None:
    network = {"random": False, "difference_of_two_forwards": 1e-7, "saturated": 0.4}
    for active in ({"found": 1.0, "found_at_random": 0.0}, {"found": 0.0, "found_at_random": 0.9}, {"found": None}):
        assert said(*SOUND, checks={"network": network, "active": active}).startswith(BELIEVABLE)


def test_without_clean_rows_and_with_one_group_it_still_compares() -> None:
    bounds = {f"{name}difference{end}": NAN for name in ("", "loss_") for end in ("_low", "_high")}
    worst = row("worst", 0.35, 2.4) | bounds
    assert said(OWN | bounds, worst=worst) == f"{UNDERSTATES} 0.150 (adi at noise 6, worst)"
    assert said(OWN, worst=row("worst", 0.5, 2.0)).startswith(BELIEVABLE)
