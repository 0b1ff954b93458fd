"""GradientClipHandler: bounds the norm of the gradient just before the optimiser's step."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from torch import Tensor

from monai_amat.checks import check_positive

__all__ = ["GradientClipHandler", "accumulation_window"]


class GradientClipHandler:
    """Clip the gradient of everything the trainer's optimiser moves, before it moves it.

    Under mixed precision gradients are unscaled first; under gradient accumulation the sum is clipped, on the one
    micro-step that is followed by the optimiser's step. It runs after every handler that was attached to
    `BACKWARD_COMPLETED` before the run, wherever it stands in the list, and does nothing in an iteration whose
    gradients `NonFiniteGuardHandler` threw away.

    Args:
        max_norm: the largest norm, above 0; nnU-Net's 12 by default.
        norm_type: p of the p-norm over all gradients together, `float("inf")` for the largest entry.

    Raises:
        ValueError: if `max_norm` is not positive.

    Example:
        >>> from monai.engines import SupervisedTrainer
        >>> network, loader = torch.nn.Linear(1, 1), [{"image": torch.ones(1, 1), "label": torch.full((1, 1), 1e6)}]
        >>> clip = GradientClipHandler(max_norm=1.0)
        >>> trainer = SupervisedTrainer(
        ...     "cpu", 1, loader, network, torch.optim.SGD(network.parameters(), 0.1), torch.nn.MSELoss(),
        ...     train_handlers=[clip],
        ... )
        >>> trainer.run()
        >>> clip.last_norm > 1e6, round(float(torch.stack([p.grad.norm() for p in network.parameters()]).norm()), 4)
        (True, 1.0)
    """

    def __init__(self, max_norm: float = 12.0, *, norm_type: float = 2.0) -> None:
        check_positive("max_norm", max_norm)
        self.max_norm = max_norm
        self.norm_type = norm_type
        self._last_norm: Tensor | None = None

    @property
    def last_norm(self) -> float | None:
        """Norm of the latest gradient before it was clipped; None before the first step."""
        # Kept as a tensor until it is read, so that a GPU does not wait every iteration.
        return None if self._last_norm is None else float(self._last_norm)

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI trainer."""
        engine.add_event_handler(Events.STARTED, self._join_last)

    def _join_last(self, engine: Any) -> None:
        # At STARTED, so as to come after the guard: it has to judge gradients before they are unscaled or clipped.
        if not engine.has_event_handler(self._clip, IterationEvents.BACKWARD_COMPLETED):
            engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self._clip)

    def _clip(self, engine: Any) -> None:
        if getattr(engine.state, "step_skipped", False) or not accumulation_window(engine)[1]:
            return
        if engine.amp and engine.scaler is not None:
            engine.scaler.unscale_(engine.optimizer)
        parameters = [parameter for group in engine.optimizer.param_groups for parameter in group["params"]]
        self._last_norm = torch.nn.utils.clip_grad_norm_(parameters, self.max_norm, norm_type=self.norm_type).detach()


def accumulation_window(engine: Any) -> tuple[bool, bool]:
    """Whether this iteration opens, and whether it closes, a window of accumulated gradients.

    The rule of MONAI's `SupervisedTrainer`: it clears gradients where a window opens and steps the optimiser where it
    closes, which the end of an epoch does too. Without accumulation every iteration does both.

    Example:
        >>> from types import SimpleNamespace
        >>> state = SimpleNamespace(iteration=5, epoch_length=5)
        >>> accumulation_window(SimpleNamespace(accumulation_steps=2, state=state))
        (True, True)
    """
    window = getattr(engine, "accumulation_steps", 1)
    epoch_length = engine.state.epoch_length
    position = engine.state.iteration - 1
    if epoch_length is not None:
        position %= epoch_length
    return position % window == 0, (position + 1) % window == 0 or position + 1 == epoch_length
