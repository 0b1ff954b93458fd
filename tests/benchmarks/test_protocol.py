"""The benchmarks that train: what an epoch takes, and the protocol that stops and goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import epoch_time
import paper_protocol
import pytest
import torch
from monai.data import get_track_meta

from monai_amat.tasks.segmentation import write_phantom

TINY = ["iterations_per_epoch=2", "batch_size=4", "attack_steps=3", "train_cases=3"]


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantom(tmp_path_factory.mktemp("data") / "phantom", volumes=15, seed=0)


@pytest.mark.filterwarnings("ignore::UserWarning:monai")
def test_the_arithmetic_of_a_step_is_that_of_its_forwards_and_gradients(
    phantom: Path, quick: Callable[..., dict[str, Any]]
) -> None:
    content = quick(epoch_time, "--dataset_dir", str(phantom), "--overlays", "small", "--set", *TINY)
    assert get_track_meta()  # as it was
    std, sat, amat = content["results"]
    assert [row["steps"] for row in content["results"]] == [2, 2, 2]
    # A forward is a third of a training step; an attack step takes two thirds, and the doubled batch two steps.
    assert sat["flop_per_step"] / std["flop_per_step"] == pytest.approx(2 + 3 * 2 / 3, rel=0.02)
    assert amat["flop_per_step"] == sat["flop_per_step"]
    for row in content["results"]:
        assert row["seconds"]["median"] > 0
        assert row["share_of_matmul"] > 0


def test_the_rate_of_a_matrix_product_is_of_its_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 3.0, 10.0, 12.0])
    monkeypatch.setattr(epoch_time.time, "perf_counter", lambda: next(ticks))
    assert epoch_time.matmul_rate(torch.device("cpu"), amp=False, size=10, rounds=2) == 2 * 10**3 / 2.0


def test_the_protocol_stops_when_its_time_is_up_and_goes_on(
    phantom: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--dataset_dir", str(phantom), "--output_dir", str(tmp_path), "--arms", "std", "--overlays", "small"]
    small = [*TINY, "max_epochs=1", "val_interval=1", "evaluation_steps=1", "test_slices=4"]
    (tmp_path / "epoch_time.json").write_text("{}")  # timed before
    assert paper_protocol.main([*arguments, "--minutes", "0.02", "--set", *small]) == 3
    assert "the same command goes on from here" in capfd.readouterr().out
    assert not (tmp_path / "summary.json").exists()
    assert paper_protocol.main([*arguments, "--set", *small]) == 0
    assert list(json.loads((tmp_path / "summary.json").read_text())["arms"]) == ["STD"]
    assert (tmp_path / "epoch_time.json").read_text() == "{}"
