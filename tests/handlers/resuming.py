"""A small training that is killed and goes on, for the tests of ResumeHandler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import CacheDataset, DataLoader
from monai.engines import SupervisedTrainer
from monai.handlers import LrScheduleHandler
from monai.transforms import Compose, EnsureTyped, RandFlipd, RandGaussianNoised
from torch import nn

from monai_amat.data.indexed import IndexedDataset
from monai_amat.data.sampler import SeededSampler
from monai_amat.handlers.epoch_seed import EpochSeedHandler
from monai_amat.handlers.gradient_clip import GradientClipHandler
from monai_amat.handlers.non_finite_guard import NonFiniteGuardHandler
from monai_amat.handlers.resume import ResumeHandler

DATA = [{"image": np.random.RandomState(i).rand(1, 8, 8).astype(np.float32), "label": np.ones(1)} for i in range(8)]


class KilledError(Exception):
    """Stands for a kill in the middle of an epoch."""


class KillAt:
    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        if engine.state.iteration == self.iteration:
            raise KilledError


class Run:
    """A small training with all that is random in one: crops of noise, dropout, order, loader workers."""

    def __init__(
        self,
        folder: Path,
        *handlers: Any,
        epochs: int = 4,
        width: int = 2,
        workers: int = 0,
        persistent: bool = False,
        batch: int = 2,
        start: int = 0,
        optimizer: type[torch.optim.Optimizer] = torch.optim.Adam,
        settings: dict[str, Any] | None = None,
        **trainer: Any,
    ) -> None:
        torch.manual_seed(start)
        network = nn.Sequential(
            nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.Dropout(0.3), nn.Flatten(), nn.Linear(36 * width, 1)
        )
        transform = Compose(
            [EnsureTyped(("image", "label"), dtype=torch.float32), RandGaussianNoised("image", prob=0.5)]
        )
        dataset = IndexedDataset(
            CacheDataset(DATA, Compose([transform, RandFlipd("image", prob=0.5)]), progress=False), seed=1
        )
        self.loader = DataLoader(
            dataset,
            sampler=SeededSampler(8, num_samples=12, seed=1),
            batch_size=batch,
            num_workers=workers,
            persistent_workers=persistent,
        )
        self.network = network
        self.optimizer = optimizer(network.parameters(), lr=0.05)  # type: ignore[call-arg]
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 1, gamma=0.7)
        self.guard = NonFiniteGuardHandler()
        objects = {"scheduler": self.scheduler, "guard": self.guard}
        self.checkpoint = ResumeHandler(folder, **{"objects": objects, **(settings or {})})
        self.engine = SupervisedTrainer(
            "cpu",
            epochs,
            self.loader,
            network,
            self.optimizer,
            nn.MSELoss(),
            # Listed ahead of the scheduler on purpose.
            train_handlers=[
                self.checkpoint,
                EpochSeedHandler(1),
                GradientClipHandler(1.0),
                self.guard,
                LrScheduleHandler(self.scheduler, print_lr=False),  # type: ignore[arg-type]
                *handlers,
            ],
            **trainer,
        )

    def run(self) -> Run:
        self.engine.run()
        # Persistent workers that are left to the cyclic garbage collector cost it five seconds each.
        self.loader._iterator = None
        return self

    def killed(self) -> Run:
        with pytest.raises(KilledError):
            self.run()
        self.loader._iterator = None
        return self

    def ends_like(self, other: Run) -> bool:
        mine, theirs = self.network.state_dict(), other.network.state_dict()
        moments = zip(self.optimizer.state.values(), other.optimizer.state.values(), strict=True)
        return (
            all(torch.equal(value, theirs[name]) for name, value in mine.items())
            and all(torch.equal(a[name], b[name]) for a, b in moments for name in a)
            and self.scheduler.state_dict() == other.scheduler.state_dict()
        )


def names(folder: Path) -> list[str]:
    """Files in a folder, but for the lock that a run which ended in an error holds until its process ends."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")
