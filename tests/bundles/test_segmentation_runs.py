"""Bundles of other channels and classes, ours and one that was just written, from training to label maps."""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pandas as pd
import pytest
import torch
from monai.bundle import ckpt_export, verify_metadata, verify_net_in_out

from monai_amat.__main__ import main
from monai_amat.engines import load_weights
from monai_amat.study.process import Processes
from monai_amat.tasks.segmentation import nnunet_2d, write_phantom

if TYPE_CHECKING:
    from tests.bundles.conftest import BundleRunner

SCHEMA = Path(__file__).with_name("meta_schema.json")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:monai")

PATCH = [32, 32]
TINY: dict[str, Any] = {
    "patch_size": PATCH,
    "eval_size": PATCH,
    "spacing": "$None",
    "base_features": 4,
    "batch_size": 4,
    "max_epochs": 1,
    "iterations_per_epoch": 2,
    "val_interval": 1,
    "attack_steps": 2,
    "evaluation_steps": 2,
    "train_cases": 3,
    "test_slices": 4,
    "noise_levels": [0.0, 2.0],
}


@dataclass(frozen=True)
class Trained:
    """A bundle, its data, and a study of it."""

    runner: BundleRunner
    channels: int
    classes: int
    results: Path

    @property
    def weights(self) -> Path:
        return self.results / "arms" / "amat" / "seed=0" / "models" / "model.pt"


@pytest.fixture(scope="module", params=["heart", "prostate", "written"])
def trained(request: pytest.FixtureRequest, bundle: BundleRunner, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """`compare` on a phantom of the bundle's kind: train, calibrate, attack; its steps in this process."""
    folder = tmp_path_factory.mktemp(request.param)
    channels, classes = {"heart": (1, 1), "prostate": (2, 2), "written": (2, 1)}[request.param]
    data = write_phantom(folder / "phantom", volumes=15, shape=(16, 22, 14), channels=channels, classes=classes)
    name = f"{request.param}_amat"
    if request.param == "written":
        name = str(folder / "bundle")
        assert main(["init", "--dataset_dir", str(data), "--bundle_dir", name]) == 0
    runner = type(bundle)(data, name, TINY)

    def in_process(
        self: Processes, arguments: Sequence[str], log: IO[bytes], environment: Mapping[str, str] | None = None
    ) -> tuple[int, str]:
        words = list(arguments)
        names = [Path(file).stem for file in json.loads(words[words.index("--config_file") + 1])]
        given = dict(itertools.pairwise(words))
        values = {key: given[f"--{key}"] for key in ("output_dir", "thresholds_file") if f"--{key}" in given}
        runner.run(*names[1:], **values)
        return 0, ""

    patch = pytest.MonkeyPatch()
    patch.setattr(Processes, "run", in_process)
    try:
        words = [f"--{key}={value}" for key, value in TINY.items()]
        compare = ["compare", "--bundle", str(runner.root), "--dataset_dir", str(data), "--overlays", "small"]
        assert main([*compare, "--arms", "std", "amat", "--output_dir", str(folder / "study"), *words]) == 0
    finally:
        patch.undo()
    return Trained(runner, channels, classes, folder / "study")


def test_a_study_of_it_is_complete(trained: Trained) -> None:
    table = json.loads((trained.results / "summary.json").read_text())
    assert table
    assert (trained.results / "curve.png").is_file()
    assert (trained.results / "examples.png").is_file()
    rows = pd.read_csv(trained.results / "arms" / "amat" / "seed=0" / "robustness" / "robustness.csv")
    assert set(rows["noise_level"]) == {0.0, 2.0}
    assert {f"tp_{i}" for i in range(1, trained.classes + 1)} <= set(rows.columns)
    assert f"tp_{trained.classes + 1}" not in rows.columns
    margins = torch.load(trained.weights.parent / "resume_epoch=0001.pt", weights_only=True)["objects"]["margins"]
    assert margins["values"].min() > 0


def test_the_network_exports_and_verifies(trained: Trained, tmp_path: Path) -> None:
    meta = trained.runner.config("metadata")
    verify_metadata(meta_file=str(meta), filepath=SCHEMA)
    for name in ("train", "inference"):
        verify_net_in_out(
            "network_def",
            meta_file=str(meta),
            config_file=str(trained.runner.config(name)),
            device="cpu",
            base_features=2,
        )
    settings: dict[str, Any] = {"patch_size": PATCH, "base_features": 4}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is deprecated, and what bundles are made of
        ckpt_export(
            "network_def",
            filepath=str(tmp_path / "model.ts"),
            ckpt_file=str(trained.weights),
            meta_file=str(meta),
            config_file=[str(trained.runner.config("train")), str(trained.runner.config("inference"))],
            key_in_ckpt="model",
            use_trace=True,
            input_shape=[1, trained.channels, *PATCH],
            **settings,
        )
        traced = torch.jit.load(str(tmp_path / "model.ts"))
    network = nnunet_2d(
        in_channels=trained.channels, out_channels=trained.classes + 1, patch_size=PATCH, base_features=4
    )
    image = torch.randn(2, trained.channels, *PATCH)
    with torch.no_grad():
        torch.testing.assert_close(traced(image), load_weights(network, trained.weights).eval()(image))
