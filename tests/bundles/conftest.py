"""Bundles at a size for tests: tiny phantoms, small settings, runs in this process or in their own."""

from __future__ import annotations

import copy
import json
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fire
import monai.bundle
import pytest
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.data import set_track_meta
from monai.utils import set_determinism

from monai_amat.engines import save_weights
from monai_amat.tasks.detection import write_cells_phantom
from monai_amat.tasks.landmarks import write_cephalogram_phantom
from monai_amat.tasks.segmentation import write_phantom

REPOSITORY = Path(__file__).resolve().parents[2]

# Two poolings more than patches of this size need, so that there is deep supervision as at full size.
SMALL: dict[str, Any] = {
    "patch_size": [32, 32],
    "base_features": 4,
    "batch_size": 4,
    "max_epochs": 2,
    "iterations_per_epoch": 2,
    "val_interval": 1,
    "attack_steps": 2,
    "evaluation_steps": 2,
    "train_cases": 3,
    "test_slices": 6,
    "noise_levels": [0.0, 2.0],
}

# The same where the bundle resamples and is evaluated on more than its patches.
SMALL_RESAMPLED: dict[str, Any] = {**SMALL, "eval_size": SMALL["patch_size"], "spacing": "$None"}

# Images just above the 32 pixels that five poolings take.
SMALL_LANDMARKS: dict[str, Any] = {
    "image_size": [50, 40],
    "width": 1 / 32,
    "batch_size": 4,
    "max_epochs": 2,
    "val_interval": 1,
    "attack_steps": 2,
    "evaluation_steps": 2,
    "train_cases": 8,
    "validation_cases": 2,
    "test_cases": 3,
    "noise_levels": [0.0, 0.5],
}

# Twice the 32 pixels that five halvings take.
SMALL_CELLS: dict[str, Any] = {
    "size": "n",
    "image_size": [64, 64],
    "batch_size": 3,
    "val_batch_size": 4,
    "num_workers": 0,
    "max_epochs": 2,
    "train_cases": 5,
    "val_interval": 2,
    "attack_steps": 2,
    "evaluation_steps": 2,
    "noise_levels": [0.0, 1.0],
}


