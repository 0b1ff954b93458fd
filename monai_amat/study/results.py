"""What a finished study shows: one table, one figure, examples, costs, and how strong the attack was."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from fire.parser import DefaultParseValue
from monai.bundle import ConfigParser

from monai_amat.engines import load_weights
from monai_amat.files import write_text_whole
from monai_amat.robustness import (
    Report,
    TrainedMargins,
    differences,
    merge_rows,
    plot_margins,
    table_text,
    write_comparison,
)
from monai_amat.robustness.resampling import few_groups
from monai_amat.robustness.store import write_rows
from monai_amat.study.costs import write_costs
from monai_amat.study.plan import STD, StudyPlan
from monai_amat.study.steps import Step
from monai_amat.study.strength import write_strength

__all__ = ["write_results"]


def write_results(plan: StudyPlan, seconds: Mapping[str, float]) -> pd.DataFrame:
    """Write what a study's steps came to into its folder, or that of its named evaluation.

    `robustness.csv` (all rows), `summary.json`, `table.md` (the metric's headline figure, and the further ones
    of the bundle's `report`), `curve.png` and, for each of the further ones, `curve_<name>.png`; with several
    arms `differences.csv` and `differences.md`; `costs.csv` and `costs.md`; `margins.png` where an arm has
    margins, and `examples.png`, where the bundle says how to make them; `strength.csv` and `strength.md` where
    strength was looked at.

    Args:
        plan: the study, all of whose steps are done.
        seconds: what each step took.

    Returns:
        the table, see `compare`.

    Raises:
        FileNotFoundError: when a step left out what it was to write.
        ValueError: when the arms cannot be compared.
    """
    folder = plan.results_dir
    parser = _parser(plan.attack(plan.arms[0], plan.seeds[0]))
    curves: dict[str, Any] = {arm.label: {seed: plan.curve_dir(arm, seed) for seed in plan.seeds} for arm in plan.arms}
    if len(plan.seeds) == 1:
        curves = {label: by_seed[plan.seeds[0]] for label, by_seed in curves.items()}
    report = _value(parser, "report") or Report()
    metric = parser.get_parsed_content("metric")
    table = write_comparison(curves, folder, metric=metric, report=report)
    if len(plan.arms) > 1:
        apart = differences(curves, metric=metric, reference=plan.reference.label)
        write_rows(folder / "differences.csv", apart)
        note = few_groups(merge_rows(curves)["case"].nunique())
        write_text_whole(folder / "differences.md", table_text(apart) + (f"\n\n- {note}" if note else "") + "\n")
    _describe_study(plan, folder / "summary.json", seconds)
    runs = {arm.label: {seed: plan.folder(arm, seed) for seed in plan.seeds} for arm in plan.arms}
    std = {seed: plan.folder(STD, seed) for seed in plan.seeds} if STD in plan.trained else None
    write_costs(runs, folder, std=std)
    if plan.strength:
        write_strength({arm.label: plan.strength_dir(arm) for arm in plan.arms}, folder)
    _draw_margins(plan)
    _draw_examples(plan, parser)
    return table


def _describe_study(plan: StudyPlan, summary: Path, seconds: Mapping[str, float]) -> None:
    content = json.loads(summary.read_text(encoding="utf-8"))
    content["study"] = {
        "bundle": plan.bundle.root.name,
        "data": plan.dataset_dir.name,
        "arms": [_without_folders(arm.spec, plan) for arm in plan.arms],
        "reference": _without_folders(plan.reference.spec, plan),
        "seeds": list(plan.seeds),
        "overlays": list(plan.overlays),
        "evaluation": plan.evaluation,
        "values": {key: _without_folders(str(value), plan) for key, value in plan.values.items()},
        "seconds": dict(seconds),
    }
    write_text_whole(summary, json.dumps(content, indent=2) + "\n")


def _without_folders(text: str, plan: StudyPlan) -> str:
    """A value with paths inside the study's folder made relative to that folder, other paths cut to the file name."""

    def shortened(found: re.Match[str]) -> str:
        path = Path(found[0])
        if not path.exists():
            return found[0]
        root = plan.output_dir.resolve()
        return str(path.relative_to(root)) if path.is_relative_to(root) else path.name

    return re.sub(r"(?<![^=,'\"\s\[(])/[^,'\"\s\])]+", shortened, text)


def _draw_margins(plan: StudyPlan) -> None:
    """What became of the margins of the first seed's trainings, sorted into groups where the bundle does so."""
    drawn = {}
    for arm in plan.arms:
        run = plan.folder(arm, plan.seeds[0])
        checkpoints = sorted((run / "models").glob("resume_epoch=*.pt"))
        parser = _parser(plan.training(arm, plan.seeds[0]))
        if "margin_stats" not in parser or not (run / "margins.csv").is_file() or not checkpoints:
            continue
        margins = torch.load(checkpoints[-1], weights_only=True)["objects"]["margins"]["values"]
        groups = _value(parser, "margin_stats::groups") or ["all samples"] * len(margins)
        drawn[arm.label] = TrainedMargins(pd.read_csv(run / "margins.csv"), margins, groups)
    if drawn:
        plot_margins(drawn, plan.results_dir / "margins.png")


def _draw_examples(plan: StudyPlan, parser: ConfigParser) -> None:
    """Pictures of the first seed's networks, where the bundle says how to make them."""
    if "examples" not in parser:
        return
    networks = {}
    for arm in plan.arms:
        own = _parser(plan.attack(arm, plan.seeds[0]))
        weights = own.get_parsed_content("checkpoint")
        networks[arm.label] = load_weights(own.get_parsed_content("network_def"), weights)
    examples = parser.get_parsed_content("examples")
    examples.draw(networks, parser.get_parsed_content("validate::dataset"), plan.results_dir / "examples.png")


def _value(parser: ConfigParser, key: str) -> Any:
    """What a bundle has at an ID that it need not have."""
    return parser.get_parsed_content(key) if key in parser else None


def _parser(step: Step) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config([str(step.bundle.config(name)) for name in step.configs])
    for key, value in step.settings().items():
        parser[key] = DefaultParseValue(value) if isinstance(value, str) else value
    return parser
