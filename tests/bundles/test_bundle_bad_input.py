"""Whatever is wrong with data, files or settings reaches the user by name, before training starts."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pytest
from monai.engines import SupervisedTrainer

from monai_amat.engines import save_weights
from monai_amat.tasks.segmentation import nnunet_2d, write_phantom

if TYPE_CHECKING:
    from tests.bundles.conftest import BundleRunner

CASE = "phantom_002"  # of the training section


@pytest.fixture
def data(tiny_phantom: Path, tmp_path: Path) -> Path:
    """A copy of the data set, to be spoilt."""
    return Path(shutil.copytree(tiny_phantom, tmp_path / "Task99_Spoilt"))


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Iterations that were trained after all."""
    seen: list[int] = []
    original = SupervisedTrainer._iteration

    def note(self: Any, engine: Any, batch: Any) -> Any:
        seen.append(engine.state.iteration)
        return original(self, engine, batch)

    monkeypatch.setattr(SupervisedTrainer, "_iteration", note)
    return seen


def rewrite(file: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    image = nib.load(file)
    assert isinstance(image, nib.Nifti1Image)
    nib.save(nib.Nifti1Image(change(np.asanyarray(image.dataobj).copy()), image.affine), file)


def describe(data: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    file = data / "dataset.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def with_voxel(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(voxels: np.ndarray) -> np.ndarray:
        changed = voxels.astype(np.float32)
        changed[4, 5, 6] = value
        return changed

    return change


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:300])


def corrupt(file: Path) -> None:
    content = bytearray(gzip.decompress(file.read_bytes()))
    content[40:56] = bytes(range(200, 216))  # the dimensions in the header
    file.write_bytes(gzip.compress(bytes(content)))


IMAGE, LABEL = f"imagesTr/{CASE}.nii.gz", f"labelsTr/{CASE}.nii.gz"

SPOILT: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "folder": (shutil.rmtree, ["Task99_Spoilt", "no such folder"]),
    "dataset.json": (lambda data: (data / "dataset.json").unlink(), ["Task99_Spoilt/dataset.json", "not found"]),
    "no JSON": (lambda data: (data / "dataset.json").write_text("{"), ["dataset.json", "not valid JSON"]),
    "label missing": (lambda data: (data / LABEL).unlink(), [LABEL, CASE, "no such file"]),
    "label of another shape": (
        lambda data: rewrite(data / LABEL, lambda voxels: voxels[1:]),
        [LABEL, "label and image must have one shape"],
    ),
    "truncated image": (lambda data: truncate(data / IMAGE), [IMAGE, "corrupt or truncated"]),
    "corrupt label": (lambda data: corrupt(data / LABEL), [LABEL]),
    "NaN": (lambda data: rewrite(data / IMAGE, with_voxel(np.nan)), [IMAGE, "NaN or infinite"]),
    "infinite": (lambda data: rewrite(data / IMAGE, with_voxel(np.inf)), [IMAGE, "NaN or infinite"]),
    "label value": (lambda data: rewrite(data / LABEL, with_voxel(7)), [LABEL, "got [7.0]"]),
    "channels of one volume": (
        lambda data: rewrite(data / IMAGE, lambda voxels: np.stack([voxels, voxels], axis=-1)),
        [IMAGE, "expected 1 channel(s), got 2"],
    ),
    "empty split": (
        lambda data: describe(data, lambda content: content.update(training=content["training"][:10], numTraining=10)),
        ["Task99_Spoilt", "10 cases in 5 folds"],
    ),
}


@pytest.mark.parametrize("what", SPOILT)
def test_spoilt_data_are_named_before_training(
    bundle: BundleRunner, data: Path, started: list[int], what: str, tmp_path: Path
) -> None:
    spoil, expected = SPOILT[what]
    spoil(data)
    message = bundle.failure(dataset_dir=str(data), output_dir=str(tmp_path / "out"))
    assert [part for part in expected if part not in message] == []
    assert not started