class BundleRunner:
    """A bundle and a data set for it; `run` takes config files by name and values by ID.

    Args:
        dataset_dir: folder of the data set.
        name: folder of the bundle.
        small: values that make its runs small.
    """

    def __init__(
        self, dataset_dir: Path, name: str = "hippocampus_amat", small: Mapping[str, Any] | None = None
    ) -> None:
        self.root = REPOSITORY / "bundles" / name
        self.name = self.root.name.removesuffix("_amat")
        self.dataset_dir = dataset_dir
        self.small = dict(SMALL if small is None else small)

    def files(self, *names: str | Path) -> list[str]:
        """Config files: by name from the bundle, or any other by path; train.json comes first, small.json last."""
        inner = [name for name in names if name != "small"]
        return [str(name if isinstance(name, Path) else self.config(name)) for name in ("train", *inner, "small")]

    def config(self, name: str) -> Path:
        return self.root / "configs" / f"{name}.json"

    def merged(self, *names: str) -> dict[str, Any]:
        """train.json with these config files over it, as they are."""
        files = [str(self.config(name)) for name in ("train", *names)]
        return dict(copy.deepcopy(ConfigParser.load_config_files(files)))

    def changed(self, before: Sequence[str], after: Sequence[str]) -> tuple[set[str], set[str]]:
        """IDs in which two configurations differ, in sections part by part, and those that the second has more."""
        first, second = self.merged(*before), self.merged(*after)
        found = set()
        for key in first:
            if key in ("train", "validate", "resume_objects", "resume_settings"):
                parts = first[key].keys() | second[key].keys()
                found |= {f"{key}#{part}" for part in parts if first[key].get(part) != second[key].get(part)}
            elif first[key] != second.get(key):
                found.add(key)
        return found, second.keys() - first.keys()

    def values(self, changes: dict[str, Any]) -> dict[str, Any]:
        return {"bundle_root": str(self.root), "dataset_dir": str(self.dataset_dir), **self.small, **changes}

    def arguments(self, *names: str | Path, **changes: Any) -> list[str]:
        """What follows `python -m monai.bundle` on the command line."""
        words = ["run", "--config_file", json.dumps(self.files(*names))]
        for key, value in self.values(changes).items():
            words += [f"--{key}", value if isinstance(value, str) else repr(value)]
        return words

    def run(self, *names: str | Path, **changes: Any) -> None:
        """Run in this process what the command line would run, values parsed as it parses them."""
        with contained():
            fire.Fire(monai.bundle, command=[*self.arguments(*names, **changes), "--logging_file", "False"])

    def failure(self, *names: str | Path, **changes: Any) -> str:
        """Run what must end with an error, and return what the error says."""
        with pytest.raises(Exception) as caught:
            self.run(*names, **changes)
        return self.messages(caught.value)

    @staticmethod
    def messages(error: BaseException | None) -> str:
        """Messages of an error and its causes, without MONAI's own that repeat the configuration."""
        found = []
        while error is not None:
            found.append(str(error))
            error = error.__cause__ or error.__context__
        return "\n".join(text for text in found if not text.startswith(("Failed to evaluate", "Failed to instantiate")))

    @contextmanager
    def workflow(self, *names: str | Path, **changes: Any) -> Iterator[ConfigWorkflow]:
        """A workflow that is initialised but not run."""
        with contained():
            workflow = ConfigWorkflow(self.files(*names), logging_file=False, **self.values(changes))
            workflow.initialize()
            yield workflow

    @contextmanager
    def workflow_of(self, *names: str, kind: str = "train", **changes: Any) -> Iterator[ConfigWorkflow]:
        """The same of these config files alone, given only values that they have, so that none hides a missing one."""
        files = [str(self.config(name)) for name in names]
        has = ConfigParser.load_config_files(files)
        given = {key: value for key, value in self.values(changes).items() if key in has}
        with contained():
            workflow = ConfigWorkflow(files, logging_file=False, workflow_type=kind, **given)
            workflow.initialize()
            yield workflow

    def parser(self, *names: str | Path, **changes: Any) -> ConfigParser:
        """The merged configuration with the small values."""
        with contained():
            parser = ConfigParser()
            parser.read_config(self.files(*names))
            parser.update(self.values(changes))
            return parser

    def full(self, *names: str, **changes: Any) -> ConfigParser:
        """The merged configuration at the size it is written with, but for these changes."""
        parser = ConfigParser(self.merged(*names))
        parser.update(changes)
        return parser

    def untrained(self, folder: Path) -> dict[str, str]:
        """Weights as they are drawn and thresholds by hand, as values for configurations that ask for them."""
        parser = self.parser()
        save_weights(parser.get_parsed_content("network_def"), folder / "model.pt")
        values = dict.fromkeys(parser.get_parsed_content("loss").judged, 1.0)
        # Fitted on nothing, so that they belong to small.json and to full size alike.
        content = {"format": 1, "thresholds": values, "provenance": {"std": values}}
        (folder / "thresholds.json").write_text(json.dumps(content))
        return {"checkpoint": str(folder / "model.pt"), "thresholds_file": str(folder / "thresholds.json")}


@contextmanager
def contained() -> Iterator[None]:
    """Undo what a bundle sets for its whole process."""
    path = list(sys.path)
    with warnings.catch_warnings():
        # MONAI warns of every configuration it parses; thresholds of a network that has learnt nothing are odd.
        warnings.filterwarnings("ignore", category=UserWarning, module=r"monai\.bundle")
        warnings.filterwarnings("ignore", message="ξ accepts")
        try:
            yield
        finally:
            set_track_meta(True)
            set_determinism(None)
            sys.path[:] = path


