from __future__ import annotations

import torch
from ignite.engine import Engine, Events

from monai_amat.handlers import ShuffleMarginsHandler
from monai_amat.margins import SampleMargins


def shuffled(
    *, seed: int = 0, epochs: int = 3, from_epoch: int = 0, start: torch.Tensor | None = None
) -> list[list[float]]:
    """The margins in every epoch of a run with two steps per epoch, in which nothing else moves them."""
    margins = SampleMargins(20, initial=1.0)
    margins.values = torch.arange(20.0) if start is None else start.clone()
    trainer = Engine(lambda engine, batch: None)
    ShuffleMarginsHandler(margins, seed=seed).attach(trainer)
    seen: list[list[float]] = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: seen.append(margins.values.tolist()))
    if from_epoch:
        trainer.load_state_dict({"epoch": from_epoch, "max_epochs": epochs, "epoch_length": 2})
    trainer.run([0, 1], max_epochs=epochs)
    assert seen[::2] == seen[1::2]  # once per epoch, not per step
    return seen[::2]


def test_margins_are_assigned_anew_every_epoch() -> None:
    epochs = shuffled()
    for margins in epochs:
        assert sorted(margins) == [float(i) for i in range(20)]
    assert len({tuple(margins) for margins in [*epochs, [float(i) for i in range(20)]]}) == 4


def test_a_deal_depends_on_seed_and_epoch_alone() -> None:
    whole = shuffled(seed=4)
    assert shuffled(seed=4) == whole
    assert shuffled(seed=4, from_epoch=2, start=torch.tensor(whole[1])) == whole[2:]
    assert shuffled(seed=5)[0] != whole[0]


def test_values_handed_out_before_stay_as_they_were() -> None:
    """A checkpoint of the last epoch may still be on its way to the disk."""
    margins = SampleMargins(20, initial=1.0)
    margins.values = torch.arange(20.0)
    before = margins.values
    trainer = Engine(lambda engine, batch: None)
    ShuffleMarginsHandler(margins).attach(trainer)
    trainer.run([0])
    assert before.tolist() == [float(i) for i in range(20)]
