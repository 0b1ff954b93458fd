"""What a study consists of: which arms are trained, calibrated and attacked, with which values, after what."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai_amat.study.arms import Arm, Bundle
from monai_amat.study.steps import Step

__all__ = ["EVALUATION", "STD", "StudyPlan"]

STD = Arm("std", (), ())
"""The clean network."""

EVALUATION = "robustness"
"""The evaluation that needs no name: its results are the study's own."""

# What a study sets in every run.
_OWN = (
    *("bundle_root", "checkpoint", "ckpt_dir", "dataset_dir", "log_dir", "output_dir", "robustness_dir", "seed"),
    *("source_checkpoint", "thresholds_file"),
)
# What else there is in an arm's folder or in the study's.
_TAKEN = ("arms", "calibrate", "hippocampus_amat", "logs", "models", "phantom", "strength", "thresholds", "train")


@dataclass(frozen=True)
class StudyPlan:
    """The bundle runs of a study.

    Args:
        bundle: the bundle.
        arms: what is compared.
        seeds: seeds of training.
        dataset_dir: folder of the data set.
        output_dir: folder of the study.
        overlays: config files laid over all others.
        values: values by config ID.
        evaluation: name of the way of attacking.
        strength: whether the attack's strength is looked at.
        compared_with: the arm that all others are compared with, as it is written; the first by default.

    Raises:
        ValueError: for values that nothing reads or that the study sets itself, a name that cannot name a folder or is
            taken, or what the bundle has no config file for.
    """

    bundle: Bundle
    arms: Sequence[Arm]
    seeds: Sequence[int]
    dataset_dir: Path
    output_dir: Path
    overlays: Sequence[str] = ()
    values: Mapping[str, Any] = field(default_factory=dict)
    evaluation: str = EVALUATION
    strength: bool = False
    compared_with: str | None = None
    _read: dict[tuple[str, ...], bool] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._check_evaluation()
        if self.strength and not self.bundle.config("strength").is_file():
            raise ValueError(
                f"{self.bundle.root} has no configs/strength.json, which lists the attacks on a trained network; "
                "leave strength out, or write that file"
            )
        given = [*self.values, *(key for arm in self.arms for key, _ in arm.values)]
        steps = self.steps()
        for key in given:
            if key in _OWN:
                raise ValueError(f"{key} is not a value to set: a study gives every run its own")
            if not any(self.bundle.takes(key, step.configs) for step in steps):
                nearest = self.bundle.nearest(key, {name for step in steps for name in step.configs})
                raise ValueError(
                    f"there is nothing to set at {key}: no configuration file of this study has it; the nearest id is "
                    f"{nearest}"
                )
        for what in ("label", "folder"):
            names = [getattr(arm, what).casefold() for arm in self.arms]
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"two arms would share the {what} {twice[0]!r}; leave one out")
        if self.compared_with not in (None, *(arm.spec for arm in self.arms)):
            known = ", ".join(arm.spec for arm in self.arms)
            raise ValueError(f"the reference {self.compared_with!r} is none of the arms, which are {known}")
        if self.values.get("initial_weights") == "std":
            raise ValueError("the std network cannot start from itself: say which arms do, as amat:initial_weights=std")

    def _check_evaluation(self) -> None:
        name = self.evaluation
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_=-]{0,63}", name):
            raise ValueError(
                f"evaluation {name!r} is to be a folder's name: letters, digits, '_', '-' and '=', at most 64, "
                "the first a letter or digit"
            )
        if name.lower() in _TAKEN:
            raise ValueError(f"evaluation {name!r}: that name is taken in a study; choose another")
        if name != EVALUATION and not self.bundle.takes("robustness_dir", ("train", "robustness")):
            raise ValueError(
                f"{self.bundle.config('robustness')} has no robustness_dir, the curve's output_dir, beside which "
                f'evaluation {name!r} is to go; add "robustness_dir": "$@output_dir + \'/robustness\'" and use it there'
            )

    @property
    def reference(self) -> Arm:
        """The arm that all others are compared with."""
        return next(arm for arm in self.arms if self.compared_with in (None, arm.spec))

    @property
    def trained(self) -> list[Arm]:
        """The arms, with the clean network in front where another needs it."""
        needed = self._calibrates or any(arm.starts_from_std for arm in self.arms)
        return [STD, *(arm for arm in self.arms if arm != STD)] if needed else list(self.arms)

    @property
    def results_dir(self) -> Path:
        """Where tables and figures go: the study's folder, or that of a named evaluation in it."""
        return self.output_dir if self.evaluation == EVALUATION else self.output_dir / self.evaluation

    def folder(self, arm: Arm, seed: int) -> Path:
        """Where an arm's run with one seed goes."""
        return self.output_dir / "arms" / arm.folder / f"seed={seed}"

    def curve_dir(self, arm: Arm, seed: int) -> Path:
        """Where its robustness curve goes."""
        return self.folder(arm, seed) / self.evaluation

    def strength_dir(self, arm: Arm) -> Path:
        """Where the strength of the attack on its first seed's network goes."""
        return self._strength_base(arm) / "strength"

    def steps(self) -> list[Step]:
        """Every bundle run: trainings and calibrations by seed, evaluations by seed, strength."""
        steps: list[Step] = []
        trained: dict[tuple[Arm, int], Step] = {}
        for seed in self.seeds:
            calibrated: list[Step] = []
            for arm in self.trained:
                after = calibrated if arm.needs_thresholds(self.bundle) else []
                if arm.starts_from_std:
                    after = [trained[STD, seed], *after]
                trained[arm, seed] = self.training(arm, seed, after=after)
                steps.append(trained[arm, seed])
                if arm == STD and self._calibrates:
                    calibrated = [self._step("calibrate", arm, seed, "calibrate", after=[trained[arm, seed]])]
                    steps += calibrated
        for seed in self.seeds:
            steps += [self.attack(arm, seed, after=[trained[arm, seed]]) for arm in self.arms]
        if self.strength:
            steps += [self._strength(arm, trained) for arm in self.arms]
        return steps

    def training(self, arm: Arm, seed: int, *, after: Sequence[Step] = ()) -> Step:
        """The training of an arm's network."""
        return self._step("train", arm, seed, after=after)

    def attack(self, arm: Arm, seed: int, *, after: Sequence[Step] = ()) -> Step:
        """The evaluation of an arm's network."""
        # The first of all evaluations goes where the bundle puts it.
        paths = {} if self.evaluation == EVALUATION else {"robustness_dir": self.curve_dir(arm, seed)}
        return self._step(self.evaluation, arm, seed, "robustness", paths=paths, after=after)

    @property
    def _calibrates(self) -> bool:
        return any(arm.needs_thresholds(self.bundle) for arm in self.arms)

    def _strength(self, arm: Arm, trained: Mapping[tuple[Arm, int], Step]) -> Step:
        seed = self.seeds[0]
        needed = [trained[arm, seed]]
        paths = {}
        # Noise made against the clean network, where its weights fit the same network.
        if arm != STD and (STD, seed) in trained and not self._shape(arm):
            needed.append(trained[STD, seed])
            paths["source_checkpoint"] = self._weights(STD, seed)
        folder = self._strength_base(arm)
        if folder != self.folder(arm, seed):
            paths["checkpoint"] = self._weights(arm, seed)
        configs = self.bundle.overlays("strength")
        return self._step("strength", arm, seed, *configs, folder=folder, paths=paths, after=needed)

    def _strength_base(self, arm: Arm) -> Path:
        folder = self.folder(arm, self.seeds[0])
        return folder if self.evaluation == EVALUATION else folder / self.evaluation

    def _weights(self, arm: Arm, seed: int) -> Path:
        return self.folder(arm, seed) / "models" / "model.pt"

    def _shape(self, arm: Arm) -> dict[str, str]:
        """What an arm sets that its network is made of."""
        return {key: value for key, value in arm.values if self.bundle.shapes_network(key)}

    def _step(
        self,
        name: str,
        arm: Arm,
        seed: int,
        *configs: str,
        folder: Path | None = None,
        paths: Mapping[str, Path] | None = None,
        after: Sequence[Step] = (),
    ) -> Step:
        # The attack on a trained network takes none of the training's values.
        files = ["train", *(arm.overlays if name == "train" else ()), *configs]
        # An arm is a way of training: what it sets must not make it be attacked in another way than the others. What
        # its network is made of goes along, or its weights would not fit.
        own = dict(arm.values) if name == "train" else self._shape(arm)

        def reads(key: str) -> bool:
            if (key, *files) not in self._read:  # it takes milliseconds, and all seeds have the same
                self._read[key, *files] = self.bundle.concerns(key, files, self.overlays)
            return self._read[key, *files]

        values = {key: value for key, value in {**self.values, **own}.items() if reads(key)}
        places = dict(paths or {})
        if name == "train" and arm.starts_from_std:
            places["initial_weights"] = self._weights(STD, seed)
        if arm.needs_thresholds(self.bundle):
            places["thresholds_file"] = self.folder(STD, seed) / "thresholds.json"
        return Step(
            name=name,
            bundle=self.bundle,
            configs=[*files, *self.overlays],
            output_dir=self.folder(arm, seed) if folder is None else folder,
            values={"dataset_dir": str(self.dataset_dir), "seed": seed, **values},
            paths=places,
            after=after,
            reads=reads,
        )
