"""What a metric is, and the handler that makes any of them an Ignite metric of MONAI's engines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import ignite.metrics
import numpy as np
import pandas as pd
import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from monai.handlers import from_engine
from monai.utils import convert_to_tensor
from torch import Tensor
from torch.utils._pytree import tree_map

from monai_amat.handlers.ranks import is_distributed, refuse_separate_processes

__all__ = ["Metric", "MetricHandler", "batch_of_one", "figures_of_each", "metric_rows"]

_ROWS_AT_ONCE = 256


class Metric(Protocol):
    """Raw values of each sample, and the figures of any set of samples.

    `monai_amat.tasks.segmentation.DiceIndexMetric` is one. `MetricHandler` makes it a metric of MONAI's engines, and
    `RobustnessCurve` uses the same object.
    """

    def columns(self, pred: Any, target: Any) -> Mapping[str, Tensor | Sequence[str]]:
        """Values `(B,)` of a batch by column name: counts that add up over samples, or one text per sample.

        Args:
            pred: what the loss's `prediction` makes of the network's output.
            target: the truth, as the evaluator's `prepare_batch` gives it.

        Returns:
            the columns; NaN where a sample has no value.
        """

    def summary(self, rows: pd.DataFrame, weights: np.ndarray | None = None) -> dict[str, Any]:
        """Figures over `rows`, the headline first.

        The figure `dice` of a part of the sample, such as a class, is named `dice_<part>`.

        Args:
            rows: one row per sample, with the columns of `columns`.
            weights: `(*R, rows)`, how often each row counts; once by default. The bootstrap gives its resamples so.

        Returns:
            one float per name, or with weights one array `(*R)`; NaN where nothing counts.
        """

    def higher_is_better(self, figure: str | None = None) -> bool:
        """Whether a larger value of a figure of `summary`, the headline by default, is better."""


def metric_rows(metric: Metric, pred: Any, target: Any) -> pd.DataFrame:
    """The metric's columns of a batch as one row per sample.

    Args:
        metric: the metric.
        pred: as in `Metric.columns`.
        target: as in `Metric.columns`.
    """
    with torch.no_grad():
        columns = metric.columns(pred, target)
    return pd.DataFrame(
        {
            name: values.detach().cpu().numpy() if isinstance(values, Tensor) else list(values)
            for name, values in columns.items()
        }
    )


def figures_of_each(metric: Metric, rows: pd.DataFrame) -> dict[str, np.ndarray]:
    """The figures of each row alone, `(rows,)` by name.

    Args:
        metric: the metric that the rows were made with.
        rows: at least one row.
    """
    starts = range(0, len(rows), _ROWS_AT_ONCE)
    # Weights that count a single row each give the figures of all rows at once.
    parts = [rows.iloc[start : start + _ROWS_AT_ONCE] for start in starts]
    figures = [metric.summary(part, np.eye(len(part))) for part in parts]
    return {name: np.concatenate([of_part[name] for of_part in figures]) for name in figures[0]}


class MetricHandler(ignite.metrics.Metric):
    """Any `Metric` as a `key_val_metric` or an additional metric of MONAI's engines.

    Rows are collected batch by batch, gathered from all ranks and summarised once, so that every rank has the same
    figures whatever share of the samples it has seen.

    Args:
        metric: the metric; the robustness curve may use the same object.
        figure: name of the figure, among those of `metric.summary`; the headline by default.
        further: figures by the name that they get in `engine.state.metrics`, from the same pass.
        save_details: also put the figure's parts into `engine.state.metrics`, figure `adi_1` as `<name>_1`, and each
            sample's values `(N, parts)` into `engine.state.metric_details[<name>]`, where `MetricsSaver` finds them.
        output_transform: gives `(pred, label)` of `engine.state.output`: batches, or lists of decollated samples.

    Raises:
        TypeError: at construction, when the metric lacks one of the three methods of `Metric`.
        RuntimeError: when the engine starts, for several processes without a process group.
        ValueError: when the engine starts, for a key metric that the engine's `metric_cmp_fn` compares in the wrong
            direction; at the end, when the metric has no such figure or no rank has seen a sample.

    Example:
        >>> from monai.engines import SupervisedEvaluator
        >>> from monai_amat.tasks.segmentation import DiceIndexMetric
        >>> batch = {"image": torch.tensor([[[3.0, 1.0], [0.0, 2.0]]]), "label": torch.tensor([[[1, 1]]])}
        >>> metric = MetricHandler(DiceIndexMetric(num_classes=2), further={"val_tvdi": "tvdi"}, save_details=False)
        >>> evaluator = SupervisedEvaluator(
        ...     device="cpu", val_data_loader=[batch], network=torch.nn.Identity(), key_val_metric={"val_adi": metric}
        ... )
        >>> evaluator.run()
        >>> {name: round(value, 4) for name, value in evaluator.state.metrics.items()}
        {'val_adi': 0.6667, 'val_tvdi': 0.6667}
    """

    def __init__(
        self,
        metric: Metric,
        figure: str | None = None,
        *,
        further: Mapping[str, str] | None = None,
        save_details: bool = True,
        output_transform: Callable[[Any], Any] = from_engine(["pred", "label"]),  # noqa: B008 - stateless
    ) -> None:
        if missing := [name for name in ("columns", "summary", "higher_is_better") if not hasattr(metric, name)]:
            raise TypeError(
                f"metric must have the methods of monai_amat.handlers.Metric, got {type(metric).__name__} without "
                f"{', '.join(missing)}"
            )
        self.metric = metric
        self.figure = figure
        self.further = dict(further or {})
        self.save_details = save_details
        self._rows: list[pd.DataFrame] = []
        super().__init__(output_transform, skip_unrolling=True)

    def reset(self) -> None:
        """Forget all rows."""
        self._rows = []

    def update(self, output: Sequence[Any]) -> None:
        """Take in a batch.

        Args:
            output: `(pred, label)`.
        """
        pred, target = output
        if isinstance(pred, list | tuple):  # decollated: one by one, since sizes may differ
            pairs = zip(pred, target, strict=True)
            self._rows += [metric_rows(self.metric, batch_of_one(one), batch_of_one(truth)) for one, truth in pairs]
        else:
            self._rows.append(metric_rows(self.metric, tree_map(_plain, pred), tree_map(_plain, target)))

    def attach(self, engine: Engine, name: str, *args: Any, **kwargs: Any) -> None:
        """Attach to an engine, which then has the figure under `name` in `engine.state.metrics`."""
        super().attach(engine, name, *args, **kwargs)
        engine.add_event_handler(Events.STARTED, self._check_engine, name)

    def rows(self) -> pd.DataFrame:
        """The rows of all ranks since the last `reset`, rank by rank.

        Raises:
            ValueError: when no rank has seen a sample.
        """
        frames = self._rows
        if is_distributed():
            # A rank whose shard is empty takes part as well; the others would wait for it without end.
            of_ranks: list[list[pd.DataFrame]] = [[]] * dist.get_world_size()
            dist.all_gather_object(of_ranks, frames)
            frames = [frame for of_rank in of_ranks for frame in of_rank]
        if not any(len(frame) for frame in frames):
            raise ValueError(
                f"{type(self.metric).__name__} has seen no sample; its figures need a loader that gives at least one"
            )
        return pd.concat(frames, ignore_index=True)

    def compute(self) -> float:
        """The figure over the rows of all ranks."""
        figures = self.metric.summary(self.rows())
        return float(figures[self._known(self.figure, figures)])

    def completed(self, engine: Engine, name: str) -> None:
        """Put the figures into `engine.state`."""
        rows = self.rows()
        figures = self.metric.summary(rows)
        of_each = figures_of_each(self.metric, rows) if self.save_details else {}
        state: Any = engine.state
        if not hasattr(state, "metric_details"):
            state.metric_details = {}
        for label, wanted in {name: self.figure, **self.further}.items():
            figure = self._known(wanted, figures)
            state.metrics[label] = float(figures[figure])
            if self.save_details:
                parts = [part for part in figures if part.startswith(f"{figure}_")]
                state.metrics |= {f"{label}{part.removeprefix(figure)}": float(figures[part]) for part in parts}
                details = np.stack([of_each[part] for part in parts or [figure]], axis=1)
                state.metric_details[label] = torch.from_numpy(details)

    def _known(self, figure: str | None, figures: Mapping[str, Any]) -> str:
        if figure is None:
            return next(iter(figures))
        if figure not in figures:
            raise ValueError(
                f"{type(self.metric).__name__} has no figure {figure!r}; choose one of {', '.join(figures)}"
            )
        return figure

    def _check_engine(self, engine: Any, name: str) -> None:
        refuse_separate_processes("evaluation")
        compare = getattr(engine, "metric_cmp_fn", None)
        if compare is None or getattr(engine.state, "key_metric_name", None) != name:
            return
        higher = self.metric.higher_is_better(self.figure)
        if bool(compare(1.0, 0.0)) != higher:
            better, sign = ("higher", ">") if higher else ("lower", "<")
            raise ValueError(
                f"{better} is better for {name}, but the engine's metric_cmp_fn takes the opposite for an improvement; "
                f"give it metric_cmp_fn=lambda current, best: current {sign} best"
                + ("" if higher else ", and key_metric_negative_sign=True to a CheckpointSaver")
            )


def batch_of_one(sample: Any) -> Any:
    """A decollated sample as a batch, without metadata."""
    return tree_map(lambda leaf: _plain(leaf)[None], sample)


def _plain(leaf: Any) -> Any:
    return convert_to_tensor(leaf, track_meta=False)
