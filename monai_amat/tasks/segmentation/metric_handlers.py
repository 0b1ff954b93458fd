"""ADI and TVDI as ignite metrics, to be a `key_val_metric` of a MONAI evaluator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from monai.handlers import IgniteMetricHandler, from_engine

from monai_amat.tasks.segmentation.dice_index import AverageDiceIndex, DiceIndexMetric, TotalVoxelDiceIndex
from monai_amat.tasks.segmentation.overlap import Prediction, Slices, dice

__all__ = ["AverageDiceIndexHandler", "TotalVoxelDiceIndexHandler"]


class _DiceIndexHandler(IgniteMetricHandler):
    """Puts the index, its class values and every sample's Dice where MONAI's other handlers look for them."""

    def __init__(self, metric: DiceIndexMetric, output_transform: Callable[[Any], Any], save_details: bool) -> None:
        super().__init__(metric_fn=metric, output_transform=output_transform, save_details=save_details)
        self.index_metric = metric

    def compute(self) -> float:
        """The index; with `save_details` its parts are put into `engine.state` on the way."""
        index = self.index_metric.index()
        self._is_reduced = True
        if self.save_details:
            if self._engine is None or self._name is None:
                raise RuntimeError(f"{type(self).__name__}.attach(engine, name) must be called before the engine runs")
            state: Any = self._engine.state
            state.metric_details[self._name] = dice(self.index_metric.counts())
            state.metrics |= {f"{self._name}_{c}": score for c, score in enumerate(index.per_class.tolist(), start=1)}
        return index.mean.item()


class AverageDiceIndexHandler(_DiceIndexHandler):
    """ADI at the end of an evaluation, see `AverageDiceIndex`.

    Args:
        num_classes: output channels of the network; the background among them with `softmax`.
        prediction: what the channels are.
        slices: samples that count: those with `any` foreground, or, the authors' choice, with `every` class.
        output_transform: gets `(pred, label)` from `engine.state.output`; decollated lists and batches both do.
        save_details: put the class values into `engine.state.metrics` as `<name>_1`, `<name>_2`, … and every
            sample's Dice `(N, C)`, NaN where undefined, into `engine.state.metric_details[<name>]`, where
            `MetricsSaver` finds it.

    Example:
        >>> from monai.engines import SupervisedEvaluator
        >>> from torch import nn, tensor
        >>> batch = {"image": tensor([[[3.0, 1.0], [0.0, 2.0]]]), "label": tensor([[[1, 1]]])}
        >>> evaluator = SupervisedEvaluator(
        ...     device="cpu", val_data_loader=[batch], network=nn.Identity(),
        ...     key_val_metric={"val_adi": AverageDiceIndexHandler(num_classes=2)},
        ... )
        >>> evaluator.run()
        >>> round(evaluator.state.metrics["val_adi"], 4)
        0.6667
    """

    def __init__(
        self,
        *,
        num_classes: int,
        prediction: Prediction = "softmax",
        slices: Slices = "any",
        output_transform: Callable[[Any], Any] = from_engine(["pred", "label"]),  # noqa: B008 - stateless
        save_details: bool = True,
    ) -> None:
        metric = AverageDiceIndex(num_classes=num_classes, prediction=prediction, slices=slices)
        super().__init__(metric, output_transform, save_details)


class TotalVoxelDiceIndexHandler(_DiceIndexHandler):
    """TVDI at the end of an evaluation, see `TotalVoxelDiceIndex`.

    Args:
        num_classes: output channels of the network; the background among them with `softmax`.
        prediction: what the channels are.
        output_transform: gets `(pred, label)` from `engine.state.output`; decollated lists and batches both do.
        save_details: as in `AverageDiceIndexHandler`.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        prediction: Prediction = "softmax",
        output_transform: Callable[[Any], Any] = from_engine(["pred", "label"]),  # noqa: B008 - stateless
        save_details: bool = True,
    ) -> None:
        super().__init__(
            TotalVoxelDiceIndex(num_classes=num_classes, prediction=prediction), output_transform, save_details
        )
