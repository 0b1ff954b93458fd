"""What is said of a table of attack strength, from tables made by hand."""

from __future__ import annotations

import math
import re
from typing import Any

import pandas as pd
import pytest

from monai_amat.robustness.strength_text import strength_text, verdict

NAN = math.nan


def row(probe: str, difference: float, loss_difference: float, /, noise: float = 6.0, **changes: Any) -> dict[str, Any]:
    """A row whose intervals reach 0.01 to each side, those of the differences 0.008 down and 0.002 up."""
    made: dict[str, Any] = {"probe": probe, "what": f"what {probe} is", "noise_level": noise, "metric": "adi"}
    made |= {"samples": 20, "groups": 20, "value": 0.5, "low": 0.49, "high": 0.51, "loss": 0.75}
    for name, value in (("difference", difference), ("loss_difference", loss_difference)):
        made |= {name: value, f"{name}_low": value - 0.008, f"{name}_high": value + 0.002}
    return {**made, "gradient_evaluations": 100.0, "stalled": 0.0, "seconds": 1.25, **changes}


def said(*rows: dict[str, Any], **changes: Any) -> list[str]:
    """What follows the verdict itself."""
    lines = verdict(pd.DataFrame(rows), **{"reference": "pgd-100", "worst": "all", **changes})
    assert lines[0].startswith("pgd-100: ")
    return lines[1:]


REFERENCE = row("pgd-100", 0.0, 0.0)
PROBES = (("pgd-100", 0.0), ("best", -0.1), ("all", -0.1))


def test_the_strongest_probe_and_all_together() -> None:
    rows = (REFERENCE, row("pgd-20", 0.03, 0.1), row("best-of-5", -0.012, -0.02), row("all", -0.02, 0.2))
    assert said(*rows) == [
        "The strongest probe, best-of-5, lowers adi at noise 6 by 0.012 [0.010, 0.020] below pgd-100; the worst of all "
        "probes for each sample lowers it by 0.020 [0.018, 0.028]: pgd-100 understates the damage by at "
        "least this much.",
        "The strongest probe, pgd-20, raises the loss at noise 6 by 0.100 [0.092, 0.102] above pgd-100; the worst of "
        "all probes for each sample raises it by 0.200 [0.192, 0.202]: pgd-100 understates the damage by at "
        "least this much.",
    ]


def test_no_single_probe_need_be_stronger_for_all_together_to_be() -> None:
    rows = (REFERENCE, row("pgd-20", 0.03, -0.1), row("all", -0.02, 0.0))
    assert said(*rows) == [
        "No probe lowers adi at noise 6 further than pgd-100; the worst of all probes for each sample lowers it by "
        "0.020 [0.018, 0.028]: pgd-100 understates the damage by at least this much.",
        "No probe raises the loss at noise 6 further than pgd-100.",
    ]


def test_what_rounds_to_nothing_is_nothing() -> None:
    assert said(REFERENCE, row("pgd-200", -0.0004, 0.0004), row("all", -0.0004, 0.0004))[0] == (
        "No probe lowers adi at noise 6 further than pgd-100."
    )


def test_an_error_is_raised_by_a_stronger_probe() -> None:
    rows = (REFERENCE, row("pgd-20", 0.3, 0.0), row("pgd-200", 0.4, 0.0), row("all", 0.5, 0.0))
    assert said(*rows, higher_is_better=False)[0].startswith(
        "The strongest probe, pgd-200, raises adi at noise 6 by 0.400 [0.392, 0.402] above pgd-100; the worst"
    )


def test_each_noise_level_has_its_lines_and_a_huge_radius_its_own() -> None:
    rows = [row(probe, change, 0.0, noise) for noise in (2.0, 6.0) for probe, change in PROBES]
    without = {f"{name}difference{end}": NAN for name in ("", "loss_") for end in ("", "_low", "_high")}
    own = [row("huge", 0, 0, 200.0, **without, value=0.02), row("clean", 0, 0, 0.0, **without)]
    lines = said(*rows, *own)
    starts = [line.partition(" by ")[0] for line in lines]
    assert starts[:4:2] == [f"The strongest probe, best, lowers adi at noise {noise}" for noise in (2, 6)]
    assert starts[1:4:2] == [f"No probe raises the loss at noise {noise} further than pgd-100." for noise in (2, 6)]
    assert len(lines) == 5
    assert lines[4].startswith("At noise 200 (huge) adi is 0.020 [0.490, 0.510]. Unless")


