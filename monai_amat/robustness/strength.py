"""Is the attack strong enough to believe? One network under several probes, each compared with the attack in use."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from monai.engines.utils import PrepareBatch
from monai.inferers import Inferer
from torch import nn
from torch.utils.data import DataLoader, Subset

from monai_amat.attacks import Attack
from monai_amat.checks import check_not_negative
from monai_amat.engines import PrepareBatchNoisy
from monai_amat.files import write_text_whole
from monai_amat.handlers.metric import Metric, figures_of_each
from monai_amat.losses.base import PerSampleLoss
from monai_amat.robustness.active_test import ActiveTest
from monai_amat.robustness.curve import RobustnessCurve
from monai_amat.robustness.network_checks import NetworkCheck
from monai_amat.robustness.probes import Probe
from monai_amat.robustness.resampling import Statistic, bootstrap
from monai_amat.robustness.samples import loader_like
from monai_amat.robustness.store import write_rows
from monai_amat.robustness.strength_text import strength_text, verdict

__all__ = ["WORST", "AttackStrength"]

WORST = "worst of all"
"""Name of the row that takes, for each sample, whichever probe did most damage."""

_CHECKED = 8
_BOOTSTRAP: dict[str, Any] = {"samples": 1000, "seed": 0, "level": 0.95}


class AttackStrength:
    r"""Attack one network in several ways and say whether the attack in use, the reference, understates the damage.

    A robustness figure is an upper bound: a better attack may do more damage. So the same samples are attacked by
    every probe, and the difference from the reference is taken sample by sample, with an interval over groups,

    $$d = M(\text{probe}) - M(\text{reference}) \quad\text{and}\quad
    \overline{L}(\text{probe}) - \overline{L}(\text{reference}),$$

    M being the metric's headline figure and $\overline{L}$ the mean loss. The row `WORST` takes for each
    sample the lowest metric, and the highest loss, of all probes at the table's noise level: what an attacker reaches
    that tries them all, and as close to the truth as these probes come.

    Each probe is a `RobustnessCurve` in a folder of its own, so that a run that was
    stopped goes on, probes may be added, and rows made under other settings are refused.

    Args:
        network: the network, with its weights loaded.
        data_loader: as in the curve; some dozens of samples from many groups will do.
        loss: what is recorded, and what a probe without a loss of its own raises.
        metric: what is made of the predictions.
        probes: probes, or plain attacks, by name; see `standard_probes`.
        noise_levels: every ε > 0 of the table, in the units of the network's input.
        reference: name of the probe that is judged, the evaluation's attack.
        output_dir: where `strength.csv`, `strength.json`, `strength.md` and one folder per probe go.
        group_key: key of the batch that names the sample's group, by which intervals are resampled.
        extra_keys: further keys of the batch to keep as columns of each probe's rows.
        device: where; the network's own device by default.
        prepare_batch: the workflow's own; MONAI's default takes `image` and `label`.
        inferer: how the network is applied; a plain forward by default.
        progress: as in the curve.
        settings: as in the curve.
        postprocessing: as in the curve.
        active_samples: images for the active test of the reference (`ActiveTest`), some hundred forwards each; 0 leaves
            it out.

    Beside the probes, two forwards of the same images are compared, and the outputs looked at (`NetworkCheck`).

    Raises:
        TypeError: when the loader's data set is not indexed.
        ValueError: for a reference that is not among the probes or has a noise level of its own, a probe's name that
            cannot name a folder, no other probe to compare with, or noise levels that are not positive, finite and
            different.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        data_loader: DataLoader[Any],
        loss: PerSampleLoss,
        metric: Metric,
        probes: Mapping[str, Probe | Attack],
        noise_levels: Sequence[float],
        reference: str,
        output_dir: str | Path,
        group_key: str = "case",
        extra_keys: Sequence[str] = ("slice",),
        device: str | torch.device | None = None,
        prepare_batch: PrepareBatch | None = None,
        inferer: Inferer | None = None,
        progress: bool = True,
        settings: Mapping[str, Any] | None = None,
        active_samples: int = 2,
        postprocessing: Callable[[Any], Any] | None = None,
    ) -> None:
        check_not_negative("active_samples", active_samples)
        self.active_samples = active_samples
        highest = max(noise_levels, default=0.0)
        self.probes = {
            name: probe.at(highest) if isinstance(probe, Probe) else Probe(probe) for name, probe in probes.items()
        }
        _check_probes(self.probes, reference)
        self.metric = metric
        self.reference = reference
        self.output_dir = Path(output_dir)
        self.group_key = group_key
        self.curves = {
            name: RobustnessCurve(
                network=network,
                data_loader=data_loader,
                loss=loss,
                attack=probe.attack,
                noise_levels=noise_levels if probe.noise_level is None else [probe.noise_level],
                metric=metric,
                output_dir=self.output_dir / name,
                group_key=group_key,
                extra_keys=extra_keys,
                device=device,
                prepare_batch=prepare_batch,
                inferer=inferer,
                progress=progress,
                settings=settings,
                source=probe.source,
                attack_loss=probe.attack_loss,
                postprocessing=postprocessing,
            )
            for name, probe in self.probes.items()
        }
        self.noise_levels = self.curves[reference].noise_levels
        if self.noise_levels[0] == 0:
            raise ValueError("at noise level 0 there is no attack to compare; give levels above 0")

    def run(self) -> pd.DataFrame:
        """Run what is not run yet, and write the table.

        Returns:
            one row per noise level and probe, then `WORST`, and last the probes with a noise level of their own:
            `probe`, `what` (in words), `noise_level`, `samples`, `groups`, `metric` (name of the headline figure),
            `value`, `low`, `high` (with its interval), `loss` (mean), `difference` and `loss_difference` from the
            reference, each with `_low` and `_high` (NaN where the noise level is another), `late_gain` (mean rise of
            the loss over the last tenth of the steps), `gradient_evaluations` and `stalled` (steps that could not
            move), both per sample, and `seconds` of all samples.

        Raises:
            RuntimeError, KeyError, ValueError: as `RobustnessCurve.run
                <monai_amat.robustness.RobustnessCurve.run>` does.
        """
        rows = {name: curve.run() for name, curve in self.curves.items()}
        summaries = {name: self._summary(name) for name in self.curves}
        own = {name: probe.noise_level for name, probe in self.probes.items() if probe.noise_level is not None}
        records = []
        for level in self.noise_levels:
            shared = {name: _at(frame, level) for name, frame in rows.items() if name not in own}
            shared[WORST] = worst_rows(list(shared.values()), self.metric)
            records += self._records(level, shared, summaries, self.reference)
        for name, level in own.items():
            records += self._records(level, {name: _at(rows[name], level)}, summaries, None)
        table = pd.DataFrame(records)
        self._write(table, summaries, self.check())
        return table

    def check(self) -> dict[str, Any]:
        """Look at the network as the reference's attack sees it.

        Returns:
            the reports of `NetworkCheck` under `network`, and of `ActiveTest` at the highest noise level under
            `active`.
        """
        curve = self.curves[self.reference]
        made_with = {**curve.made_with(), "active_samples": self.active_samples, "noise_level": self.noise_levels[-1]}
        if (known := self._checked(made_with)) is not None:
            return known
        network, active = NetworkCheck(), ActiveTest(curve.attack, samples=self.active_samples)
        positions = curve.positions[: max(_CHECKED, self.active_samples)]
        loader = loader_like(curve.data_loader, Subset(curve.data, positions))
        for attack, epsilon in ((network, 0.0), (active, self.noise_levels[-1])):
            prepare = PrepareBatchNoisy(
                network=curve.network,
                loss=curve.loss if curve.attack_loss is None else curve.attack_loss,
                attack=attack,
                epsilon=epsilon,
                prepare_batch=curve.prepare_batch,
                inferer=curve.inferer,
                id_key=curve.data.id_key,
                seed_key=curve.data.seed_key,
            )
            for batch in loader if attack is network or self.active_samples else ():
                prepare(batch, curve.device)
        return {"network": network.report(), "active": active.report(), "made_with": made_with}

    def _checked(self, made_with: Mapping[str, Any]) -> dict[str, Any] | None:
        """The checks of an earlier run under the same settings."""
        file = self.output_dir / "strength.json"
        if not file.is_file():
            return None
        checks = json.loads(file.read_text(encoding="utf-8")).get("checks", {})
        # Through JSON, as the file has been.
        return checks if checks.get("made_with") == json.loads(json.dumps(made_with)) else None

    def _summary(self, name: str) -> dict[str, Any]:
        """What a finished probe says of itself."""
        text = (self.curves[name].output_dir / "summary.json").read_text(encoding="utf-8")
        return dict(json.loads(text))

    def _records(
        self, level: float, frames: Mapping[str, pd.DataFrame], summaries: Mapping[str, Any], reference: str | None
    ) -> list[dict[str, Any]]:
        """The table's rows at one noise level."""
        first = next(iter(frames.values()))
        statistic = _paired(self.metric, frames, reference)
        intervals = bootstrap(first, statistic, group=self.group_key, **_BOOTSTRAP)
        costs = {name: summaries[name]["levels"][f"{level:g}"] for name in frames if name != WORST}
        records = []
        for name in frames:
            parts = [costs[name]] if name in costs else list(costs.values())
            value = intervals[name, "value"]
            record: dict[str, Any] = {
                "probe": name,
                "what": str(self.probes[name]) if name in self.probes else "whichever of these does most, each sample",
                "noise_level": level,
                "samples": len(first),
                "groups": first[self.group_key].nunique(),
                "metric": next(iter(self.metric.summary(first))),
                **{"value": value.value, "low": value.low, "high": value.high},
                "loss": intervals[name, "loss"].value,
            }
            for figure in ("difference", "loss_difference"):
                interval = intervals.get((name, figure))
                bounds = (math.nan,) * 3 if interval is None else (interval.value, interval.low, interval.high)
                record |= dict(zip((figure, f"{figure}_low", f"{figure}_high"), bounds, strict=True))
            gains = [part["late_gain"] for part in parts if part.get("late_gain") is not None]
            record["late_gain"] = gains[0] if len(parts) == 1 and gains else math.nan
            record["gradient_evaluations"] = sum(part["gradient_evaluations"] for part in parts)
            record["stalled"] = sum(part["stalled"] for part in parts) / len(first)
            record["seconds"] = sum(part["seconds"] for part in parts)
            records.append(record)
        return records

    def _write(self, table: pd.DataFrame, summaries: Mapping[str, dict[str, Any]], checks: Mapping[str, Any]) -> None:
        higher_is_better = self.metric.higher_is_better()
        lines = verdict(table, reference=self.reference, worst=WORST, higher_is_better=higher_is_better, checks=checks)
        special = ("attack", "attack_loss", "source")
        summary = {
            "verdict": lines,
            "checks": dict(checks),
            "reference": self.reference,
            "higher_is_better": higher_is_better,
            "rows": [
                {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}
                for row in table.to_dict("records")
            ],
            "probes": {
                name: {key: summaries[name][key] for key in special if key in summaries[name]} for name in summaries
            },
            **{
                key: value
                for key, value in summaries[self.reference].items()
                if key not in (*special, "levels", "noise_levels", "seconds")
            },
            "seconds": float(table.loc[table["probe"] != WORST, "seconds"].sum()),
        }
        write_rows(self.output_dir / "strength.csv", table)
        write_text_whole(self.output_dir / "strength.json", json.dumps(summary, indent=2) + "\n")
        write_text_whole(self.output_dir / "strength.md", strength_text(table, lines, reference=self.reference))


