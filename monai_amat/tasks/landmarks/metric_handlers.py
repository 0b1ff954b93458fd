"""MRE and SDR as ignite metrics, to be a `key_val_metric` of a MONAI evaluator."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import ignite.distributed as idist
import torch
from monai.handlers import IgniteMetricHandler, from_engine
from monai.metrics import CumulativeIterationMetric
from monai.utils import evenly_divisible_all_gather
from torch import Tensor

from monai_amat.tasks.landmarks.metric import LandmarkErrors, check_landmark_settings, landmark_errors, pooled

__all__ = ["MeanRadialErrorHandler", "RadialErrorMetric", "SuccessfulDetectionRateHandler"]


class RadialErrorMetric(CumulativeIterationMetric):
    """Keeps the errors of every landmark of every sample, of all ranks.

    Args:
        landmarks: number of landmarks L.
        relative_radius: R of the maps that the network was trained on, as a share of their height.

    Predictions are maps `(B, 3·L, H, W)` with targets as `landmark_errors`
    takes them, or decollated lists of both.

    Example:
        >>> pred = torch.zeros(1, 3, 40, 40)
        >>> pred[0, 0, 10:12, 20:23] = 5.0
        >>> metric = RadialErrorMetric(landmarks=1)
        >>> _ = metric(pred, {"landmarks": torch.tensor([[[13.0, 24.0]]]), "spacing": torch.tensor([[0.5, 0.5]])})
        >>> metric.aggregate().item()
        2.5
    """

    def __init__(self, *, landmarks: int, relative_radius: float = 0.05) -> None:
        super().__init__()
        check_landmark_settings(landmarks, relative_radius, [1.0])
        self.landmarks = landmarks
        self.relative_radius = relative_radius

    def __call__(self, y_pred: Any, y: Any = None, **kwargs: Any) -> Tensor:
        """Take in a batch; its errors `(B, L, 2)`: in mm, and whether there is no peak."""
        if isinstance(y_pred, list | tuple):
            y_pred = torch.stack(list(y_pred))
        if isinstance(y, list | tuple):
            y = {name: torch.stack([sample[name] for sample in y]) for name in ("landmarks", "spacing")}
        measured = self._compute_tensor(y_pred, y)
        self.extend(measured)
        return measured

    def _compute_tensor(self, y_pred: Tensor, y: Any = None, **kwargs: Any) -> Tensor:
        if y is None:
            raise ValueError(f"{type(self).__name__} needs the truth beside the prediction")
        errors = landmark_errors(y_pred, y, landmarks=self.landmarks, relative_radius=self.relative_radius)
        return torch.stack([errors.error, errors.no_peak.double()], dim=-1)

    def errors(self) -> LandmarkErrors:
        """All that was seen on all ranks since the last `reset`.

        Raises:
            ValueError: when no rank has seen a sample.
        """
        kept = self.get_buffer()
        if not isinstance(kept, Tensor) or not len(kept):
            raise ValueError(f"{type(self).__name__} has seen no sample yet; call it on a batch before aggregating")
        return LandmarkErrors(kept[..., 0].cpu(), kept[..., 1].cpu() > 0)

    def aggregate(self, *args: Any, **kwargs: Any) -> Tensor:
        """MRE in mm over all landmarks that have a truth, a scalar."""
        return pooled(self.errors().error)[0]

    def _sync(self) -> None:
        if self._buffers is None and not self._synced:
            # A rank whose shard is empty must still take part, or the others wait for it for ever.
            empty = torch.zeros(0, self.landmarks, 2, dtype=torch.float64, device=idist.device())
            self._synced_tensors = [evenly_divisible_all_gather(empty, concat=True)]
            self._synced = True
        super()._sync()


class _RadialErrorHandler(IgniteMetricHandler):
    """Puts a mean over all landmarks, and every landmark's own value, where MONAI's other handlers look for them."""

    def __init__(
        self,
        landmarks: int,
        relative_radius: float,
        output_transform: Callable[[Any], Any],
        save_details: bool,
    ) -> None:
        metric = RadialErrorMetric(landmarks=landmarks, relative_radius=relative_radius)
        super().__init__(metric_fn=metric, output_transform=output_transform, save_details=save_details)
        self.error_metric = metric

    @abstractmethod
    def values(self, errors: LandmarkErrors) -> Tensor:
        """What is averaged, `(N, L)`; NaN does not count."""

    def compute(self) -> float:
        """The mean; with `save_details` the values are put into `engine.state` on the way."""
        values = self.values(self.error_metric.errors())
        self._is_reduced = True
        if self.save_details:
            if self._engine is None or self._name is None:
                raise RuntimeError(f"{type(self).__name__}.attach(engine, name) must be called before the engine runs")
            state: Any = self._engine.state
            state.metric_details[self._name] = values
        return pooled(values)[0].item()


class MeanRadialErrorHandler(_RadialErrorHandler):
    """MRE in mm at the end of an evaluation, see `RadialErrors`.

    **Lower is better**, while MONAI takes higher for better: as `key_val_metric` it needs
    `metric_cmp_fn=lambda current, best: current < best` in the evaluator, and `key_metric_negative_sign=True` in a
    `CheckpointSaver`.

    Args:
        landmarks: number of landmarks L.
        relative_radius: R of the maps that the network was trained on, as a share of their height.
        output_transform: gets `(pred, label)` from `engine.state.output`; decollated lists and batches both do.
        save_details: put the errors `(N, L)` in mm into `engine.state.metric_details[<name>]`, where
            `MetricsSaver` finds them.

    Example:
        >>> from monai.engines import SupervisedEvaluator
        >>> from torch import nn
        >>> from monai_amat.engines import PrepareBatchTargets
        >>> maps = torch.zeros(1, 3, 40, 40)
        >>> maps[0, 0, 10:12, 20:23] = 5.0
        >>> truth = {"landmarks": torch.tensor([[[13.0, 24.0]]]), "spacing": torch.tensor([[0.5, 0.5]])}
        >>> evaluator = SupervisedEvaluator(
        ...     device="cpu", val_data_loader=[{"image": maps, **truth}], network=nn.Identity(),
        ...     prepare_batch=PrepareBatchTargets(targets=("landmarks", "spacing")),
        ...     key_val_metric={"val_mre": MeanRadialErrorHandler(landmarks=1)},
        ...     metric_cmp_fn=lambda current, best: current < best,
        ... )
        >>> evaluator.run()
        >>> evaluator.state.metrics["val_mre"]
        2.5
    """

    def __init__(
        self,
        *,
        landmarks: int,
        relative_radius: float = 0.05,
        output_transform: Callable[[Any], Any] = from_engine(["pred", "label"]),  # noqa: B008 - stateless
        save_details: bool = True,
    ) -> None:
        super().__init__(landmarks, relative_radius, output_transform, save_details)

    def values(self, errors: LandmarkErrors) -> Tensor:
        """The errors in mm."""
        return errors.error


class SuccessfulDetectionRateHandler(_RadialErrorHandler):
    """SDR in percent at the end of an evaluation: landmarks found less than `threshold` mm away.

    Args:
        landmarks: number of landmarks L.
        threshold: in mm; the challenge of ISBI 2015 has 2, 2.5, 3 and 4.
        relative_radius: R of the maps that the network was trained on, as a share of their height.
        output_transform: gets `(pred, label)` from `engine.state.output`; decollated lists and batches both do.
        save_details: put 100 or 0 for each landmark of each sample `(N, L)` into
            `engine.state.metric_details[<name>]`.
    """

    def __init__(
        self,
        *,
        landmarks: int,
        threshold: float = 2.0,
        relative_radius: float = 0.05,
        output_transform: Callable[[Any], Any] = from_engine(["pred", "label"]),  # noqa: B008 - stateless
        save_details: bool = True,
    ) -> None:
        check_landmark_settings(landmarks, relative_radius, [threshold])
        super().__init__(landmarks, relative_radius, output_transform, save_details)
        self.threshold = threshold

    def values(self, errors: LandmarkErrors) -> Tensor:
        """100 for a landmark that is detected, 0 for one that is not."""
        return errors.within(self.threshold)
