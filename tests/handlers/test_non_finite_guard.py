from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from torch import Tensor, nn

from monai_amat.handlers.gradient_clip import GradientClipHandler
from monai_amat.handlers.non_finite_guard import NonFiniteGuardHandler

NAN, INF = float("nan"), float("inf")
quiet_amp = pytest.mark.filterwarnings("ignore:.*(GradScaler|device_type of 'cuda'):")


def batches(*spoilt: int, count: int = 6) -> list[dict[str, Tensor]]:
    """Batches, those of the given numbers with a NaN in the image."""
    source = torch.Generator().manual_seed(5)
    found = []
    for number in range(count):
        image = torch.randn(3, 2, 4, generator=source)
        if number in spoilt:
            image[1, 0, 2] = NAN
        label = torch.randn(3, 2, 4, generator=source)
        found.append({"image": image, "label": label, "sample_id": torch.arange(3) + 3 * number})
    return found


def without(loader: list, *numbers: int) -> list:
    return [batch for number, batch in enumerate(loader) if number not in numbers]


class Run:
    """One epoch of a small network with BatchNorm under a momentum optimiser that decays weights."""

    def __init__(
        self,
        loader: Any,
        *handlers: Any,
        loss: Any = None,
        scaler: torch.amp.GradScaler | None = None,
        optimizer: type[torch.optim.Optimizer] = torch.optim.Adam,
        **settings: Any,
    ) -> None:
        torch.manual_seed(0)
        self.network = nn.Sequential(
            nn.Conv1d(2, 4, 1), nn.BatchNorm1d(4), nn.InstanceNorm1d(4, track_running_stats=True), nn.Conv1d(4, 2, 1)
        )
        self.skipped: list[bool | None] = []
        self.engine = SupervisedTrainer(
            "cpu",
            1,
            loader,
            self.network,
            optimizer(self.network.parameters(), lr=0.1, weight_decay=0.1),  # type: ignore[call-arg]
            loss or LossAt(),
            train_handlers=list(handlers),
            amp=scaler is not None,
            **settings,
        )
        if scaler is not None:
            self.engine.add_event_handler(Events.STARTED, lambda engine: setattr(engine, "scaler", scaler))

    @property
    def norm(self) -> nn.BatchNorm1d:
        norm = self.network[1]
        assert isinstance(norm, nn.BatchNorm1d)
        return norm

    def run(self) -> Run:
        self.engine.add_event_handler(
            Events.ITERATION_COMPLETED, lambda engine: self.skipped.append(getattr(engine.state, "step_skipped", None))
        )
        self.engine.run()
        return self

    def ends_like(self, other: Run) -> bool:
        mine, theirs = self.network.state_dict(), other.network.state_dict()
        return all(torch.equal(value, theirs[name]) for name, value in mine.items())


class LossAt:
    """Mean squared error, replaced in some iterations."""

    def __init__(self, **replaced: float) -> None:
        self.replaced = {int(name[1:]): value for name, value in replaced.items()}
        self.calls = 0

    def __call__(self, pred: Tensor, target: Tensor) -> Tensor:
        self.calls += 1
        return (pred - target).square().mean() + self.replaced.get(self.calls - 1, 0.0)