def test_a_metric_that_is_not_defined_is_said_to_be() -> None:
    undefined = {f"difference{end}": NAN for end in ("", "_low", "_high")}
    rows = [row(probe, 0.0, 0.0, **undefined) for probe, _ in PROBES]
    assert said(*rows) == [
        "At noise 6 adi is not defined on these samples.",
        "No probe raises the loss at noise 6 further than pgd-100.",
    ]


def test_one_group_alone_gives_no_interval() -> None:
    bounds = {"difference_low": NAN, "difference_high": NAN}
    lines = said(REFERENCE, row("best", -0.1, 0.0, **bounds), row("all", -0.1, 0.0, **bounds))
    assert lines[0].startswith("The strongest probe, best, lowers adi at noise 6 by 0.100 below pgd-100; the worst")


@pytest.mark.parametrize(
    ("changes", "cell"),
    [
        ({}, "| 6 | best | 0.500 [0.490, 0.510] | -0.100 [-0.108, -0.098] | 0.750 | +0.200 [+0.192, +0.202] | 100 |"),
        ({"low": NAN, "high": NAN}, "| 6 | best | 0.500 | -0.100 ["),
        ({"difference": NAN}, "| 6 | best | 0.500 [0.490, 0.510] | – | 0.750 |"),
        ({"difference": -0.0, "difference_low": -1e-5, "difference_high": 0.25}, "| +0.000 [+0.000, +0.250] |"),
    ],
)
def test_the_table_as_text(changes: dict[str, Any], cell: str) -> None:
    table = pd.DataFrame([REFERENCE, row("best", -0.1, 0.2, **changes)])
    text = strength_text(table, ["First.", "Second."], reference="pgd-100")
    title, lines, grid, explained = re.sub(" +", " ", text).split("\n\n")
    assert title == "# Attack strength"
    assert lines == "- First.\n- Second."
    assert cell in grid
    assert (
        "| 6 | pgd-100 | 0.500 [0.490, 0.510] | reference | 0.750 | reference | 100 | 1.2 | what pgd-100 is |" in grid
    )
    assert len({line.count("|") for line in grid.splitlines()}) == 1
    assert "from pgd-100 on the same 20 samples, with 95 % intervals over 20 groups." in explained


CLEAN = {f"{name}difference{end}": NAN for name in ("", "loss_") for end in ("", "_low", "_high")}


def test_a_figure_that_is_better_under_attack_is_pointed_out() -> None:
    """An error whose metric says that higher is better: the attack raises it, which then looks like a gain."""
    rows = [row(probe, change, 0.0, value=8.0) for probe, change in PROBES]
    clean = row("clean", 0, 0, 0.0, **CLEAN, value=1.5)
    warned = [line for line in said(*rows, clean) if "better under attack (8.000) than on clean images (1.500)" in line]
    assert len(warned) == 1 and "higher_is_better" in warned[0]
    assert not [line for line in said(*rows, clean, higher_is_better=False) if "better under" in line]


def test_where_the_figure_is_used_up_nothing_is_said_of_the_attack() -> None:
    low = [row(probe, 0.0, 0.0, 2.0, value=0.3) for probe, _ in PROBES]
    high = [row(probe, 0.0, 0.0, 6.0, value=0.004) for probe, _ in PROBES]
    clean = row("clean", 0, 0, 0.0, **CLEAN, value=0.9)
    lines = said(*low, *high, clean)
    assert lines[0] == "No probe lowers adi at noise 2 further than pgd-100."
    assert lines[2] == (
        "At noise 6 adi is used up (0.004): no attack could lower it, so that this level says nothing about the "
        "attack's strength; look at noise 2, where something is left."
    )
    assert "look at a lower noise level, for example 3, where" in said(*high, clean)[0]
    # Without a clean row only what rounds to 0; an error, and a figure that may be negative, have no such end.
    assert said(*high)[0].startswith("No probe lowers adi")
    none = [row(probe, 0.0, 0.0, value=0.0001) for probe, _ in PROBES]
    assert "is used up (0.000)" in said(*none)[0]
    assert said(*none, higher_is_better=False)[0].startswith("No probe raises adi")
    assert said(*(line | {"value": -3.0} for line in none), clean)[0].startswith("No probe lowers adi")


@pytest.mark.parametrize(
    ("groups", "words"), [(2, "rest on 2 groups: so few"), (1, "no interval: all samples are of one")]
)
def test_few_groups_are_said(groups: int, words: str) -> None:
    assert words in said(*(row(probe, change, 0.0, groups=groups) for probe, change in PROBES))[-1]