@pytest.fixture(scope="session")
def tiny_phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fifteen volumes whose slices fit the small patches; to be read, never changed."""
    return write_phantom(tmp_path_factory.mktemp("tiny") / "phantom", volumes=15, shape=(16, 22, 14))


@pytest.fixture(scope="session")
def bundle(tiny_phantom: Path) -> BundleRunner:
    return BundleRunner(tiny_phantom)


@pytest.fixture(scope="session")
def heart(tmp_path_factory: pytest.TempPathFactory) -> BundleRunner:
    """One channel and one class; fifteen volumes are the fewest that five folds can split."""
    folder = tmp_path_factory.mktemp("heart") / "phantom"
    return BundleRunner(write_phantom(folder, volumes=15, shape=(16, 22, 14), classes=1), "heart_amat", SMALL_RESAMPLED)


@pytest.fixture(scope="session")
def prostate(tmp_path_factory: pytest.TempPathFactory) -> BundleRunner:
    """Two channels and two classes."""
    folder = tmp_path_factory.mktemp("prostate") / "phantom"
    data = write_phantom(folder, volumes=15, shape=(16, 22, 14), channels=2)
    return BundleRunner(data, "prostate_amat", SMALL_RESAMPLED)


@pytest.fixture(scope="session")
def std(bundle: BundleRunner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folder of a plain training, calibrated."""
    folder = tmp_path_factory.mktemp("std")
    bundle.run(output_dir=str(folder))
    bundle.run("calibrate", output_dir=str(folder))
    return folder


@pytest.fixture(scope="session")
def skulls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty synthetic cephalograms, 14 to train on; to be read, never changed."""
    return write_cephalogram_phantom(tmp_path_factory.mktemp("skulls") / "phantom", images=20, size=(120, 97))


@pytest.fixture(scope="session")
def cephalometric(skulls: Path) -> BundleRunner:
    return BundleRunner(skulls, "cephalometric_amat", SMALL_LANDMARKS)


@pytest.fixture(scope="session")
def cephalometric_std(cephalometric: BundleRunner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folder of a plain training for landmarks, calibrated."""
    folder = tmp_path_factory.mktemp("cephalometric_std")
    cephalometric.run(output_dir=str(folder))
    cephalometric.run("calibrate", output_dir=str(folder))
    return folder


@pytest.fixture(scope="session")
def bccd(tmp_path_factory: pytest.TempPathFactory) -> BundleRunner:
    """Fourteen synthetic smears, of which one each for validation and testing."""
    data = write_cells_phantom(tmp_path_factory.mktemp("bccd") / "cells", images=14, size=(48, 64))
    return BundleRunner(data, "bccd_amat", SMALL_CELLS)


@pytest.fixture(params=["hippocampus", "heart", "prostate", "cephalometric", "bccd"])
def any_bundle(request: pytest.FixtureRequest) -> BundleRunner:
    """Each bundle in turn, for what holds of all."""
    # The first there was is `bundle`.
    made: BundleRunner = request.getfixturevalue({"hippocampus": "bundle"}.get(request.param, request.param))
    return made


@pytest.fixture(params=["hippocampus", "cephalometric", "bccd"])
def task_bundle(request: pytest.FixtureRequest) -> BundleRunner:
    """One bundle per task."""
    made: BundleRunner = request.getfixturevalue({"hippocampus": "bundle"}.get(request.param, request.param))
    return made


@pytest.fixture(scope="session")
def stds() -> dict[str, Path]:
    """Output folders of plain trainings, calibrated, by bundle."""
    return {}


@pytest.fixture
def task_std(task_bundle: BundleRunner, stds: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folder of a plain training of the task's bundle, calibrated; to be read, never changed."""
    if task_bundle.name not in stds:
        folder = tmp_path_factory.mktemp(f"std_{task_bundle.name}")
        task_bundle.run(output_dir=str(folder))
        task_bundle.run("calibrate", output_dir=str(folder))
        stds[task_bundle.name] = folder
    return stds[task_bundle.name]


@pytest.fixture
def environment() -> dict[str, str]:
    """For processes: one thread each, so that they do not fight over the cores."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
