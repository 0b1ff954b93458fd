"""An inferer for networks that give their loss something else than they give their user."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from monai.inferers import Inferer
from torch import Tensor, nn

from monai_amat.engines.frozen import unwrap

__all__ = ["RawOutputsInferer"]


class RawOutputsInferer(Inferer):
    """Call a network's `raw` method instead of its forward.

    A detector's output in evaluation mode is decoded boxes, from which its loss cannot be computed any more. Its
    `raw(image)` gives, in either mode, the tree of tensors that the loss takes, and the loss's `prediction` decodes
    that for metrics. Evaluation under attack needs both, the loss to be raised and the boxes to be judged:

    - `PrepareBatchNoisy(inferer=RawOutputsInferer(), …)` and the `SupervisedEvaluator` that it is for, likewise;
    - `RobustnessCurve(inferer=RawOutputsInferer(), …)`, `AttackStrength` in the same way.

    The network is looked at as it stands: in evaluation mode BatchNorm and dropout are at rest. Training needs no such
    thing: there the forward gives the raw tree already. Nor does plain inference, which wants the boxes.

    Raises:
        TypeError: for a network that has no `raw`.

    Example:
        >>> import torch
        >>> class Doubling(nn.Module):
        ...     def forward(self, image):
        ...         return 2 * self.raw(image)["value"]
        ...     def raw(self, image):
        ...         return {"value": image}
        >>> RawOutputsInferer()(torch.ones(1), Doubling())
        {'value': tensor([1.])}
    """

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The network's raw output for `inputs`; DDP and compile wrappers are looked through."""
        inner = unwrap(network) if isinstance(network, nn.Module) else network
        raw = getattr(inner, "raw", None)
        if not callable(raw):
            raise TypeError(
                f"RawOutputsInferer needs a network with a method raw(image), such as "
                f"monai_amat.tasks.detection.YOLOv5, got "
                f"{type(inner).__name__}"
            )
        return raw(inputs, *args, **kwargs)