def test_data_of_another_task_are_refused_before_training(
    bundle: BundleRunner, started: list[int], tmp_path: Path
) -> None:
    """Sound in themselves, but of more channels, or more classes, than the network has."""
    two = write_phantom(tmp_path / "two", volumes=15, shape=(16, 22, 14), channels=2)
    message = bundle.failure(dataset_dir=str(two), output_dir=str(tmp_path / "out"))
    assert f"{two / 'dataset.json'}: expected 1 image channels, got 2" in message
    one = write_phantom(tmp_path / "one", volumes=15, shape=(16, 22, 14), classes=1)
    message = bundle.failure(dataset_dir=str(one), output_dir=str(tmp_path / "out"))
    assert f"{one / 'dataset.json'}: expected 3 classes" in message
    assert not started


# ------------------------------------------------------------------- thresholds and weights


def thresholds(folder: Path, content: Any) -> str:
    file = folder / "limits.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(file)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, ["limits.json", "fit them first"]),
        ('{"format": 1, "thresholds": {"total": NaN}}', ["limits.json", "must be finite"]),
        ('{"format": 1, "thresholds": {"total": Infinity}}', ["limits.json", "must be finite"]),
        ({"format": 1, "thresholds": {"heatmap": 1.0}}, ["heatmap", "total"]),
        ({"format": 1, "thresholds": {}}, ["limits.json", "at least one term"]),
        ("[1, 2]", ["limits.json", "not a thresholds file"]),
        ("", ["limits.json", "not a thresholds file"]),
    ],
)
def test_thresholds_that_cannot_be_used_are_named_before_training(
    bundle: BundleRunner, started: list[int], content: Any, expected: list[str], tmp_path: Path
) -> None:
    file = str(tmp_path / "limits.json") if content is None else thresholds(tmp_path, content)
    message = bundle.failure("amat", thresholds_file=file, output_dir=str(tmp_path / "out"))
    assert [part for part in expected if part not in message] == []
    assert not started


