from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from monai_amat.integrations.ultralytics.margin_files import load_margins, margin_file, save_margins

SETTINGS = {"step": 2.5, "max_margin": None}


def state(value: float) -> dict[str, Any]:
    return {"values": torch.tensor([value]), "fingerprint": "a", "running": [{"steps": 3}]}


def value_of(found: dict[str, Any]) -> float:
    return float(found["values"])


def test_the_last_two_epochs_are_kept(tmp_path: Path) -> None:
    checkpoint = tmp_path / "last.pt"
    for epoch in range(4):
        save_margins(checkpoint, epoch, state(epoch), SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["last_margins.pt"]
    # Whichever of the two the checkpoint is of, when a kill came between the files.
    assert value_of(load_margins(checkpoint, 3, SETTINGS)) == 3
    assert value_of(load_margins(checkpoint, 2, SETTINGS)) == 2
    with pytest.raises(ValueError, match=r"after epochs \[2, 3\], but .*last\.pt is of epoch 1"):
        load_margins(checkpoint, 1, SETTINGS)


def test_an_epoch_done_again_replaces_what_came_of_it(tmp_path: Path) -> None:
    checkpoint = tmp_path / "last.pt"
    for epoch, value in ((0, 0.0), (1, 1.0), (2, 2.0), (1, 10.0)):  # resumed after epoch 0
        save_margins(checkpoint, epoch, state(value), SETTINGS)
    assert value_of(load_margins(checkpoint, 1, SETTINGS)) == 10
    with pytest.raises(ValueError, match="is of epoch 2"):
        load_margins(checkpoint, 2, SETTINGS)


def test_a_new_run_in_the_folder_of_an_old_one_starts_its_own_file(tmp_path: Path) -> None:
    checkpoint = tmp_path / "last.pt"
    for epoch in (0, 1, 0):
        save_margins(checkpoint, epoch, state(epoch), SETTINGS)
    assert list(torch.load(margin_file(checkpoint), weights_only=True)["epochs"]) == [0]


def test_other_settings_are_refused(tmp_path: Path) -> None:
    save_margins(tmp_path / "last.pt", 0, state(0), SETTINGS)
    with pytest.raises(ValueError, match=r"last_margins\.pt was made with step 2\.5, but this run has 5\.0: go on"):
        load_margins(tmp_path / "last.pt", 0, {**SETTINGS, "step": 5.0})


def test_a_checkpoint_without_margins_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"its margins, .*last_margins\.pt, are missing; copy both"):
        load_margins(tmp_path / "last.pt", 0, SETTINGS)


@pytest.mark.parametrize(
    ("content", "message"), [(b"nothing", "is not a checkpoint"), (None, "is not a file of margins")]
)
def test_a_file_of_another_kind_says_so(content: bytes | None, message: str, tmp_path: Path) -> None:
    file = margin_file(tmp_path / "last.pt")
    if content is None:
        torch.save([1, 2], file)
    else:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"last_margins\.pt.* {message}"):
        load_margins(tmp_path / "last.pt", 0, SETTINGS)
