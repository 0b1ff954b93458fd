"""Average IoU and mAP as ignite metrics, to be a `key_val_metric` of a MONAI evaluator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from monai.handlers import IgniteMetricHandler, from_engine

from monai_amat.tasks.detection.average_iou import MIN_SCORE, AverageIoU, Objects
from monai_amat.tasks.detection.detections import Decode
from monai_amat.tasks.detection.mean_average_precision import MAX_DETECTIONS, MeanAveragePrecision

__all__ = ["AverageIoUHandler", "MeanAveragePrecisionHandler"]


class _DetectionHandler(IgniteMetricHandler):
    """Puts figures beside the headline where MONAI's other handlers look for them."""

    def state(self) -> Any:
        """State of the engine this is attached to."""
        if self._engine is None or self._name is None:
            raise RuntimeError(f"{type(self).__name__}.attach(engine, name) must be called before the engine runs")
        return self._engine.state


class AverageIoUHandler(_DetectionHandler):
    """Average IoU at the end of an evaluation, see `AverageIoU`.

    Args:
        classes: names of the classes.
        over: `"true"` objects or `"detected"` ones, the paper's words.
        min_score: detections below do not count.
        decode: makes detections of the network's output; None where the output is detections already.
        output_transform: gets `(pred, label)` from `engine.state.output`; decollated lists and batches both do.
        save_details: put the class values into `engine.state.metrics` as `<name>_<class>`, and every image's class
            values `(N, C)`, NaN where undefined, into `engine.state.metric_details[<name>]`, where `MetricsSaver`
            finds them.

    Example:
        >>> import torch
        >>> from monai.engines import SupervisedEvaluator
        >>> batch = {
        ...     "image": torch.tensor([[[0.0, 0.0, 4.0, 2.0, 0.9, 0.0]]]),  # passes for the network's detections
        ...     "label": torch.tensor([[[0.0, 0.0, 0.0, 4.0, 4.0]]]),
        ... }
        >>> evaluator = SupervisedEvaluator(
        ...     device="cpu", val_data_loader=[batch], network=torch.nn.Identity(),
        ...     key_val_metric={"val_iou": AverageIoUHandler(classes=["RBC"])},
        ... )
        >>> evaluator.run()
        >>> evaluator.state.metrics
        {'val_iou_RBC': 0.5, 'val_iou': 0.5}
    """

    def __init__(
        self,
        *,
        classes: Sequence[str],
        over: Objects = "true",
        min_score: float = MIN_SCORE,
        decode: Decode | None = None,
        output_transform: Callable[[Any], Any] = from_engine(["pred", "label"]),  # noqa: B008 - stateless
        save_details: bool = True,
    ) -> None:
        metric = AverageIoU(classes=classes, over=over, min_score=min_score, decode=decode)
        super().__init__(metric_fn=metric, output_transform=output_transform, save_details=save_details)
        self.metric = metric

    def compute(self) -> float:
        """The average; with `save_details` its parts are put into `engine.state` on the way."""
        index = self.metric.index()
        self._is_reduced = True
        if self.save_details:
            state, first = self.state(), 0 if self.metric.over == "true" else 2
            sums = self.metric.kept()[0]
            state.metric_details[self._name] = sums[..., first + 1] / sums[..., first]
            values = zip(self.metric.classes, index.per_class.tolist(), strict=True)
            state.metrics |= {f"{self._name}_{name}": value for name, value in values}
        return index.mean.item()


class MeanAveragePrecisionHandler(_DetectionHandler):
    """mAP at .5:.95 at the end of an evaluation, see `MeanAveragePrecision`.

    Args:
        classes: names of the classes.
        max_detections: only the best ones of an image count.
        decode: makes detections, down to low scores, of the network's output; None where that is detections already.
        output_transform: as in `AverageIoUHandler`.
        save_details: put `<name>50` (mAP at .5) and the class values `<name>_<class>`, `<name>50_<class>` into
            `engine.state.metrics`.
    """

    def __init__(
        self,
        *,
        classes: Sequence[str],
        max_detections: int = MAX_DETECTIONS,
        decode: Decode | None = None,
        output_transform: Callable[[Any], Any] = from_engine(["pred", "label"]),  # noqa: B008 - stateless
        save_details: bool = True,
    ) -> None:
        metric = MeanAveragePrecision(classes=classes, max_detections=max_detections, decode=decode)
        super().__init__(metric_fn=metric, output_transform=output_transform, save_details=save_details)
        self.metric = metric

    def compute(self) -> float:
        """mAP; with `save_details` its parts are put into `engine.state` on the way."""
        index = self.metric.index()
        self._is_reduced = True
        if self.save_details:
            figures = {f"{self._name}50": index.map50.item()}
            for suffix, per_class in (("", index.per_class), ("50", index.per_class50)):
                values = zip(self.metric.classes, per_class.tolist(), strict=True)
                figures |= {f"{self._name}{suffix}_{name}": value for name, value in values}
            self.state().metrics |= figures
        return index.map.item()
