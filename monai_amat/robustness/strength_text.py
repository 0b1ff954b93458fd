"""The verdict of a table of attack strength in words, and the table as Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from monai_amat.markdown import markdown_table
from monai_amat.robustness.resampling import few_groups
from monai_amat.robustness.strength_verdict import is_used_up, judge

__all__ = ["strength_text", "verdict"]

_DIGITS = 3
_STILL_RISING = 0.05
_HELP = (
    "Differences are from {reference} on the same {samples} samples, with 95 % intervals over {groups} groups. Where a "
    "probe does more damage, {reference} understates the damage: more steps, more starts and the best iterate should "
    "gain next to nothing. Noise made on another network, and random noise, should do less damage; where they do as "
    "much, {reference} does not see the network's gradients.\n"
)


def verdict(
    table: pd.DataFrame,
    *,
    reference: str,
    worst: str,
    higher_is_better: bool = True,
    checks: Mapping[str, Any] | None = None,
) -> list[str]:
    """Whether the reference understates the damage, and by how much: sentences.

    Args:
        table: of `AttackStrength`.
        reference: name of the attack that is judged.
        worst: name of the row of all probes together.
        higher_is_better: whether a larger headline figure is a better network, as the metric says.
        checks: reports of `NetworkCheck` and `ActiveTest`, under `network` and `active`.

    Returns:
        first the verdict (`judge`), then what the checks found, then one sentence on the metric and one on the loss
        for each noise level, one for each probe whose own noise level lies above them, and warnings: of a figure that
        improves under attack, and of few groups.
    """
    judgement = judge(table, reference=reference, worst=worst, higher_is_better=higher_is_better, checks=checks)
    lines = [f"{reference}: {judgement}.", *_of_checks(checks or {}), *_of_slope(table, reference)]
    paired = table[table["difference"].notna() | table["loss_difference"].notna()]
    of_clean = table[table["noise_level"] == 0]
    clean = float(of_clean["value"].iloc[0]) if len(of_clean) else math.nan
    own = paired.loc[paired["probe"] == reference, ["noise_level", "value"]]
    reached: dict[float, float] = dict(own.to_numpy(dtype=np.float64).tolist())
    used_up = [level for level, value in reached.items() if higher_is_better and is_used_up(value, clean)]
    for level in sorted(reached):
        rows = paired[paired["noise_level"] == level]
        metric = rows["metric"].iloc[0]
        if level in used_up:
            lines.append(_nothing_left(metric, level, reached, used_up))
        else:
            sign = -1 if higher_is_better else 1
            lines.append(_compared(metric, "difference", sign, rows, reference=reference, worst=worst))
        lines.append(_compared("the loss", "loss_difference", 1, rows, reference=reference, worst=worst))
        gain = (reached[level] - clean) * (1 if higher_is_better else -1)
        if round(gain, _DIGITS) > 0:
            lines.append(
                f"At noise {level:g} {metric} is better under attack ({reached[level]:.{_DIGITS}f}) than on clean "
                f"images ({clean:.{_DIGITS}f}): either the metric's higher_is_better is wrong, or the loss that the "
                "attack raises does not go with the metric. Do not rely on this table before that is settled."
            )
    highest = paired["noise_level"].max()
    for row in table[table["noise_level"] > highest].to_dict("records"):
        figure = _figure(row["value"], row["low"], row["high"])
        lines.append(
            f"At noise {row['noise_level']:g} ({row['probe']}) {row['metric']} is {figure}. Unless a useless "
            "prediction scores the same, the attack does not see the network's gradients, and no figure here can "
            "be relied on."
        )
    if note := few_groups(int(table["groups"].iloc[0])):
        lines.append(note)
    return lines


def _of_checks(checks: Mapping[str, Any]) -> list[str]:
    """What was found beside the table."""
    network, active = checks.get("network"), checks.get("active")
    lines = []
    if network is not None:
        lines.append(
            f"Two forwards of the same images differ by {network['difference_of_two_forwards']:.2g} of the largest "
            f"output; the softmax is saturated at {network['saturated']:.0%} of the places"
            + (
                "; the output holds probabilities, while losses take logits: their gradients are small."
                if network["probabilities"]
                else "."
            )
        )
    if active is not None and active["images"]:
        lines.append(
            f"Active test: of the points planted in {active['images']} images the attack finds {active['found']:.0%}, "
            f"random points of the same size {active['found_at_random']:.0%}."
        )
    elif active is not None and active["skipped"]:
        lines.append(f"Active test: not run, {active['skipped']}.")
    return lines


def _of_slope(table: pd.DataFrame, reference: str) -> list[str]:
    """Whether the loss still rises when the attack ends."""
    if "late_gain" not in table:
        return []
    own, clean = (table[(table["probe"] == reference)], table[table["noise_level"] == 0])
    lines = []
    for row in own.to_dict("records"):
        rise = math.nan if clean.empty else row["loss"] - clean["loss"].iloc[0]
        share = row["late_gain"] / rise if rise > 0 else math.nan
        if share > _STILL_RISING:
            lines.append(
                f"At noise {row['noise_level']:g} the loss still rises when {reference} ends: its last tenth of the "
                f"steps gives {share:.0%} of the rise."
            )
    return lines


def _compared(name: str, column: str, sign: int, rows: pd.DataFrame, *, reference: str, worst: str) -> str:
    """How far the probes at one noise level go beyond the reference in one figure, whose damage has this sign."""
    level = rows["noise_level"].iloc[0]
    probes = rows[~rows["probe"].isin((reference, worst))]
    together = rows[rows["probe"] == worst].iloc[0]
    if probes[column].isna().all():
        return f"At noise {level:g} {name} is not defined on these samples."
    strongest = probes.sort_values(column, ascending=sign < 0, kind="stable").iloc[0]
    verb, side = ("lowers", "below") if sign < 0 else ("raises", "above")
    if round(sign * strongest[column], _DIGITS) > 0:
        text = (
            f"The strongest probe, {strongest['probe']}, {verb} {name} at noise {level:g} by "
            f"{_amount(strongest, column, sign)} {side} {reference}"
        )
    else:
        text = f"No probe {verb} {name} at noise {level:g} further than {reference}"
    if round(sign * together[column], _DIGITS) > 0:
        text += (
            f"; the worst of all probes for each sample {verb} it by {_amount(together, column, sign)}: {reference} "
            "understates the damage by at least this much"
        )
    return text + "."


def _nothing_left(metric: str, level: float, reached: Mapping[float, float], used_up: Sequence[float]) -> str:
    left = [other for other in reached if other not in used_up]
    other = f"noise {max(left):g}" if left else f"a lower noise level, for example {min(reached) / 2:g}"
    return (
        f"At noise {level:g} {metric} is used up ({reached[level]:.{_DIGITS}f}): no attack could lower it, so that "
        f"this level says nothing about the attack's strength; look at {other}, where something is left."
    )


def strength_text(table: pd.DataFrame, lines: list[str], *, reference: str) -> str:
    """The verdict and the table, as a Markdown file.

    Args:
        table: of `AttackStrength`.
        lines: the verdict.
        reference: name of the attack that is judged.
    """
    first = table.iloc[0]
    heading = [
        *("noise", "probe", f"{first['metric']} [95 %]", f"against {reference}", "loss", f"against {reference}"),
        *("gradients per sample", "seconds", "what it is"),
    ]
    cells = [_cells(row, reference) for row in table.to_dict("records")]
    parts = [
        "# Attack strength",
        "\n".join(f"- {line}" for line in lines),
        markdown_table([heading, *cells]),
        _HELP.format(reference=reference, samples=first["samples"], groups=first["groups"]),
    ]
    return "\n\n".join(parts)


def _cells(row: dict[Any, Any], reference: str) -> list[str]:
    differences = [
        "reference" if row["probe"] == reference else _figure(row[name], row[f"{name}_low"], row[f"{name}_high"], "+")
        for name in ("difference", "loss_difference")
    ]
    return [
        f"{row['noise_level']:g}",
        row["probe"],
        _figure(row["value"], row["low"], row["high"]),
        differences[0],
        f"{row['loss']:.{_DIGITS}f}",
        differences[1],
        f"{row['gradient_evaluations']:g}",
        f"{row['seconds']:.1f}",
        row["what"],
    ]


def _amount(row: Any, column: str, sign: int) -> str:
    """How far beyond the reference, as a positive number where it is beyond."""
    low, high = sorted((sign * row[f"{column}_low"], sign * row[f"{column}_high"]))
    return _figure(sign * row[column], low, high)


def _figure(value: float, low: float, high: float, sign: str = "") -> str:
    if math.isnan(value):
        return "–"
    # Adding 0 makes a rounded −0 a 0.
    text, *bounds = (f"{round(number, _DIGITS) + 0.0:{sign}.{_DIGITS}f}" for number in (value, low, high))
    return text if math.isnan(low) else f"{text} [{', '.join(bounds)}]"
