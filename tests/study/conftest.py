"""Studies at a size for tests: a tiny phantom, and steps that run in this process."""

from __future__ import annotations

import json
import sys
import traceback
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import fire
import monai.bundle
import pytest
from monai.data import set_track_meta
from monai.utils import set_determinism

from monai_amat.study import Study
from monai_amat.study.process import Processes
from monai_amat.tasks.segmentation import write_phantom

# As strings, as they come from the command line.
TINY: dict[str, str] = {
    "patch_size": "[32, 32]",
    "base_features": "4",
    "batch_size": "4",
    "max_epochs": "2",
    "iterations_per_epoch": "2",
    "val_interval": "2",
    "attack_steps": "2",
    "evaluation_steps": "2",
    "train_cases": "3",
    "test_slices": "6",
    "noise_levels": "[0.0, 2.0]",
}


class InProcess:
    """Takes the place of a step's process: the same command line, parsed by the same parser, in this process.

    A process costs five seconds of imports. What it would print is kept out of the log.
    """

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.fail_at: int | None = None

    def __call__(
        self, arguments: Sequence[str], log: IO[bytes], environment: Mapping[str, str] | None = None
    ) -> tuple[int, str]:
        self.commands.append(list(arguments))
        if self.fail_at == len(self.commands):
            return -9, ""
        words = list(arguments)[list(arguments).index("monai.bundle") + 1 :]
        words[words.index("--logging_file") + 1] = "False"  # it would set up logging for all tests
        path = list(sys.path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                fire.Fire(monai.bundle, command=words)
            except Exception:
                return 1, traceback.format_exc()
            finally:
                set_track_meta(True)
                set_determinism(None)
                sys.path[:] = path
        return 0, ""

    @property
    def ran(self) -> list[str]:
        """Arm and name of each step, in order."""
        return [self.named(words) for words in self.commands]

    @staticmethod
    def named(words: Sequence[str]) -> str:
        """Arm and name of the step that a command line is of."""
        output = Path(words[list(words).index("--output_dir") + 1])
        configs = {Path(file).stem for file in json.loads(words[list(words).index("--config_file") + 1])}
        name = next((name for name in ("strength", "calibrate", "robustness") if name in configs), "train")
        return f"{output.parts[output.parts.index('arms') + 1]} {name}"


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> InProcess:
    runner = InProcess()
    monkeypatch.setattr(Processes, "run", lambda self, *arguments: runner(*arguments))
    return runner


@pytest.fixture(scope="session")
def tiny_phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fifteen volumes whose slices fit the small patches; to be read, never changed."""
    return write_phantom(tmp_path_factory.mktemp("tiny") / "phantom", volumes=15, shape=(16, 22, 14))


@pytest.fixture(scope="session")
def hippocampus() -> Path:
    """The bundle."""
    return Path(__file__).resolve().parents[2] / "bundles" / "hippocampus_amat"


@pytest.fixture
def tiny() -> dict[str, Any]:
    return dict(TINY)


@pytest.fixture
def study(hippocampus: Path, tiny_phantom: Path, tmp_path: Path, tiny: dict[str, str], in_process: InProcess) -> Any:
    """Makes a study of tiny runs that say nothing; keywords replace its arguments."""

    def make(*arms: str, **changes: Any) -> Study:
        values = {**tiny, **changes.pop("values", {})}
        given = {"dataset_dir": tiny_phantom, "output_dir": tmp_path / "study", "overlays": ["small"], **changes}
        return Study(given.pop("bundle", hippocampus), arms, values=values, **{"say": lambda text: None, **given})

    return make


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A small zoo-style training configuration: one channel, shuffled, with a MONAI loss that reduces the batch."""
    items = "$[{'image': torch.full((1, 32, 32), 1.0 * i), 'label': torch.ones(1, 32, 32) * (i % 2)} for i in range(6)]"
    config: dict[str, Any] = {
        "imports": ["$import torch", "$import monai"],
        "output_dir": str(tmp_path / "out"),
        "network_def": {
            "_target_": "BasicUNet",
            "spatial_dims": 2,
            "in_channels": 1,
            "out_channels": 2,
            "features": [4, 4, 4, 4, 4, 4],
        },
        "network": "$@network_def.to('cpu')",
        "loss": {"_target_": "monai.losses.DiceCELoss", "softmax": True, "to_onehot_y": True},
        "train": {
            "dataset": {"_target_": "Dataset", "data": items},
            "dataloader": {"_target_": "DataLoader", "dataset": "@train#dataset", "batch_size": 3, "shuffle": True},
            "trainer": {
                "_target_": "SupervisedTrainer",
                "device": "cpu",
                "max_epochs": 2,
                "train_data_loader": "@train#dataloader",
                "network": "@network",
                "optimizer": {"_target_": "torch.optim.SGD", "params": "$@network.parameters()", "lr": 0.01},
                "loss_function": "@loss",
            },
        },
        "validate": {
            "dataloader": {"_target_": "DataLoader", "dataset": "@train#dataset", "batch_size": 4},
            "evaluator": {
                "_target_": "SupervisedEvaluator",
                "device": "cpu",
                "val_data_loader": "@validate#dataloader",
                "network": "@network",
            },
        },
        "initialize": ["$monai.utils.set_determinism(seed=0)"],
        "run": ["$@train#trainer.run()"],
    }
    file = tmp_path / "train.json"
    file.write_text(json.dumps(config))
    return file
