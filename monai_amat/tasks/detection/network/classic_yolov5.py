"""A classic YOLOv5 network, with anchors and objectness, for MONAI's engines."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["ClassicYOLOv5"]


class ClassicYOLOv5(nn.Module):
    """Wrap a network of the repository `ultralytics/yolov5` (or a fork of it) with the interface of `YOLOv5`.

    This package holds no code of that repository: build or load the network with your own clone, and wrap it. Its loss
    is `ClassicYOLOv5Loss`.

    Args:
        network: in training mode it gives a list with a tensor `(B, anchors, h, w, 5 + classes)` for each level, in
            evaluation mode a tuple of the decoded `(B, N, 5 + classes)` (centre x and y, width, height in pixels,
            objectness, classes) and that list. Versions 3 to 7 of that repository do so, unless they are set to export.

    Example:
        >>> class Detector(nn.Module):
        ...     def forward(self, image):
        ...         levels = [torch.ones(len(image), 3, 2, 2, 7)]
        ...         return levels if self.training else (torch.full((len(image), 12, 7), 0.5), levels)
        >>> ClassicYOLOv5(Detector()).eval()(torch.zeros(1, 3, 16, 16))[0, :, 0]  # scores: objectness times class
        tensor([0.5000, 0.5000, 0.5000, 0.5000, 0.2500, 0.2500])
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Any:
        """Return the levels in training mode, and `(B, 4 + classes, N)` in evaluation mode, as `YOLOv5` does.

        Raises:
            TypeError: if the network returns anything else.
        """
        output = self.network(image.as_subclass(Tensor))
        return _levels(output) if self.training else _decoded(output)

    def raw(self, image: Tensor) -> Any:
        """Return what the loss needs in both modes: the levels, and in evaluation mode also the decoded boxes.

        Raises:
            TypeError: if the network returns anything else.
        """
        output = self.network(image.as_subclass(Tensor))
        if self.training:
            return _levels(output)
        decoded = _decoded(output)
        return {"levels": _levels(output[1] if len(output) > 1 else None), "decoded": decoded}


def _levels(output: Any) -> list[Tensor]:
    if isinstance(output, list | tuple) and output and all(isinstance(v, Tensor) and v.ndim == 5 for v in output):
        return list(output)
    raise TypeError(
        "a classic YOLOv5 network must return a list of tensors (B, anchors, h, w, 5 + classes) in training mode, "
        f"and as its second output in evaluation mode, got {_described(output)}"
    )


def _decoded(output: Any) -> Tensor:
    if not isinstance(output, list | tuple) or not output or not isinstance(output[0], Tensor) or output[0].ndim != 3:
        raise TypeError(
            f"a classic YOLOv5 network must return decoded boxes (B, N, 5 + classes) first in evaluation mode, got "
            f"{_described(output)}"
        )
    box, objectness, classes = output[0].split([4, 1, output[0].shape[2] - 5], dim=-1)
    return torch.cat([box, objectness * classes], dim=-1).transpose(1, 2)


def _described(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"a tensor {tuple(output.shape)}"
    if isinstance(output, list | tuple):
        return f"{type(output).__name__} of {', '.join(_described(value) for value in output) or 'nothing'}"
    return f"a {type(output).__name__}"
