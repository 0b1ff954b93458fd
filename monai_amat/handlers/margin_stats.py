"""What margins do over the epochs: to the log, to TensorBoard and to a table."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events

from monai_amat.files import write_text_whole
from monai_amat.handlers.adaptive_margin import AdaptiveMarginHandler
from monai_amat.handlers.ranks import rank
from monai_amat.margins import Visits

__all__ = ["MarginStatsHandler"]

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class MarginStatsHandler:
    """Summarise margins and verdicts at the end of every epoch.

    A row holds the epoch; mean and quantiles of all margins; the shares of visits whose noisy sample was accepted,
    whose clean sample the same judge accepts, whose margin shrank; mean noise norm; gradient evaluations, in all
    and per visit; stalled steps. With `groups` there is one mean margin per group as well: margins depend on what is in
    a sample as much as on how robust the network is, so compare them within a group.

    Args:
        margins: the handler that moves the margins; attach that one first.
        path: CSV table to keep; a resumed run goes on in it. None for none.
        log_dir: TensorBoard folder. None for none.
        groups: one group name per sample ID, for example its classes present.

    The last row is in `row` and in `engine.state.margin_stats`.

    Raises:
        ValueError: when there are not as many group names as margins; at attach, when `margins` is not attached yet;
            while training, when the file at `path` is another kind of table.
    """

    def __init__(
        self,
        margins: AdaptiveMarginHandler,
        *,
        path: str | Path | None = None,
        log_dir: str | Path | None = None,
        groups: Sequence[str] | None = None,
    ) -> None:
        size = len(margins.adaptive)
        if groups is not None and len(groups) != size:
            raise ValueError(f"{size} margins need as many group names, got {len(groups)}")
        self.margins = margins
        self.path = None if path is None else Path(path)
        self.log_dir = log_dir
        self.groups = None if groups is None else [str(group) for group in groups]
        self.row: dict[str, float] = {}
        self._visits: list[Visits] = []
        self._writer: Any = None
        self._logger = logging.getLogger(__name__)

    def attach(self, engine: Any) -> None:
        """Attach to the trainer that `margins` is attached to."""
        if not self.margins.attached_to(engine):
            raise ValueError("attach AdaptiveMarginHandler first: a step is noted once its margins have moved")
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._note)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._report)
        engine.add_event_handler(Events.COMPLETED, self._close)

    def _start(self, engine: Any) -> None:
        self._visits = []

    def _note(self, engine: Any) -> None:
        if self.margins.visits is not None:
            self._visits.append(self.margins.visits)

    def _report(self, engine: Any) -> None:
        self.row = self._summarise(engine.state.epoch)
        engine.state.margin_stats = self.row
        # Where MONAI's handlers for experiment tracking look; names of groups hold signs that they refuse.
        shown = {name: value for name, value in self.row.items() if name != "epoch" and "[" not in name}
        engine.state.metrics |= {f"margin_{name}": value for name, value in shown.items()}
        if rank() != 0:
            return
        self._logger.info(
            "epoch %d: margins mean %.3g, median %.3g, 95 %% %.3g; accepted %.0f %% of noisy and %.0f %% of clean",
            engine.state.epoch,
            self.row["mean"],
            self.row["q50"],
            self.row["q95"],
            100 * self.row["accepted"],
            100 * self.row["clean_accepted"],
        )
        if self.path is not None:
            self._append(self.path)
        if self.log_dir is not None:
            self._to_tensorboard(engine.state.epoch)

    def _summarise(self, epoch: int) -> dict[str, float]:
        values = self.margins.adaptive.values
        row: dict[str, float] = {"epoch": epoch, "mean": float(values.mean()), "max": float(values.max())}
        # torch.quantile refuses more than 16 million values; a sort does not.
        ordered = values.sort().values
        for quantile in _QUANTILES:
            row[f"q{round(quantile * 100):02d}"] = float(ordered[round(quantile * (len(ordered) - 1))])

        def joined(name: str) -> torch.Tensor:
            return torch.cat([getattr(visits, name).double() for visits in self._visits] or [torch.zeros(0).double()])

        count = len(joined("ids"))
        row["visits"] = count
        for name in ("accepted", "clean_accepted", "noise_norm"):
            row[name] = float(joined(name).mean()) if count else float("nan")
        # By epoch, margins moved once all visits were noted.
        after = values[joined("ids").long()] if self.margins.adaptive.rule.by_epoch else joined("after")
        # By more than the rounding of a norm, which moves a margin in its seventh digit.
        row["shrank"] = float((after < (1 - 1e-4) * joined("before")).double().mean()) if count else float("nan")
        row["gradient_evaluations"] = float(joined("steps").sum())
        row["evaluations_per_visit"] = float(joined("steps").mean()) if count else float("nan")
        row["stalled"] = float(joined("stalled").sum())
        for group in sorted(set(self.groups or [])):
            members = torch.tensor([name == group for name in self.groups or []])
            row[f"mean[{group}]"] = float(values[members].mean())
        return row

    def _append(self, path: Path) -> None:
        """Write the table anew: rows before this epoch, since a resumed run does later ones again, and this one."""
        rows: list[dict[str, Any]] = []
        if path.is_file():
            try:
                with path.open(newline="", encoding="utf-8") as stream:
                    rows = [row for row in csv.DictReader(stream) if int(row["epoch"]) < self.row["epoch"]]
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path} is not a table of margins; move it away or give another path") from error
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(self.row), extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows([*rows, self.row])
        write_text_whole(path, text.getvalue())

    def _to_tensorboard(self, epoch: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if self._writer is None:
            self._writer = SummaryWriter(log_dir=str(self.log_dir))
        for name, value in self.row.items():
            if name != "epoch":
                self._writer.add_scalar(f"margins/{name}", value, epoch)
        self._writer.add_histogram("margins/values", self.margins.adaptive.values, epoch)

    def _close(self, engine: Any) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
