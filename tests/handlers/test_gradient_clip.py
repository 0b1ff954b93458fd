from __future__ import annotations

import types
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents

from monai_amat.handlers.gradient_clip import GradientClipHandler, accumulation_window


def batches(*sizes: float) -> list[dict[str, torch.Tensor]]:
    return [{"image": torch.ones(1, 1), "label": torch.full((1, 1), size)} for size in sizes]


class Steps:
    """What a plain SGD step of rate 1 moved the weights by, step after step."""

    def __init__(
        self, loader: Any, *handlers: Any, scaler: torch.amp.GradScaler | None = None, **settings: Any
    ) -> None:
        self.network = torch.nn.Linear(1, 1)
        self.gradients: list[torch.Tensor] = []
        optimizer = torch.optim.SGD(self.network.parameters(), 1e-6)
        optimizer.register_step_pre_hook(lambda *_: self.gradients.append(self.gradient()))
        self.engine = SupervisedTrainer(
            "cpu",
            1,
            loader,
            self.network,
            optimizer,
            torch.nn.MSELoss(),
            train_handlers=list(handlers),
            amp=scaler is not None,
            **settings,
        )
        if scaler is not None:
            self.engine.add_event_handler(Events.STARTED, lambda engine: setattr(engine, "scaler", scaler))
        self.engine.run()

    def gradient(self) -> torch.Tensor:
        return torch.cat([parameter.grad.reshape(-1).clone() for parameter in self.network.parameters()])  # type: ignore[union-attr]


def test_long_gradients_are_scaled_down_and_short_ones_left() -> None:
    torch.manual_seed(1)
    plain = Steps(batches(100.0, 0.5))
    torch.manual_seed(1)
    clip = GradientClipHandler(max_norm=3.0)
    clipped = Steps(batches(100.0, 0.5), clip)
    assert torch.allclose(clipped.gradients[0], plain.gradients[0] * 3 / plain.gradients[0].norm())
    assert torch.allclose(clipped.gradients[1], plain.gradients[1], rtol=1e-3)
    assert clip.last_norm == pytest.approx(float(plain.gradients[1].norm()), rel=1e-3)


def test_largest_entry() -> None:
    run = Steps(batches(100.0), GradientClipHandler(max_norm=3.0, norm_type=float("inf")))
    assert float(run.gradients[0].abs().max()) == pytest.approx(3.0, rel=1e-4)


def test_default_is_the_twelve_of_nnunet() -> None:
    run = Steps(batches(1000.0), GradientClipHandler())
    assert float(run.gradients[0].norm()) == pytest.approx(12.0, rel=1e-4)


@pytest.mark.filterwarnings("ignore:User provided device_type of 'cuda':UserWarning")
@pytest.mark.filterwarnings("ignore:.*GradScaler:UserWarning", "ignore:.*GradScaler:FutureWarning")
def test_scaled_gradients_are_unscaled_first() -> None:
    torch.manual_seed(1)
    plain = Steps(batches(1.5))
    torch.manual_seed(1)
    clip = GradientClipHandler(max_norm=100.0)
    scaled = Steps(batches(1.5), clip, scaler=torch.amp.GradScaler("cpu", init_scale=1024.0))
    assert torch.allclose(plain.gradients[0], scaled.gradients[0])
    assert clip.last_norm == pytest.approx(float(plain.gradients[0].norm()))


def test_accumulated_sum_is_clipped_once() -> None:
    torch.manual_seed(1)
    plain = Steps(batches(100.0, 90.0, 80.0), accumulation_steps=2)
    torch.manual_seed(1)
    norms: list[float | None] = []
    clip = GradientClipHandler(max_norm=3.0)
    noted = types.SimpleNamespace(
        attach=lambda engine: engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: norms.append(clip.last_norm))
    )
    run = Steps(batches(100.0, 90.0, 80.0), clip, noted, accumulation_steps=2)
    # Nothing is clipped before the sum is there: clipping the first gradient would change its weight in the sum.
    assert norms[0] is None and norms[1] == pytest.approx(float(plain.gradients[0].norm()), rel=1e-3)
    assert [len(plain.gradients), len(run.gradients)] == [2, 2]  # the end of the epoch steps too
    for mine, sum_ in zip(run.gradients, plain.gradients, strict=True):
        assert torch.allclose(mine, sum_ * 3 / sum_.norm(), rtol=1e-3)


def test_comes_after_handlers_listed_behind_it_and_once_a_run() -> None:
    clip, seen = GradientClipHandler(max_norm=3.0), []

    class Reads:
        def attach(self, engine: Engine) -> None:
            engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

        def __call__(self, engine: Any) -> None:
            seen.append(float(engine.network.weight.grad.norm()))

    run = Steps(batches(100.0), clip, Reads())
    assert seen[0] > 100
    run.engine.state.max_epochs = 2
    run.engine.run()
    handlers = run.engine._event_handlers[IterationEvents.BACKWARD_COMPLETED]
    assert len(handlers) == 2


def test_skipped_iterations_are_left_alone() -> None:
    clip = GradientClipHandler()

    class Skips:
        def attach(self, engine: Engine) -> None:
            engine.add_event_handler(
                Events.ITERATION_STARTED, lambda engine: setattr(engine.state, "step_skipped", True)
            )

    Steps(batches(100.0), clip, Skips())
    assert clip.last_norm is None


@pytest.mark.parametrize("max_norm", [0.0, -1.0, float("nan")])
def test_norm_must_be_positive(max_norm: float) -> None:
    with pytest.raises(ValueError, match="max_norm"):
        GradientClipHandler(max_norm)


@pytest.mark.parametrize("window", [1, 2, 3])
def test_window_is_the_trainers(window: int) -> None:
    """Windows agree with what the trainer does with gradients: cleared where one opens, stepped where one closes."""
    opened, closed, cleared, stepped = [], [], [], []
    network = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(network.parameters(), 1e-6)
    optimizer.register_step_pre_hook(lambda *_: stepped.append(engine.state.iteration))

    def clear(set_to_none: bool = True) -> None:
        cleared.append(engine.state.iteration)
        torch.optim.SGD.zero_grad(optimizer, set_to_none)

    optimizer.zero_grad = clear  # type: ignore[method-assign]
    engine = SupervisedTrainer(
        "cpu", 2, batches(1, 2, 3, 4, 5), network, optimizer, torch.nn.MSELoss(), accumulation_steps=window
    )

    @engine.on(Events.ITERATION_STARTED)
    def note(engine: Engine) -> None:
        opens, closes = accumulation_window(engine)
        opened.extend([engine.state.iteration] * opens)
        closed.extend([engine.state.iteration] * closes)

    engine.run()
    assert (opened, closed) == (cleared, stepped)
