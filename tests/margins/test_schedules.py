from __future__ import annotations

from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedTrainer

from monai_amat.attacks import ProjectedGradientDescent
from monai_amat.data import IndexedDataset
from monai_amat.engines import PrepareBatchAdversarial
from monai_amat.losses import PerSample
from monai_amat.margins import LinearRadius, RadiusSchedule, UniformRadius

SAMPLES, BATCH = 6, 2


def radii_of_a_run(schedule: RadiusSchedule, *, epochs: int = 3, from_epoch: int = 0) -> list[list[float]]:
    """The radii of every step of a training, or of one that goes on after `from_epoch`."""
    data = [{"image": torch.randn(1, 4), "label": torch.zeros(1, 4)} for _ in range(SAMPLES)]
    network = torch.nn.Linear(4, 4)
    prepare = PrepareBatchAdversarial(
        network=network,
        loss=PerSample(torch.nn.MSELoss()),
        attack=ProjectedGradientDescent(steps=1),
        radius=schedule,
    )
    trainer = SupervisedTrainer(
        "cpu",
        epochs,
        DataLoader(IndexedDataset(Dataset(data)), batch_size=BATCH),
        network,
        torch.optim.SGD(network.parameters(), 0.0),
        PerSample(torch.nn.MSELoss()),
        prepare_batch=prepare,
    )
    schedule.attach(trainer)
    seen: list[list[float]] = []

    def note(engine: Any) -> None:
        assert prepare.last is not None
        seen.append(prepare.last.radius.tolist())
        assert (prepare.last.noise_norm <= prepare.last.radius * (1 + 1e-4)).all()

    trainer.add_event_handler(Events.ITERATION_COMPLETED, note)
    trainer.state.epoch, trainer.state.iteration = from_epoch, from_epoch * SAMPLES // BATCH
    trainer.run()
    return seen


def test_a_ramp_grows_evenly_from_the_first_step_to_the_last() -> None:
    steps = radii_of_a_run(LinearRadius(1.0, 9.0))
    assert steps == [[pytest.approx(1.0 + i)] * BATCH for i in range(9)]


def test_a_ramp_goes_on_where_a_resumed_run_does() -> None:
    assert radii_of_a_run(LinearRadius(1.0, 9.0), from_epoch=2) == radii_of_a_run(LinearRadius(1.0, 9.0))[6:]


def test_a_ramp_of_one_step_is_at_its_start() -> None:
    schedule = LinearRadius(2.0, 9.0)
    assert schedule.radius(torch.arange(1), _state(1, 1)).tolist() == [2.0]


def test_uniform_radii_fill_the_range_evenly() -> None:
    draws = UniformRadius(2.0, 6.0, seed=3).radius(torch.arange(4000), _state(1)).sort().values
    even = torch.linspace(2.0, 6.0, 4000)
    # Kolmogorov–Smirnov at the 0.1 % level; the seed is fixed.
    assert float((draws - even).abs().max()) / 4 < 1.95 / 4000**0.5


def test_uniform_radii_depend_on_seed_iteration_and_sample_alone() -> None:
    ids = torch.tensor([5, 1, 3])
    base = UniformRadius(0.0, 1.0, seed=1).radius(ids, _state(7))
    assert UniformRadius(0.0, 1.0, seed=1).radius(ids.flip(0), _state(7)).flip(0).equal(base)
    assert len(set(base.tolist())) == 3
    for other in (
        UniformRadius(0.0, 1.0, seed=2).radius(ids, _state(7)),
        UniformRadius(0.0, 1.0, seed=1).radius(ids, _state(8)),
    ):
        assert not (other == base).any()


def test_uniform_radii_are_drawn_anew_every_epoch_and_again_when_resumed() -> None:
    whole = radii_of_a_run(UniformRadius(0.0, 5.0))
    assert len({radius for step in whole for radius in step}) == 18
    assert radii_of_a_run(UniformRadius(0.0, 5.0), from_epoch=1) == whole[3:]


@pytest.mark.parametrize("schedule", [UniformRadius(0.0, 1.0), LinearRadius(0.0, 1.0)])
def test_a_schedule_needs_a_trainer(schedule: RadiusSchedule) -> None:
    with pytest.raises(RuntimeError, match=rf"{type(schedule).__name__} must be attached .* attach\(trainer\)"):
        schedule[torch.arange(2)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: UniformRadius(-1.0, 2.0), "low must lie in \\[0, 2.0\\], got -1.0"),
        (lambda: UniformRadius(3.0, 2.0), "low must lie in \\[0, 2.0\\], got 3.0"),
        (lambda: UniformRadius(0.0, float("inf")), "high must be finite and not negative, got inf"),
        (lambda: LinearRadius(0.0, float("nan")), "end must be finite and not negative, got nan"),
        (lambda: LinearRadius(-1.0, 1.0), "start must be finite and not negative, got -1.0"),
    ],
)
def test_impossible_radii_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def _state(iteration: int, epoch_length: int = 10) -> Any:
    class State:
        max_epochs = 1

    State.iteration, State.epoch_length = iteration, epoch_length  # type: ignore[attr-defined]
    return State
