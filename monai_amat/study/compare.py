"""A whole study: every arm trained, calibrated and attacked, then one table and one figure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from fire.parser import DefaultParseValue
from monai.bundle import ConfigParser

from monai_amat.files import write_text_whole
from monai_amat.networks import load_weights
from monai_amat.robustness import table_text, write_comparison
from monai_amat.study.arms import Arm, Bundle
from monai_amat.study.steps import Step

__all__ = ["Study"]

# What a study sets in every run.
_OWN = ("bundle_root", "checkpoint", "ckpt_dir", "dataset_dir", "log_dir", "output_dir", "seed", "thresholds_file")


class Study:
    """Arms and seeds of one bundle on one data set.

    For every seed the clean network (``std``) is trained first where any arm needs thresholds, and calibrated; then
    the arms are trained, and each is attacked. Finished steps are not done again, unfinished ones go on where they
    stopped.

    Args:
        bundle: folder of the bundle.
        arms: see :meth:`~monai_amat.study.arms.Arm.parse`.
        seeds: seeds of training; the attack's is fixed.
        dataset_dir: folder of the data set.
        output_dir: where everything goes.
        overlays: config files laid over all others, ``("small",)`` for example.
        values: values by config ID; each is set in the runs whose configuration has it.
        say: what announces each step; ``print`` by default.

    Raises:
        FileNotFoundError: when bundle or data set is not there.
        ValueError: for arms that cannot be read, repeated arms or seeds, or values that nothing reads or that the study
            sets itself.
    """

    def __init__(
        self,
        bundle: str | Path,
        arms: Sequence[str],
        *,
        dataset_dir: str | Path,
        output_dir: str | Path,
        seeds: Sequence[int] = (0,),
        overlays: Sequence[str] = (),
        values: Mapping[str, Any] | None = None,
        say: Any = print,
    ) -> None:
        self.bundle = Bundle(Path(bundle).expanduser().resolve())
        self.arms = [Arm.parse(spec, self.bundle) for spec in arms]
        self.seeds = list(seeds)
        for name, given in (("arms", list(arms)), ("seeds", self.seeds)):
            if not given or len(set(given)) != len(given):
                raise ValueError(f"{name} must be given, each once, got {given}")
        self.dataset_dir = Path(dataset_dir).expanduser().resolve()
        if not self.dataset_dir.is_dir():
            raise FileNotFoundError(f"no data set at {self.dataset_dir}")
        self.output_dir = Path(output_dir).expanduser().resolve()
        self.overlays = [part for name in overlays for part in self.bundle.overlays(name)]
        self.values = dict(values or {})
        self.say = say
        for key in [*self.values, *(key for arm in self.arms for key, _ in arm.values)]:
            if key in _OWN:
                raise ValueError(f"{key} is not a value to set: a study gives every run its own")
            if not any(self.bundle.takes(key, step.configs) for step in self.steps()):
                raise ValueError(f"there is nothing to set at {key}: no configuration file of this study has it")

    def run(self) -> pd.DataFrame:
        """Do what is not done yet and write table and figures.

        Returns:
            the table, see :func:`monai_amat.robustness.compare`.
        """
        steps = self.steps()
        seconds: dict[str, float] = {}
        for number, step in enumerate(steps, start=1):
            place = step.output_dir.relative_to(self.output_dir)
            self.say(f"==> [{number}/{len(steps)}] {place}: {step.name} (log: {step.output_dir / step.name}.log)")
            seconds[f"{place}/{step.name}"] = step.run()
        return self._conclude(seconds)

    def steps(self) -> list[Step]:
        """Every bundle run of the study, in order."""
        std = Arm.parse("std", self.bundle)
        calibrated = any(arm.needs_thresholds(self.bundle) for arm in self.arms)
        trained = [std, *(arm for arm in self.arms if arm != std)] if calibrated else self.arms
        steps = []
        for seed in self.seeds:
            for arm in trained:
                steps.append(self._step("train", arm, seed))
                if arm == std and calibrated:
                    steps.append(self._step("calibrate", arm, seed, "calibrate"))
        for seed in self.seeds:
            steps += [self._step("robustness", arm, seed, "robustness") for arm in self.arms]
        return steps

    def folder(self, arm: Arm, seed: int) -> Path:
        """Where an arm's run with one seed goes."""
        return self.output_dir / "arms" / arm.folder / f"seed={seed}"

    def _step(self, name: str, arm: Arm, seed: int, *configs: str) -> Step:
        # The attack on a trained network knows nothing of how it was trained.
        files = ["train", *(arm.overlays if name == "train" else ()), *configs, *self.overlays]
        values: dict[str, Any] = {"dataset_dir": str(self.dataset_dir), "seed": seed}
        # An arm is a way of training: what it sets must not make it be attacked in another way than the others. What
        # its network is made of goes along, or its weights would not fit.
        own = {key: value for key, value in arm.values if name == "train" or self.bundle.shapes_network(key)}
        for key, value in {**self.values, **own}.items():
            if self.bundle.takes(key, files):
                values[key] = value
        if arm.needs_thresholds(self.bundle):
            std = self.folder(Arm.parse("std", self.bundle), seed)
            values["thresholds_file"] = str(std / "thresholds.json")
        return Step(name=name, bundle=self.bundle, configs=files, output_dir=self.folder(arm, seed), values=values)

    def _conclude(self, seconds: Mapping[str, float]) -> pd.DataFrame:
        parser = self._parser(self._step("robustness", self.arms[0], self.seeds[0], "robustness"))
        results: dict[str, Any] = {
            arm.label: {seed: self.folder(arm, seed) / "robustness" for seed in self.seeds} for arm in self.arms
        }
        if len(self.seeds) == 1:
            results = {label: by_seed[self.seeds[0]] for label, by_seed in results.items()}
        metric = parser.get_parsed_content("metric")
        labels = {
            argument: parser[key]
            for argument, key in (("ylabel", "metric_label"), ("xlabel", "noise_label"))
            if key in parser
        }
        table = write_comparison(results, self.output_dir, metric=metric, **labels)
        summary = self.output_dir / "summary.json"
        content = json.loads(summary.read_text(encoding="utf-8"))
        content["study"] = {
            "bundle": self.bundle.root.name,
            "data": self.dataset_dir.name,
            "arms": [arm.spec for arm in self.arms],
            "seeds": self.seeds,
            "overlays": self.overlays,
            "values": self.values,
            "seconds": dict(seconds),
        }
        write_text_whole(summary, json.dumps(content, indent=2) + "\n")
        text = table_text(table)
        write_text_whole(self.output_dir / "table.md", text + "\n")
        self._draw_examples(parser)
        self.say(f"\n{text}\n\nresults: {self.output_dir}")
        return table

    def _parser(self, step: Step) -> ConfigParser:
        parser = ConfigParser()
        parser.read_config([str(self.bundle.config(name)) for name in step.configs])
        values = {"bundle_root": str(self.bundle.root), "output_dir": str(step.output_dir), **step.values}
        for key, value in values.items():
            parser[key] = DefaultParseValue(value) if isinstance(value, str) else value
        return parser

    def _draw_examples(self, parser: ConfigParser) -> None:
        """Pictures of the first seed's networks, where the bundle says how to make them."""
        if "examples" not in parser:
            return
        networks = {}
        for arm in self.arms:
            own = self._parser(self._step("robustness", arm, self.seeds[0], "robustness"))
            weights = own.get_parsed_content("checkpoint")
            networks[arm.label] = load_weights(own.get_parsed_content("network_def"), weights)
        examples = parser.get_parsed_content("examples")
        examples.draw(networks, parser.get_parsed_content("validate#dataset"), self.output_dir / "examples.png")
