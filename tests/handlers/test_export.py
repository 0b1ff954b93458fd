"""The exported network: after complete training only, whole, without wrappers, by rank 0."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from torch import distributed as dist
from torch import nn

from monai_amat.engines import load_weights, save_weights
from monai_amat.handlers.export import ExportHandler

LOADER = [{"image": torch.ones(2, 1), "label": torch.zeros(2, 1)}] * 2


def trainer(network: nn.Module, path: Path, *handlers: Any, epochs: int = 2) -> SupervisedTrainer:
    return SupervisedTrainer(
        "cpu",
        epochs,
        LOADER,
        network,
        torch.optim.SGD(network.parameters(), 0.1),
        nn.MSELoss(),
        train_handlers=[*handlers, ExportHandler(path)],
    )


def weight(network: nn.Module) -> float:
    return next(network.parameters()).item()


def test_the_weights_of_the_last_epoch_are_saved_when_training_completes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network, file = nn.Linear(1, 1), tmp_path / "models" / "model.pt"
    seen: list[bool] = []

    class Look:
        def attach(self, engine: Engine) -> None:
            engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: seen.append(file.exists()))

    with caplog.at_level(logging.INFO, "monai_amat"):
        trainer(network, file, Look()).run()
    assert seen == [False, False]
    assert weight(load_weights(nn.Linear(1, 1), file)) == weight(network)
    assert f"network saved to {file}" in caplog.text


def test_a_run_that_fails_leaves_the_file_of_an_earlier_run(tmp_path: Path) -> None:
    file = tmp_path / "model.pt"
    earlier = nn.Linear(1, 1)
    save_weights(earlier, file)

    class Fail:
        def attach(self, engine: Engine) -> None:
            engine.add_event_handler(Events.ITERATION_COMPLETED(once=3), self)

        def __call__(self, engine: Engine) -> None:
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        trainer(nn.Linear(1, 1), file, Fail()).run()
    assert weight(load_weights(nn.Linear(1, 1), file)) == weight(earlier)


def test_wrappers_are_looked_through(tmp_path: Path) -> None:
    network = nn.Linear(1, 1)
    ExportHandler(tmp_path / "model.pt")(Stub(nn.DataParallel(network)))
    assert weight(load_weights(nn.Linear(1, 1), tmp_path / "model.pt")) == weight(network)


def test_settings_are_kept_beside_the_weights_as_plain_values(tmp_path: Path) -> None:
    network, file = nn.Linear(1, 1), tmp_path / "model.pt"
    ExportHandler(file, {"image_size": [np.int64(100), 80]})(Stub(network))
    assert torch.load(file, weights_only=True)["settings"] == {"image_size": [100, 80]}
    assert weight(load_weights(nn.Linear(1, 1), file)) == weight(network)
    ExportHandler(file)(Stub(network))
    assert set(torch.load(file, weights_only=True)) == {"model", "digest"}
    with pytest.raises(TypeError, match=r"builtins\.object at settings\['image_size'\]"):  # before any training
        ExportHandler(file, {"image_size": object()})


@pytest.mark.parametrize("rank", [0, 1])
def test_only_rank_zero_writes(rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_rank", lambda: rank)
    ExportHandler(tmp_path / "model.pt")(Stub(nn.Linear(1, 1)))
    assert (tmp_path / "model.pt").exists() == (rank == 0)


class Stub:
    """As much of a trainer as the handler looks at."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