def worst_rows(frames: Sequence[pd.DataFrame], metric: Metric) -> pd.DataFrame:
    """For each sample the row with the worst metric, and in it the highest loss of all.

    Where rows share the worst metric, or the sample has none, the one of higher loss is taken.

    Args:
        frames: rows of the same samples in the same order, one frame per probe.
        metric: the metric the rows were made with; a sample's own value is the headline figure of its row alone.
    """
    losses = np.stack([frame["loss"].to_numpy() for frame in frames])
    figures = np.stack([next(iter(figures_of_each(metric, frame).values())) for frame in frames])
    badness = np.where(np.isnan(figures), -math.inf, -figures if metric.higher_is_better() else figures)
    # Of several keys the last one decides first.
    chosen = np.lexsort((-losses, -badness), axis=0)[0]
    picked = [frames[probe].iloc[[sample]] for sample, probe in enumerate(chosen)]
    return pd.concat(picked, ignore_index=True).assign(loss=losses.max(axis=0))


def _paired(metric: Metric, frames: Mapping[str, pd.DataFrame], reference: str | None) -> Statistic:
    """Headline figure and mean loss of every frame, and their differences from the reference's.

    All frames hold the same samples in the same order, so that the weights of one resample are the weights of all.
    """

    def statistic(frame: pd.DataFrame, weights: np.ndarray | None) -> Mapping[Any, Any]:
        counts = np.ones(len(frame)) if weights is None else weights
        figures: dict[tuple[str, str], Any] = {}
        for name, rows in frames.items():
            figures[name, "value"] = next(iter(metric.summary(rows, weights).values()))
            figures[name, "loss"] = counts @ rows["loss"].to_numpy() / counts.sum(axis=-1)
        if reference is not None:
            for name in frames:
                figures[name, "difference"] = figures[name, "value"] - figures[reference, "value"]
                figures[name, "loss_difference"] = figures[name, "loss"] - figures[reference, "loss"]
        return figures

    return statistic


def _at(rows: pd.DataFrame, level: float) -> pd.DataFrame:
    return rows[rows["noise_level"] == level].reset_index(drop=True)


def _check_probes(probes: Mapping[str, Probe], reference: str) -> None:
    if reference not in probes:
        raise ValueError(f"reference {reference!r} is none of the probes, which are {', '.join(probes) or 'none'}")
    for name in probes:
        if not re.fullmatch(r"\w[\w.+=-]*", name):
            raise ValueError(
                f"{name!r} cannot be a probe's name, since its rows go into a folder of that name: use letters, "
                "digits and _.+=-"
            )
    if probes[reference].noise_level is not None:
        raise ValueError(f"reference {reference!r} has a noise level of its own; the others could not be compared")
    if sum(probe.noise_level is None for probe in probes.values()) < 2:
        raise ValueError(f"give at least one probe beside {reference!r} without a noise level of its own")
