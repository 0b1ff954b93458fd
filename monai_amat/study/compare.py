"""A whole study: every arm trained, calibrated and attacked, then one table and one figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from monai_amat.robustness import table_text
from monai_amat.study.arms import Arm, Bundle
from monai_amat.study.foreign import check_path
from monai_amat.study.plan import EVALUATION, StudyPlan
from monai_amat.study.results import write_results
from monai_amat.study.schedule import run_steps
from monai_amat.study.steps import Step

__all__ = ["Study"]


class Study:
    """Arms and seeds of one bundle on one data set.

    For every seed the clean network (`std`) is trained first where any arm needs its thresholds, and calibrated, or
    starts from its weights; then the arms are trained, and each is attacked. Finished steps are not done again,
    unfinished ones go on where they stopped.

    Args:
        bundle: folder of the bundle.
        arms: see `Arm.parse`.
        seeds: seeds of training; the attack's is fixed.
        dataset_dir: folder of the data set.
        output_dir: where everything goes.
        overlays: config files laid over all others, `("small",)` for example.
        values: values by config ID; each is set in the runs that it concerns, see
            `Bundle.concerns`.
        evaluation: name of the way of attacking. Under another name than the default the same trained networks are
            attacked with other `values`, and all results go to `output_dir/<name>`, beside the first.
        strength: whether to look at how strong the attack is as well, on the first seed's networks: the bundle's
            `strength.json`. Noise of the clean network is among what is tried, where that was trained and the arm
            sets nothing that its network is made of.
        reference: the arm that all others are compared with sample by sample; the first by default.
        jobs: how many steps may run at once, see `run_steps`.
        say: what announces each step; `print` by default.

    Raises:
        FileNotFoundError: when bundle or data set is not there.
        ValueError: for a path with `#`, arms that cannot be read, repeated arms or seeds, less than one job, or what
            `StudyPlan` refuses.
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
        evaluation: str = EVALUATION,
        strength: bool = False,
        reference: str | None = None,
        jobs: int = 1,
        say: Any = print,
    ) -> None:
        for name, path in (("bundle", bundle), ("dataset_dir", dataset_dir), ("output_dir", output_dir)):
            check_path(name, Path(path).expanduser().resolve())
        found = Bundle(Path(bundle).expanduser().resolve())
        parsed = [Arm.parse(spec, found) for spec in arms]
        for name, given in (("arms", list(arms)), ("seeds", list(seeds))):
            if not given or len(set(given)) != len(given):
                raise ValueError(f"{name} must be given, each once, got {given}")
        for key, value in [*(values or {}).items(), *(pair for arm in parsed for pair in arm.values)]:
            if isinstance(value, str) and not value.startswith(("@", "$", "%", "{", "[")):
                check_path(key, value)
        if jobs < 1:
            raise ValueError(f"jobs must be at least 1, got {jobs}")
        data = Path(dataset_dir).expanduser().resolve()
        if not data.is_dir():
            raise FileNotFoundError(f"no data set at {data}")
        self.plan = StudyPlan(
            bundle=found,
            arms=parsed,
            seeds=list(seeds),
            dataset_dir=data,
            output_dir=Path(output_dir).expanduser().resolve(),
            overlays=[part for name in overlays for part in found.overlays(name)],
            values=dict(values or {}),
            evaluation=evaluation,
            strength=strength,
            compared_with=reference,
        )
        self.jobs = jobs
        self.say = say

    def run(self) -> pd.DataFrame:
        """Do what is not done yet and write tables and figures.

        Returns:
            the table, see `compare`.

        Raises:
            RuntimeError: when a step is done with other settings, or another process is at one.
            StepError: when a step ends with an error.
        """
        seconds = run_steps(self.steps(), root=self.plan.output_dir, jobs=self.jobs, say=self.say)
        table = write_results(self.plan, seconds)
        self.say(f"\n{table_text(table)}\n\nresults: {self.plan.results_dir}")
        return table

    def steps(self) -> list[Step]:
        """Every bundle run of the study, in order."""
        return self.plan.steps()

    def folder(self, arm: Arm, seed: int) -> Path:
        """Where an arm's run with one seed goes."""
        return self.plan.folder(arm, seed)