class Overflows(torch.autograd.Function):
    """A finite value with a gradient that is not."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * INF


def test_healthy_run_is_untouched() -> None:
    guard = NonFiniteGuardHandler()
    run = Run(batches(), guard).run()
    assert run.ends_like(Run(batches()).run())
    assert run.skipped == [False] * 6
    assert (guard.total, guard.consecutive) == (0, 0)


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop])
@pytest.mark.parametrize("set_to_none", [True, False])
def test_spoilt_iterations_are_as_if_they_had_not_been(
    optimizer: type[torch.optim.Optimizer], set_to_none: bool
) -> None:
    guard = NonFiniteGuardHandler()
    run = Run(batches(0, 3), guard, optimizer=optimizer, optim_set_to_none=set_to_none).run()
    clean = Run(without(batches(), 0, 3), optimizer=optimizer, optim_set_to_none=set_to_none).run()
    assert run.ends_like(clean)
    assert run.skipped == [True, False, False, True, False, False]
    assert (guard.total, guard.consecutive) == (2, 0)


def test_without_the_guard_one_batch_spoils_everything() -> None:
    run = Run(batches(3)).run()
    assert not any(bool(value.isfinite().all()) for value in run.network.parameters())
    assert run.norm.running_mean is not None
    assert not bool(run.norm.running_mean.isfinite().all())


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_loss_alone_is_judged(value: float) -> None:
    """An infinite constant in the loss has finite gradients."""
    run = Run(batches(), NonFiniteGuardHandler(), loss=LossAt(i2=value)).run()
    assert run.skipped == [False, False, True, False, False, False]
    assert run.ends_like(Run(without(batches(), 2)).run())


def test_gradient_alone_is_judged() -> None:
    class Loss(LossAt):
        def __call__(self, pred: Tensor, target: Tensor) -> Tensor:
            value = super().__call__(pred, target)
            return Overflows.apply(value) if self.calls == 3 else value

    run = Run(batches(), NonFiniteGuardHandler(), loss=Loss()).run()
    assert run.skipped == [False, False, True, False, False, False]
    assert run.ends_like(Run(without(batches(), 2)).run())


@pytest.mark.parametrize("order", [0, 1])
def test_gets_on_with_clipping_in_either_order(order: int) -> None:
    handlers = [NonFiniteGuardHandler(), GradientClipHandler(0.01)]
    run = Run(batches(3), *(reversed(handlers) if order else handlers)).run()
    assert run.ends_like(Run(without(batches(), 3), GradientClipHandler(0.01)).run())


def test_accumulation_throws_the_whole_window_away() -> None:
    guard = NonFiniteGuardHandler()
    run = Run(batches(3), guard, accumulation_steps=3).run()  # windows 0-2 and 3-5
    assert run.skipped == [False, False, False, True, True, True]
    first = Run(batches(count=3), accumulation_steps=3).run()
    weights = dict(first.network.named_parameters())
    assert all(torch.equal(value, weights[name]) for name, value in run.network.named_parameters())
    # Running statistics of the window's good batches count, those of the bad one do not.
    assert run.norm.num_batches_tracked == 5
    assert guard.total == 1


def test_accumulation_window_spoilt_late_and_the_next_is_whole() -> None:
    run = Run(batches(2), NonFiniteGuardHandler(), accumulation_steps=3).run()
    assert run.skipped == [False, False, True, False, False, False]
    assert not run.ends_like(Run(batches(2), NonFiniteGuardHandler(), loss=LossAt(i5=NAN), accumulation_steps=3).run())


def test_one_bad_batch_in_every_window_still_stops_training() -> None:
    guard = NonFiniteGuardHandler(max_consecutive=2)
    with pytest.raises(RuntimeError, match="2 times without a good step"):
        Run(batches(1, 4), guard, accumulation_steps=3).run()


def scaled() -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=1000)


@quiet_amp
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("value", [NAN, INF])
def test_scaler_skips_the_step_of_a_bad_loss(value: float, clip: bool) -> None:
    extra = [GradientClipHandler(1.0)] if clip else []
    scaler = scaled()
    run = Run(batches(), *extra, NonFiniteGuardHandler(), loss=LossAt(i2=value), scaler=scaler).run()
    assert run.skipped == [False, False, True, False, False, False]
    assert run.ends_like(Run(without(batches(), 2), *extra, scaler=scaled()).run())
    assert scaler.get_scale() == 4.0


@quiet_amp
def test_scaler_with_accumulation() -> None:
    guard = NonFiniteGuardHandler()
    run = Run(batches(), guard, loss=LossAt(i3=INF), accumulation_steps=3, scaler=scaled()).run()
    assert run.skipped == [False, False, False, True, True, True]
    first = Run(batches(count=3), accumulation_steps=3, scaler=scaled()).run()
    weights = dict(first.network.named_parameters())
    assert all(torch.equal(value, weights[name]) for name, value in run.network.named_parameters())


@quiet_amp
def test_overflow_of_scaled_gradients_is_left_to_the_scaler() -> None:
    guard, scaler = NonFiniteGuardHandler(max_consecutive=1), torch.amp.GradScaler("cpu", init_scale=1e38)
    Run(batches(count=2), guard, scaler=scaler).run()
    assert guard.total == 0
    assert scaler.get_scale() < 1e38


def test_stops_after_so_many_in_a_row_naming_what_is_wrong(caplog: pytest.LogCaptureFixture) -> None:
    guard = NonFiniteGuardHandler(max_consecutive=3)
    run = Run(batches(0, 2, 3, 4), guard)
    with caplog.at_level(logging.WARNING), pytest.raises(RuntimeError) as error:
        run.run()
    assert "iteration 5" in str(error.value)
    assert "3 times" in str(error.value)
    assert "samples 12, 13, 14" in str(error.value)
    assert "All weights are finite" in str(error.value)
    assert (guard.total, guard.consecutive) == (4, 3)
    warnings = [record.getMessage() for record in caplog.records if "not finite" in record.getMessage()]
    assert any("iteration 1:" in line and "samples 0, 1, 2" in line for line in warnings)


def test_weights_that_are_spoilt_already_are_named() -> None:
    run = Run([{"image": torch.ones(3, 2, 4), "label": torch.ones(3, 2, 4)}], NonFiniteGuardHandler(max_consecutive=1))
    with torch.no_grad():
        dict(run.network.named_parameters())["3.bias"][0] = NAN
    with pytest.raises(RuntimeError, match=r"not finite themselves: 3\.bias"):
        run.run()


def test_counts_travel() -> None:
    guard = NonFiniteGuardHandler()
    Run(batches(4, 5), guard).run()
    other = NonFiniteGuardHandler()
    other.load_state_dict(guard.state_dict())
    assert (other.total, other.consecutive) == (2, 2)


def test_limit_must_be_positive() -> None:
    with pytest.raises(ValueError, match="max_consecutive"):
        NonFiniteGuardHandler(0)


TWO_RANKS = """
import sys
import torch
import torch.distributed as dist
from monai.engines import SupervisedTrainer
from monai_amat.handlers.non_finite_guard import NonFiniteGuardHandler

rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
torch.manual_seed(0)
network = torch.nn.Linear(1, 1)
loader = [{"image": torch.ones(1, 1), "label": torch.ones(1, 1)} for _ in range(2)]
if rank == 1:
    loader[1]["image"] = torch.full((1, 1), float("nan"))
guard = NonFiniteGuardHandler()
# Each rank steps for itself here, so that only the guard can make rank 0 skip.
SupervisedTrainer(
    "cpu", 1, loader, network, torch.optim.SGD(network.parameters(), 0.1), torch.nn.MSELoss(), train_handlers=[guard]
).run()
print(guard.total, float(network.weight))
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_ranks_skip_together(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TWO_RANKS]
    ranks = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "meet")], stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    outputs = [rank.communicate(timeout=900)[0] for rank in ranks]
    assert outputs[0] == outputs[1]
    assert outputs[0].startswith("1 ")
    assert "nan" not in outputs[0]


def test_handlers_see_the_verdict_in_the_same_iteration() -> None:
    seen: list[bool] = []

    class Reads:
        def attach(self, engine: Engine) -> None:
            engine.add_event_handler(
                Events.ITERATION_COMPLETED, lambda engine: seen.append(bool(engine.state.step_skipped))
            )

    Run(batches(1, count=3), Reads(), NonFiniteGuardHandler()).run()
    assert seen == [False, True, False]
