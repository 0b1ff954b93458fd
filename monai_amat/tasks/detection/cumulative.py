"""What metrics of detections have in common: lists of any length in, tensors of one length kept for every image."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import ignite.distributed as idist
import torch
from monai.metrics import CumulativeIterationMetric
from monai.utils import evenly_divisible_all_gather
from torch import Tensor

from monai_amat.tasks.detection.detections import Decode, Sample, check_classes, samples

__all__ = ["DetectionMetric"]


class DetectionMetric(CumulativeIterationMetric):
    """Fed batch by batch, gathered across ranks, aggregated once.

    Detections come as a list of `(n, 6)`, rows `x1 y1 x2 y2 score class`; targets as `(B, max_boxes, 5)`, rows
    `class x1 y1 x2 y2` with class -1 for padding, or as a list of such rows.

    Args:
        classes: names of the classes.
        decode: makes detections of a network's output, where that comes instead.

    Raises:
        ValueError: for no name, or one that comes twice.
    """

    def __init__(self, *, classes: Sequence[str], decode: Decode | None = None) -> None:
        super().__init__()
        self.classes = check_classes(classes)
        self.decode = decode

    @abstractmethod
    def measure(self, batch: list[Sample]) -> tuple[Tensor, ...]:
        """What is kept of some images, each `(B, *shape)` of a shape that does not depend on them; B may be 0."""

    def __call__(self, y_pred: Any, y: Any = None, **kwargs: Any) -> tuple[Tensor, ...]:
        """Take in a batch.

        Returns:
            what is kept of it.

        Raises:
            ValueError: without truth, or for what `samples` refuses.
        """
        measured = self._compute_tensor(y_pred, y)
        self.extend(*measured)
        return measured

    def _compute_tensor(self, y_pred: Any, y: Any = None, **kwargs: Any) -> tuple[Tensor, ...]:
        if y is None:
            raise ValueError(f"{type(self).__name__} needs the truth beside the detections")
        return self.measure(samples(y_pred, y, len(self.classes), decode=self.decode))

    def kept(self) -> tuple[Tensor, ...]:
        """What was kept on all ranks since the last `reset`.

        Raises:
            ValueError: when no rank has seen an image.
        """
        buffers = self.get_buffer()
        parts = (buffers,) if isinstance(buffers, Tensor) else tuple(buffers or ())
        if not parts or not len(parts[0]):
            raise ValueError(f"{type(self).__name__} has seen no image yet; call it on a batch before aggregating")
        return tuple(part.cpu() for part in parts)

    def _sync(self) -> None:
        if self._synced:
            return
        # Gathering needs tensors where the backend has them; a rank whose shard is empty must still take part, or the
        # others wait for it for ever.
        own = self.measure([]) if self._buffers is None else [torch.stack(part) for part in self._buffers]
        self._synced_tensors = [evenly_divisible_all_gather(part.to(idist.device()), concat=True) for part in own]
        self._synced = True
