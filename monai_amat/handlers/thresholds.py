"""Fit ξ while an evaluator passes over the clean training set (section 2.2)."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.engines.utils import IterationEvents
from monai.networks.utils import train_mode
from monai.utils.dist import evenly_divisible_all_gather
from monai.utils.enums import CommonKeys
from torch import Tensor

from monai_amat.engines import FrozenInferer, measure, network_fingerprint
from monai_amat.engines.trees import plain
from monai_amat.handlers.ranks import is_distributed, rank, refuse_separate_processes
from monai_amat.losses.base import PerSampleLoss
from monai_amat.margins import Thresholds, ThresholdStatistic

__all__ = ["ThresholdHandler"]


class ThresholdHandler:
    """Collect the loss of every clean sample and save the thresholds fitted to them.

    Attach it to `SupervisedEvaluator(mode="train", inferer=FrozenInferer())` over the training data with the training
    transforms: then ξ is measured as the noisy samples will be.

    Args:
        loss: the loss that adversarial training will use.
        path: JSON file to write.
        statistic: mean (default), mean + k·std or Huber; see `monai_amat.margins.statistics`.
        provenance: what else to save: data set, transforms, settings.

    After the run the fitted thresholds are in `thresholds`.

    Raises:
        OSError: at attach, when the file cannot be written.
        TypeError: when the run starts and the evaluator's inferer would measure something else.
        ValueError: when the run starts and the evaluator's mode would.

    Example:
        >>> from monai.engines import SupervisedEvaluator
        >>> from monai_amat.tasks.segmentation import DiceCELoss
        >>> handler = ThresholdHandler(DiceCELoss(), Path(tempfile.mkdtemp()) / "thresholds.json")
        >>> evaluator = SupervisedEvaluator(
        ...     device=torch.device("cpu"),
        ...     val_data_loader=[{"image": torch.randn(4, 1, 8, 8), "label": torch.ones(4, 1, 8, 8)}],
        ...     network=torch.nn.Conv2d(1, 2, 1),
        ...     mode="train",
        ...     inferer=FrozenInferer(),
        ...     val_handlers=[handler],
        ... )
        >>> evaluator.run()
        >>> Thresholds.load(handler.path).provenance["samples"]
        4
    """

    def __init__(
        self,
        loss: PerSampleLoss,
        path: str | Path,
        *,
        statistic: ThresholdStatistic | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        self.loss = loss
        self.path = Path(path)
        self.statistic = statistic
        self.provenance = dict(provenance or {})
        self.thresholds: Thresholds | None = None
        self._losses: dict[str, list[Tensor]] = {}
        self._logger = logging.getLogger(__name__)

    def attach(self, engine: Any) -> None:
        """Attach to a `SupervisedEvaluator`."""
        # Better found out now than after a pass over all the data.
        if self.path.is_dir():
            raise IsADirectoryError(f"thresholds go to a JSON file, but {self.path} is a folder; name a file in it")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self.path.parent):
            pass
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._fit)

    def _start(self, engine: Any) -> None:
        refuse_separate_processes("calibration")
        # Not at attach: the evaluator attaches its handlers before its inferer and mode are set.
        if not isinstance(engine.inferer, FrozenInferer):
            raise TypeError(
                "thresholds must be fitted on what the training attack sees: give the evaluator "
                f"inferer=monai_amat.engines.FrozenInferer() and mode='train', not {type(engine.inferer).__name__}"
            )
        if engine.mode is not train_mode:
            raise ValueError(
                "thresholds must be fitted on the heads that training sees: give the evaluator mode='train'"
            )
        self._losses = {name: [] for name in self.loss.judged}

    def _collect(self, engine: Any) -> None:
        output = engine.state.output
        measured = measure(self.loss, plain(output[CommonKeys.PRED]), plain(output[CommonKeys.LABEL]))
        for name, values in self._losses.items():
            values.append(measured.terms[name].cpu())

    def _fit(self, engine: Any) -> None:
        losses = {name: torch.cat(values) for name, values in self._losses.items()}
        if is_distributed():
            device = engine.state.device
            losses = {
                name: evenly_divisible_all_gather(values.to(device), concat=True).cpu()
                for name, values in losses.items()
            }
        provenance = {
            "network": network_fingerprint(engine.network),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            **self.provenance,
        }
        self.thresholds = Thresholds.fit(losses, self.statistic, provenance)
        if rank() == 0:
            self.thresholds.save(self.path)
            self._logger.info(
                "thresholds %s accept %.0f %% of %d clean samples; saved to %s",
                {name: round(value, 4) for name, value in self.thresholds.values.items()},
                100 * self.thresholds.provenance["clean_accepted"],
                self.thresholds.provenance["samples"],
                self.path,
            )
