"""What a run of any bundle refuses before it reads data: settings, files and paths that cannot be meant."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.bundles.conftest import BundleRunner


@pytest.mark.parametrize(
    ("names", "changes", "expected"),
    [
        ((), {"max_epoch": 3}, ["'max_epoch'", "'max_epochs'"]),
        (("sat",), {"epsilonn": 1}, ["'epsilonn'", "'epsilon'"]),
        (("sat",), {"epsilon": -1}, ["epsilon is -1"]),
        (("sat",), {"epsilon": [5]}, ["epsilon is [5]"]),
        (("amat",), {"attack_steps": 0}, ["attack_steps is 0"]),
        (("amat_path",), {}, ["amat_path.json lies on amat.json"]),
        (("amat_shuffled", "amat"), {}, ["amat_shuffled.json lies on amat.json"]),
        (("strength",), {}, ["strength.json lies on robustness.json"]),
        ((), {"output_dir": "runs/out #1"}, ["output_dir is 'runs/out ::1'", "MONAI replaces #"]),
        ((), {"output_dir": "@runs"}, ["output_dir is '@runs'", "./@runs"]),
        ((), {"dataset_dir": "2024"}, ["dataset_dir is the number 2024", "./2024"]),
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_named_before_data_are_read(
    task_bundle: BundleRunner,
    names: tuple[str, ...],
    changes: dict[str, Any],
    expected: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    message = task_bundle.failure(*names, **{"output_dir": "out", "dataset_dir": str(tmp_path / "absent"), **changes})
    assert [part for part in expected if part not in message] == []
    assert "absent" not in message
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_place_of_the_weights_is_found_before_training(
    task_bundle: BundleRunner, tmp_path: Path
) -> None:
    (tmp_path / "models" / "model.pt").mkdir(parents=True)
    message = task_bundle.failure(output_dir=str(tmp_path))
    assert f"{tmp_path / 'models' / 'model.pt'} is a folder" in message
    assert not list(tmp_path.rglob("*.pt/*"))
    assert not list(tmp_path.rglob("resume_epoch*"))


def test_the_device_is_taken_by_its_name(task_bundle: BundleRunner, tmp_path: Path) -> None:
    task_bundle.run(output_dir=str(tmp_path / "user@site $x"), device="cpu", max_epochs=1, num_workers=0)
    assert (tmp_path / "user@site $x" / "models" / "model.pt").is_file()
