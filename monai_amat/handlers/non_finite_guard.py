"""NonFiniteGuardHandler: a loss or gradient that is not finite costs one step, not the weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys
from torch import Tensor
from torch.nn.modules.batchnorm import _NormBase

from monai_amat.checks import check_within
from monai_amat.handlers.gradient_clip import accumulation_window
from monai_amat.handlers.ranks import is_distributed

__all__ = ["NonFiniteGuardHandler"]

logger = logging.getLogger(__name__)


class NonFiniteGuardHandler:
    """Skip the optimiser's step, on all ranks together, when the loss or the gradient is not finite.

    One NaN in a gradient is in every weight after the step, and in the running statistics of normalisation layers even
    before it. After the backward pass of such an iteration gradients are therefore thrown away and running statistics
    set back to where the iteration found them: weights, optimiser and buffers end as if the iteration had not been.
    Under gradient accumulation the whole window is thrown away, as a `GradScaler` does it. With an active
    `GradScaler` overflowing gradients are its own business (it lowers its scale); only the loss is judged here.

    In each iteration `engine.state.step_skipped` is whether its gradients were thrown away.

    Args:
        max_consecutive: training stops with an error after this many such iterations without a good step between them.

    Attributes:
        total: iterations with a loss or gradient that was not finite.
        consecutive: those since the last good step.

    Raises:
        ValueError: if `max_consecutive` is below 1.
        RuntimeError: while training, when `max_consecutive` is reached.

    Example:
        >>> from monai.engines import SupervisedTrainer
        >>> network = torch.nn.Linear(1, 1)
        >>> loader = [{"image": torch.full((1, 1), float("nan")), "label": torch.ones(1, 1)}]
        >>> guard = NonFiniteGuardHandler()
        >>> trainer = SupervisedTrainer(
        ...     "cpu", 3, loader, network, torch.optim.SGD(network.parameters(), 0.1), torch.nn.MSELoss(),
        ...     train_handlers=[guard],
        ... )
        >>> trainer.run()
        >>> guard.total, bool(network.weight.isfinite().all())
        (3, True)
    """

    def __init__(self, max_consecutive: int = 10) -> None:
        check_within("max_consecutive", max_consecutive, 1)
        self.max_consecutive = max_consecutive
        self.total = 0
        self.consecutive = 0
        self._window_spoilt = False
        self._saved: list[tuple[Tensor, Tensor]] = []

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI trainer."""
        engine.add_event_handler(Events.ITERATION_STARTED, self._start)
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self._judge)

    def state_dict(self) -> dict[str, int]:
        """The two counts."""
        return {"total": self.total, "consecutive": self.consecutive}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Take over the two counts."""
        self.total = state["total"]
        self.consecutive = state["consecutive"]

    def _start(self, engine: Any) -> None:
        engine.state.step_skipped = False
        if accumulation_window(engine)[0]:
            self._window_spoilt = False
        self._saved = [
            (buffer, buffer.clone())
            for module in engine.network.modules()
            if isinstance(module, _NormBase) and module.track_running_stats
            for buffer in module.buffers(recurse=False)
        ]

    def _judge(self, engine: Any) -> None:
        bad = self._agreed(self._is_bad(engine))
        if bad:
            self._window_spoilt = True
            self.total += 1
            self.consecutive += 1
            with torch.no_grad():
                for buffer, saved in self._saved:
                    buffer.copy_(saved)
            logger.warning(
                "iteration %d: the loss or its gradient is not finite%s; the step is skipped (%d in a row, %d in all)",
                engine.state.iteration,
                _where(engine.state.batch),
                self.consecutive,
                self.total,
            )
        if self._window_spoilt:
            engine.state.step_skipped = True
            _discard_gradients(engine)
        elif accumulation_window(engine)[1]:
            self.consecutive = 0
        if bad and self.consecutive >= self.max_consecutive:
            raise RuntimeError(self._verdict(engine))

    def _is_bad(self, engine: Any) -> Tensor:
        """Whether this rank's loss or gradient is not finite: a bool tensor, shape ()."""
        bad = ~engine.state.output[CommonKeys.LOSS].detach().as_subclass(Tensor).isfinite()
        if not _scaler_active(engine):
            bad = bad | ~torch.nn.utils.get_total_norm(_gradients(engine)).to(bad.device).isfinite()
        return bad

    def _agreed(self, bad: Tensor) -> bool:
        # Ranks that disagreed on stepping would part for ever.
        flag = bad.to(torch.int32)
        if is_distributed():
            dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag)

    def _verdict(self, engine: Any) -> str:
        spoilt = [name for name, value in engine.network.named_parameters() if not bool(value.isfinite().all())]
        weights = (
            f"Weights that are not finite themselves: {', '.join(spoilt[:5])}" if spoilt else "All weights are finite"
        )
        return (
            f"training stopped at iteration {engine.state.iteration}: the loss or its gradient was not finite "
            f"{self.consecutive} times without a good step between{_where(engine.state.batch)}. {weights}. The last "
            "checkpoint is untouched: look at these samples, lower the learning rate or clip gradients, and resume"
        )


def _scaler_active(engine: Any) -> bool:
    return bool(engine.amp and engine.scaler is not None and engine.scaler.is_enabled())


def _gradients(engine: Any) -> list[Tensor]:
    parameters = (parameter for group in engine.optimizer.param_groups for parameter in group["params"])
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def _discard_gradients(engine: Any) -> None:
    if _scaler_active(engine):
        # The scaler insists on finding gradients; finding NaN, it skips the step itself.
        for gradient in _gradients(engine):
            gradient.fill_(float("nan"))
    else:
        engine.optimizer.zero_grad(set_to_none=True)


def _where(batch: Any) -> str:
    ids = batch.get("sample_id") if isinstance(batch, Mapping) else None
    if ids is None:
        return ""
    return f" (samples {', '.join(str(int(entry)) for entry in ids)})"
