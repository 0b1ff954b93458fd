"""An inferer that looks at the network in its training form without touching it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from monai.inferers import Inferer, SimpleInferer
from torch import Tensor, nn

from monai_amat.engines.frozen import frozen

__all__ = ["FrozenInferer"]


class FrozenInferer(Inferer):
    """Apply a network through `frozen`.

    With `SupervisedEvaluator(mode="train")` the evaluator sees what the training attack and the verdict see: training
    heads, but BatchNorm and dropout at rest. So ξ is fitted.

    Args:
        inferer: what applies the network; a plain forward by default.

    Example:
        >>> import torch
        >>> network = nn.Sequential(nn.BatchNorm1d(2)).train()
        >>> _ = FrozenInferer()(torch.randn(4, 2), network)
        >>> network[0].num_batches_tracked.item()
        0
    """

    def __init__(self, inferer: Inferer | None = None) -> None:
        super().__init__()
        self.inferer = SimpleInferer() if inferer is None else inferer

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The network's output for `inputs`."""
        if not isinstance(network, nn.Module):
            raise TypeError(f"FrozenInferer needs a torch.nn.Module, got {type(network).__name__}")
        with frozen(network) as still:
            return self.inferer(inputs, still, *args, **kwargs)