@pytest.mark.parametrize("names", [("calibrate",), ("evaluate",), ("robustness",)], ids="+".join)
def test_weights_that_do_not_fit_are_named(bundle: BundleRunner, names: tuple[str, ...], tmp_path: Path) -> None:
    file = tmp_path / "other.pt"
    changes = {"checkpoint": str(file), "output_dir": str(tmp_path / "out")}
    assert f"no checkpoint at {file}" in bundle.failure(*names, **changes)
    save_weights(nnunet_2d(in_channels=1, out_channels=3, patch_size=(32, 32), base_features=6), file)
    assert f"{file} is of another architecture" in bundle.failure(*names, **changes)
    file.write_bytes(b"no weights")
    assert f"{file} is not a checkpoint" in bundle.failure(*names, **changes)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"train_cases": 2}, "made with a data set of fingerprint"),
        ({"base_features": 6}, "another architecture of 'network'"),
        ({"iterations_per_epoch": 3}, "iterations per epoch"),
        ({"seed": 1}, "made with seed 0, but this run has 1"),
        ({"max_epochs": 4}, "made with max_epochs 2, but this run has 4"),
        ({"train#random_transforms": []}, "made with transforms.transforms [{"),
        ({"optimizer#weight_decay": 0.5}, "optimizer.weight_decay 3e-05, but this run has 0.5"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_before_training(
    bundle: BundleRunner, std: Path, started: list[int], changes: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    shutil.copytree(std, tmp_path / "out")
    message = bundle.failure(output_dir=str(tmp_path / "out"), **changes)
    assert "resume_epoch=0002.pt" in message
    assert expected in message
    assert not started


def test_a_checkpoint_of_another_arm_is_refused_before_training(
    bundle: BundleRunner, std: Path, started: list[int], tmp_path: Path
) -> None:
    shutil.copytree(std, tmp_path / "out")
    message = bundle.failure("amat", output_dir=str(tmp_path / "out"))
    assert "resume_epoch=0002.pt was made with" in message
    assert "batch.class PrepareBatchDefault, but this run has PrepareBatchAdversarial" in message
    assert not started


def test_thresholds_of_another_data_set_are_refused_before_training(
    bundle: BundleRunner, std: Path, started: list[int], tmp_path: Path
) -> None:
    file = str(std / "thresholds.json")
    message = bundle.failure("amat", thresholds_file=file, train_cases=2, output_dir=str(tmp_path / "out"))
    assert f"{file} was made with data " in message
    assert not started


# -------------------------------------------------------------------------------- settings

BAD_SETTINGS: dict[str, tuple[tuple[str, ...], dict[str, Any], list[str]]] = {
    "negative ε": (("sat",), {"epsilon": -1.0}, ["epsilon", "-1"]),
    "ε that is no number": (("sat",), {"epsilon": "$float('nan')"}, ["radius", "nan"]),
    "infinite ε": (("sat",), {"epsilon": "$float('inf')"}, ["radius", "inf"]),
    "negative Δ": (("amat",), {"delta": -2.5}, ["-2.5"]),
    "Δ that is no number": (("amat",), {"delta": "$float('nan')"}, ["nan"]),
    "infinite Δ": (("amat", "amat_boundary"), {"delta": "$float('inf')"}, ["inf"]),
    "negative cap": (("amat",), {"max_margin": -1.0}, ["max_margin", "-1"]),
    "negative noise": (("evaluate",), {"epsilon": -1.0}, ["epsilon", "-1"]),
    "negative noise level": (("robustness",), {"noise_levels": [0.0, -1.0]}, ["noise_levels", "-1"]),
    "a loss of the batch": (
        ("sat",),
        {"loss": {"_target_": "monai.losses.DiceCELoss", "softmax": True, "to_onehot_y": True}},
        ["DiceCELoss", "PerSampleLoss"],
    ),
    "a data set that replaces samples": (
        (),
        {"train#dataset#dataset#_target_": "SmartCacheDataset"},
        ["SmartCacheDataset", "margins"],
    ),
    "a data set without indices": (
        (),
        {"train#dataset#dataset": {"_target_": "monai.data.IterableDataset", "data": "@train::data"}},
        ["IterableDataset", "no indices"],
    ),
    "no slices": (("robustness",), {"test_slices": 0}, ["got count=0", "slices with foreground"]),
    "a crop that loses foreground": (("evaluate",), {"eval_size": [16, 16]}, ["expected foreground only", "eval_size"]),
    "fold": ((), {"fold": 5}, ["fold 5 of 5"]),
}


@pytest.mark.filterwarnings("ignore:cache_num is greater")
@pytest.mark.parametrize("what", BAD_SETTINGS)
def test_settings_out_of_range_are_named_before_training(
    bundle: BundleRunner, std: Path, started: list[int], what: str, tmp_path: Path
) -> None:
    names, changes, expected = BAD_SETTINGS[what]
    made = {"thresholds_file": str(std / "thresholds.json"), "checkpoint": str(std / "models" / "model.pt")}
    message = bundle.failure(*names, output_dir=str(tmp_path / "out"), **made, **changes)
    assert [part for part in expected if part not in message] == []
    assert not started


def test_inputs_outside_the_clip_range_are_named(bundle: BundleRunner, tmp_path: Path) -> None:
    """z-scored images in a range for others; known only once a batch is there."""
    message = bundle.failure("sat", output_dir=str(tmp_path / "out"), **{"attack#clip_range": [0.0, 1.0]})
    assert "clip_range" in message


@pytest.mark.parametrize("names", [(), ("amat",), ("calibrate",), ("robustness",)], ids="+".join)
def test_output_that_cannot_be_written_is_named(
    bundle: BundleRunner, std: Path, started: list[int], names: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    blocked = tmp_path / "file" / "out"
    made = {"checkpoint": str(std / "models" / "model.pt")}
    if "amat" in names:
        made["thresholds_file"] = str(std / "thresholds.json")
    message = bundle.failure(*names, output_dir=str(blocked), **made)
    assert str(blocked) in message
    assert not started


def test_the_command_line_prints_the_culprit_and_fails(
    bundle: BundleRunner, data: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    """What the other tests read from the exception is what a process prints."""
    (data / LABEL).unlink()
    arguments = bundle.arguments(dataset_dir=str(data), output_dir=str(tmp_path / "out"))
    finished = subprocess.run(
        [sys.executable, "-m", "monai.bundle", *arguments],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode != 0
    assert LABEL in finished.stderr
    assert not list(tmp_path.rglob("*.pt"))
