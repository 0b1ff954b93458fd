from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedTrainer
from torch.utils.data import BatchSampler, IterableDataset, RandomSampler, Subset

from monai_amat.data.indexed import IndexedDataset
from monai_amat.data.sampler import SeededSampler
from monai_amat.handlers.epoch_seed import EpochSeedHandler
from monai_amat.seeding import fold

DATA = [{"image": torch.full((1,), float(i)), "label": torch.zeros(1)} for i in range(6)]


def trainer(loader: Any, *, seed: int = 0, epochs: int = 2, epoch_length: int | None = None) -> SupervisedTrainer:
    network = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(network.parameters(), 0.0)
    return SupervisedTrainer(
        "cpu",
        epochs,
        loader,
        network,
        optimizer,
        torch.nn.MSELoss(),
        epoch_length=epoch_length,
        train_handlers=[EpochSeedHandler(seed)],
    )


def seeds_seen(engine: SupervisedTrainer) -> dict[int, list[int]]:
    """By epoch, the seeds of the items in the order in which the trainer gets them; filled by running it."""
    seen: dict[int, list[int]] = {}

    @engine.on(Events.ITERATION_STARTED)
    def note(engine: Engine) -> None:
        assert isinstance(engine.state.batch, dict)
        seen.setdefault(engine.state.epoch, []).extend(engine.state.batch["sample_seed"].tolist())

    return seen


def test_data_and_sampler_learn_the_epoch() -> None:
    dataset, sampler = IndexedDataset(Dataset(DATA), seed=7), SeededSampler(6, seed=7)
    engine = trainer(DataLoader(dataset, sampler=sampler, batch_size=2))
    seen = seeds_seen(engine)
    engine.run()
    for epoch in (1, 2):
        sampler.set_epoch(epoch)
        assert seen[epoch] == [fold(7, epoch, sample, 0) for sample in sampler]


def test_what_is_wrapped_learns_the_epoch() -> None:
    dataset, sampler = IndexedDataset(Dataset(DATA)), SeededSampler(6)
    loader = DataLoader(Subset(dataset, range(6)), batch_sampler=BatchSampler(sampler, 3, drop_last=False))
    engine = trainer(loader)
    seen = seeds_seen(engine)
    engine.run()
    assert sampler.epoch == 2
    assert set(seen[2]) == {fold(0, 2, sample, 0) for sample in range(6)}


def draws(*, seed: int, epoch: int, rank: int = 0, before: int) -> list[float]:
    """What the global generators give in an epoch, whatever was drawn before it."""
    for generate in (torch.manual_seed, np.random.seed, random.seed):
        generate(before)
    engine = trainer(DataLoader(Dataset(DATA)), seed=seed, epochs=epoch)
    engine.state.rank = rank
    engine.state.epoch = epoch - 1
    engine.state.iteration = (epoch - 1) * 6
    values: list[float] = []

    @engine.on(Events.EPOCH_STARTED)
    def draw(engine: Engine) -> None:
        values.extend([random.random(), float(np.random.rand()), float(torch.rand(()))])

    engine.run()
    return values


def test_global_generators_follow_from_seed_epoch_and_rank() -> None:
    reference = draws(seed=1, epoch=3, before=1)
    assert len(reference) == 3
    assert reference == draws(seed=1, epoch=3, before=2)
    for other in (
        draws(seed=2, epoch=3, before=1),
        draws(seed=1, epoch=2, before=1),
        draws(seed=1, epoch=3, rank=1, before=1),
    ):
        assert all(a != b for a, b in zip(reference, other, strict=True))


def test_generators_of_loader_and_sampler_are_restarted() -> None:
    def order(before: int) -> list[int]:
        source = torch.Generator().manual_seed(before)
        dataset = IndexedDataset(Dataset(DATA))
        sampler = RandomSampler(dataset, generator=source)
        engine = trainer(DataLoader(dataset, sampler=sampler, generator=source), epochs=1)
        seen = seeds_seen(engine)
        engine.run()
        return seen[1]

    assert order(1) == order(2)


@pytest.mark.parametrize("workers", [0, 2])
def test_epoch_cut_short_does_not_leak_into_the_next(workers: int) -> None:
    dataset, sampler = IndexedDataset(Dataset(DATA), seed=7), SeededSampler(6, seed=7)
    engine = trainer(DataLoader(dataset, sampler=sampler, batch_size=2, num_workers=workers))
    seen = seeds_seen(engine)
    engine.add_event_handler(Events.ITERATION_COMPLETED(once=1), lambda engine: engine.terminate_epoch())
    engine.run()
    sampler.set_epoch(2)
    assert len(seen[1]) == 2
    assert seen[2] == [fold(7, 2, sample, 0) for sample in sampler]


@pytest.mark.parametrize("epoch_length", [4, 50])
def test_epoch_that_is_not_one_pass_is_refused(epoch_length: int) -> None:
    with pytest.raises(
        ValueError, match=f"epoch_length must be the number of batches .*, got {epoch_length} for 6 batches"
    ):
        trainer(DataLoader(Dataset(DATA)), epoch_length=epoch_length).run()


def test_loader_without_length_is_refused() -> None:
    class Stream(IterableDataset):
        def __iter__(self) -> Iterator[dict]:
            return iter(DATA)

    with pytest.raises(ValueError, match="unknown length"):
        trainer(DataLoader(Stream()), epoch_length=3).run()
