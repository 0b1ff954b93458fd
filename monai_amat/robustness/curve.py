"""The robustness curve: a network attacked at rising noise, row by row, and resumable."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import ignite.distributed as idist
import pandas as pd
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator
from monai.engines.utils import PrepareBatch
from monai.inferers import Inferer
from torch import nn
from torch.utils.data import DataLoader, Subset

from monai_amat.attacks import Attack
from monai_amat.ending import say_how_to_go_on
from monai_amat.engines import PrepareBatchNoisy, describe, network_fingerprint
from monai_amat.files import write_text_whole
from monai_amat.handlers.metric import Metric
from monai_amat.losses.base import PerSampleLoss
from monai_amat.progress import Progress
from monai_amat.robustness.attack_text import attack_text
from monai_amat.robustness.environment import environment
from monai_amat.robustness.notes import noise_rms, reading_notes
from monai_amat.robustness.report import Report, table_text
from monai_amat.robustness.rows import attacked_rows, check_keys
from monai_amat.robustness.samples import indexed_behind, loader_like, sample_ids
from monai_amat.robustness.store import RowStore, write_rows
from monai_amat.robustness.summary import nested, summarise

__all__ = ["RobustnessCurve"]

logger = logging.getLogger(__name__)

_BOOTSTRAP = {"samples": 1000, "seed": 0, "level": 0.95}
# What a sample has cost travels with its row, so that a resumed run knows what the whole has cost.
_COSTS = ["seconds", "gradient_evaluations", "late_gain"]


class RobustnessCurve:
    """Attack a network at several noise levels and keep the scores of each sample.

    Each level is one pass of MONAI's `SupervisedEvaluator` under `PrepareBatchNoisy`. Finished batches are kept at
    once. A run that was stopped goes on with the missing samples, to the same numbers, because a sample's noise depends
    on its own seed and not on its batch. Levels and samples may be added to a finished run: only missing ones are
    computed.

    Args:
        network: the network, with its weights loaded; put on `device`.
        data_loader: loader over an `IndexedDataset` (or a `Subset` of one) with a batch
            size; order does not matter. Every item is one sample: no `num_samples` crops.
        loss: the loss that is recorded, and that the attack raises unless `attack_loss` is given.
        attack: used at all levels, an attack or a suite (`attack_suite`); the paper evaluates with 100 steps of
            `5·ε/100`.
        noise_levels: each ε, in the units of the network's input; 0 is the clean image.
        metric: the metric of the predictions, see `monai_amat.handlers.Metric`.
        output_dir: folder for the rows (`rows.sqlite` during the run, `robustness.csv` at its end), `summary.json`,
            `table.md` and `curve.png`.
        group_key: key of the batch that names the sample's group, such as its volume, by which intervals are
            resampled; `"sample_id"` where each sample stands for itself.
        extra_keys: further keys of the batch to keep as columns, each with one number or text per sample.
        device: where; the network's own device by default.
        prepare_batch: the workflow's own; MONAI's default takes `image` and `label`.
        inferer: how the network is applied; a plain forward by default.
        progress: show a bar over the batches of each level on a terminal, and one line per level everywhere.
        settings: anything JSON can hold that the figures depend on and that is not seen here, such as the validation
            transforms; rows made under other settings are refused.
        source: network the noise is made on, with its weights loaded; `network` itself by default. With another it
            is a transfer attack.
        attack_loss: the loss that the attack raises, on the source; `loss` by default.
        report: labels of the figures in table and pictures, and which are shown beside the headline.
        postprocessing: the evaluator's own: transforms of one decollated sample, which the metric gets instead of the
            network's own output and the label. The loss gets both as they are.

    Runs in one process. The file of rows is locked while it runs: another process cannot use the same folder.

    Raises:
        TypeError: when the loader's data set is not indexed.
        ValueError: for noise levels that are negative, not finite, repeated or none, or a loader without batch size.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        data_loader: DataLoader[Any],
        loss: PerSampleLoss,
        attack: Attack,
        noise_levels: Sequence[float],
        metric: Metric,
        output_dir: str | Path,
        group_key: str = "case",
        extra_keys: Sequence[str] = ("slice",),
        device: str | torch.device | None = None,
        prepare_batch: PrepareBatch | None = None,
        inferer: Inferer | None = None,
        progress: bool = True,
        settings: Mapping[str, Any] | None = None,
        source: nn.Module | None = None,
        attack_loss: PerSampleLoss | None = None,
        report: Report | None = None,
        postprocessing: Callable[[Any], Any] | None = None,
    ) -> None:
        self.noise_levels = _checked_levels(noise_levels)
        if data_loader.batch_size is None:
            raise ValueError("data_loader needs a batch_size: it is rebuilt over the samples that are not finished yet")
        self.data_loader = data_loader
        self.data, self.positions = indexed_behind(data_loader.dataset)
        self.network = network
        self.device = next(network.parameters()).device if device is None else torch.device(device)
        self.loss = loss
        self.attack = attack
        self.metric = metric
        self.output_dir = Path(output_dir)
        self.group_key = group_key
        self.extra_keys = tuple(extra_keys)
        self.prepare_batch = prepare_batch
        self.inferer = inferer
        self.progress = progress
        self.settings = dict(settings or {})
        self.source = source
        self.attack_loss = None if attack_loss is loss else attack_loss
        self.report = Report() if report is None else report
        self.postprocessing = postprocessing
        self.store = RowStore(self.output_dir)

    def run(self) -> pd.DataFrame:
        """Attack what is not attacked yet, and write the results.

        Returns:
            one row per noise level and sample, in that order: `noise_level`, `sample_id`, the group, the extra keys,
            `loss` (on the noisy image), `noise_norm` (‖x̃ − x‖), `noise_rms` (its root mean square per value), `stalled`
            (attack steps that could not move the sample), the metric's columns, and under a suite `attack`, the name of
            the attack that won.

        Raises:
            RuntimeError: in a distributed run; when the folder holds rows made under other settings; when a loss or
                noise is not finite.
            KeyError: when a batch lacks `group_key` or one of `extra_keys`.
            ValueError: when a data item gives several samples.
        """
        if max(idist.get_world_size(), int(os.environ.get("WORLD_SIZE", "1"))) > 1:
            raise RuntimeError(
                "RobustnessCurve runs in one process, but this is a distributed run; start it without torchrun, or on "
                "rank 0 alone after the process group is gone"
            )
        with self.store:
            self.store.guard(self.made_with())
            say_how_to_go_on("the same command goes on with the samples that are missing")
            # Training may have left the data set in a later epoch; what is drawn here must not depend on that.
            self.data.set_epoch(0)
            for module in (self.network, self.loss, self.source, self.attack_loss):
                if module is not None:
                    module.to(self.device)
            ids = sample_ids(self.data, self.positions)
            missing = {level: self._missing(level, ids) for level in self.noise_levels}
            size = self.data_loader.batch_size or 1
            if pending := [position for positions in missing.values() for position in positions]:
                batch = self.data_loader.collate_fn([self.data[pending[0]]])
                check_keys(batch, (self.group_key, *self.extra_keys), self.data.id_key)
            for level, positions in missing.items():
                if positions:
                    batches = math.ceil(len(positions) / size)
                    title = f"{self.output_dir.name}, noise level {level:g}"
                    with Progress(batches, title=title, show=self.progress) as progress:
                        self._attack(level, positions, progress)
            return self._finish(ids)

    def _missing(self, level: float, ids: Sequence[int]) -> list[int]:
        finished = self.store.finished(level)
        return [position for position, sample in zip(self.positions, ids, strict=True) if sample not in finished]

    def _attack(self, level: float, positions: Sequence[int], progress: Progress) -> None:
        """One evaluator over the samples at `positions`, whose batches are kept as they are finished."""
        prepare = PrepareBatchNoisy(
            network=self.network if self.source is None else self.source,
            loss=self.loss if self.attack_loss is None else self.attack_loss,
            attack=self.attack,
            epsilon=level,
            prepare_batch=self.prepare_batch,
            inferer=self.inferer,
            id_key=self.data.id_key,
            seed_key=self.data.seed_key,
        )
        evaluator = SupervisedEvaluator(
            device=self.device,
            val_data_loader=loader_like(self.data_loader, Subset(self.data, list(positions))),
            network=self.network,
            prepare_batch=prepare,
            inferer=self.inferer,
            decollate=False,
        )
        evaluator.logger = logger.getChild("evaluator")  # Progress says where it is; Ignite would add lines
        evaluator.logger.setLevel(logging.WARNING)
        started = 0.0

        def start(engine: Engine) -> None:
            nonlocal started
            started = perf_counter()

        def keep(engine: Engine) -> None:
            rows = self._rows(level, engine.state.batch, engine.state.output, prepare)
            rows["seconds"] = (perf_counter() - started) / len(rows)
            self.store.write(rows)
            progress.update()

        evaluator.add_event_handler(Events.ITERATION_STARTED, start)
        evaluator.add_event_handler(Events.ITERATION_COMPLETED, keep)
        evaluator.run()

    def _rows(self, level: float, batch: Any, output: Any, prepare: PrepareBatchNoisy) -> pd.DataFrame:
        """The rows of one finished batch."""
        if prepare.last is None or prepare.last.ids is None:
            raise RuntimeError(
                f"the batch carries no {self.data.id_key!r}, got {_keys_text(batch)}; give the loader a collate_fn "
                "that keeps the data set's keys"
            )
        rows = attacked_rows(
            prepare.last,
            batch,
            output,
            loss=self.loss,
            metric=self.metric,
            keys=(self.group_key, *self.extra_keys),
            postprocessing=self.postprocessing,
            attack_names=getattr(self.attack, "names", None),
        )
        rows.insert(0, "noise_level", level)
        return rows

    def made_with(self) -> dict[str, Any]:
        """All that a row depends on, apart from its noise level and its sample."""
        elsewhere: dict[str, Any] = {}
        if self.source is not None:
            elsewhere["source"] = network_fingerprint(self.source)
        if self.attack_loss is not None:
            elsewhere["attack_loss"] = describe(self.attack_loss)
        if self.postprocessing is not None:
            elsewhere["postprocessing"] = describe(self.postprocessing)
        return {
            "attack": describe(self.attack),
            "network": network_fingerprint(self.network),
            "loss": describe(self.loss),
            "metric": describe(self.metric),
            "data": self.data.samples_fingerprint,
            "seed": self.data.seed,
            "prepare_batch": describe(self.prepare_batch),
            "inferer": describe(self.inferer),
            "columns": [self.group_key, *self.extra_keys],
            "settings": describe(self.settings),
            **elsewhere,
        }

    def _finish(self, ids: Sequence[int]) -> pd.DataFrame:
        """Export the rows and write the figures made of them."""
        kept = self.store.read()
        kept = kept[kept["noise_level"].isin(self.noise_levels) & kept["sample_id"].isin(ids)].reset_index(drop=True)
        rows, costs = kept.drop(columns=_COSTS), kept[_COSTS]
        table = summarise(rows, self.metric, group_key=self.group_key, **_BOOTSTRAP)  # type: ignore[arg-type]
        levels: dict[str, dict[str, Any]] = dict(nested(table))
        for level, of_level in rows.groupby("noise_level"):
            evaluations = costs.loc[of_level.index, "gradient_evaluations"].mean()
            levels[f"{level:g}"] |= {
                "samples": len(of_level),
                "groups": of_level[self.group_key].nunique(),
                "loss": float(of_level["loss"].mean()),
                "noise_norm": float(of_level["noise_norm"].mean()),
                "noise_rms": float(of_level["noise_rms"].mean()),
                "stalled": int(of_level["stalled"].sum()),
                "gradient_evaluations": float(evaluations),
                "late_gain": _or_none(costs.loc[of_level.index, "late_gain"].mean()),
                "seconds": float(costs.loc[of_level.index, "seconds"].sum()),
            }
        summary = {
            "levels": levels,
            "bootstrap": {**_BOOTSTRAP, "group": self.group_key},
            "noise_levels": list(self.noise_levels),
            "attack_in_words": attack_text(self.attack),
            **self.made_with(),
            "norm": str(self.attack.norm),
            "seconds": float(costs["seconds"].sum()),
            **environment(self.device),
        }
        write_rows(self.output_dir / "robustness.csv", rows)
        write_text_whole(self.output_dir / "summary.json", json.dumps(summary, indent=2) + "\n")
        norm = str(self.attack.norm)
        notes = [f"Attack: {attack_text(self.attack)}."]
        notes += reading_notes(rows, group_key=self.group_key, norm=norm, inferer=self.inferer)
        self.report.write(table, self.output_dir, notes=notes, rms=noise_rms(rows), norm=norm)
        text = "\n".join([table_text(table), "", *notes])
        logger.info("robustness, %d samples: %s\n\n%s\n", len(ids), self.output_dir, text)
        return rows


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _keys_text(batch: Any) -> str:
    return f"the keys {sorted(map(str, batch))}" if isinstance(batch, Mapping) else type(batch).__name__


def _checked_levels(noise_levels: Sequence[float]) -> tuple[float, ...]:
    levels = tuple(float(level) for level in noise_levels)
    if not levels or len(set(levels)) < len(levels) or not all(0 <= level < math.inf for level in levels):
        raise ValueError(f"noise_levels must be different finite numbers, none negative, at least one; got {levels}")
    return tuple(sorted(levels))
