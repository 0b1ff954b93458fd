"""An adapter that evaluates any loss sample by sample, so that it gives one value per sample."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import keystr, tree_flatten_with_path, tree_map

from monai_amat.losses.base import PerSampleLoss, full_precision

# The value of these losses compares the samples of a batch with each other.
_ABOUT_THE_BATCH = ("AUCMLoss", "BarlowTwinsLoss", "ContrastiveLoss")


class PerSample(PerSampleLoss):
    """Wraps a torch or MONAI loss, or any callable `loss(pred, target)`, so that it gives one value per sample.

    Sample i is the loss of the slices `[i:i+1]` of every tensor in `pred` and `target`, in float32 and outside
    autocast; with `reduction="none"` the remaining values are averaged. This costs one call per sample; a loss
    written per sample, such as `DiceCELoss`, is faster.

    A warning lists what this changes in the meaning of the loss: Dice over the batch, class weights or an
    `ignore_index` whose normaliser is summed over the batch, `reduction="sum"`, and losses that compare samples with
    each other. Only modules can be inspected; a plain function is used without a check.

    Args:
        loss: an instance, not a class; a module's submodules are inspected too.
        name: the name of the only term.

    Raises:
        TypeError: if `loss` is a class, is not callable, or is a `PerSampleLoss` already.
        ValueError: if `name` is empty or `"total"`.

    Example:
        >>> loss = PerSample(nn.MSELoss())
        >>> loss(torch.tensor([[1.0, 1.0], [2.0, 4.0]]), torch.zeros(2, 2))
        tensor([ 1., 10.])
    """

    def __init__(self, loss: Callable[..., Tensor], *, name: str = "loss") -> None:
        super().__init__()
        if isinstance(loss, PerSampleLoss):
            raise TypeError(f"{type(loss).__name__} already gives one value per sample; use it directly")
        if isinstance(loss, type):
            raise TypeError(f"loss must be an instance, got the class {loss.__name__}; pass {loss.__name__}(...)")
        if not callable(loss):
            raise TypeError(f"loss must be callable as loss(pred, target), got {type(loss).__name__}")
        if not name or name == "total":
            raise ValueError(f"name must be non-empty and not 'total', got {name!r}")
        self.loss = loss
        self.name = name
        if changes := list(dict.fromkeys(_changes(loss))):
            warnings.warn(
                f"evaluated sample by sample, {type(loss).__name__} has another meaning: {'; '.join(changes)}",
                stacklevel=2,
            )

    def terms(self, pred: Any, target: Any) -> dict[str, Tensor]:
        """The loss of each sample, shape `(B,)`, under the name given.

        Args:
            pred: a tree of tensors with the sample at dim 0.
            target: a tree of the same kind.

        Raises:
            TypeError: if a leaf is not a tensor, or the loss does not return a tensor.
            ValueError: if the leaves have different numbers of samples.
        """
        batch, device = _batch((pred, target))
        pred, target = tree_map(full_precision, (pred, target))
        values: list[Tensor] = []
        with torch.autocast(device_type=device.type, enabled=False):
            for i in range(batch):
                value = self.loss(*tree_map(lambda leaf, i=i: leaf[i : i + 1], (pred, target)))
                if not isinstance(value, Tensor):
                    raise TypeError(f"{type(self.loss).__name__} must return a tensor, got {type(value).__name__}")
                values.append(full_precision(value).mean())
        return {self.name: torch.stack(values) if values else torch.zeros(0, device=device)}

    def prediction(self, pred: Any, target: Any) -> Any:
        """The first head, of full resolution, with MONAI's `DeepSupervisionLoss`; `pred` with any other loss."""
        from monai.losses.ds_loss import DeepSupervisionLoss  # here, because MONAI's losses load Ignite and Matplotlib

        if isinstance(self.loss, DeepSupervisionLoss) and isinstance(pred, list | tuple):
            return pred[0]
        return pred


def _batch(trees: tuple[Any, Any]) -> tuple[int, torch.device]:
    """The number of samples of all leaves, and the device of the first leaf."""
    named = dict(zip(("pred", "target"), trees, strict=True))
    leaves = [
        (keystr(path).replace("['", "", 1).replace("']", "", 1), leaf)
        for path, leaf in tree_flatten_with_path(named)[0]
    ]
    for where, leaf in leaves:
        if not isinstance(leaf, Tensor) or leaf.ndim == 0:
            found = "a tensor without dimensions" if isinstance(leaf, Tensor) else type(leaf).__name__
            raise TypeError(f"{where} must be a tensor with the sample at dim 0, got {found}")
    if len({leaf.shape[0] for _, leaf in leaves}) != 1:
        shapes = {where: tuple(leaf.shape) for where, leaf in leaves}
        raise ValueError(f"all tensors must hold the same number of samples at dim 0, got the shapes {shapes}")
    return leaves[0][1].shape[0], leaves[0][1].device


def _changes(loss: Callable[..., Tensor]) -> Iterator[str]:
    """What per-sample evaluation changes in the meaning of a loss, one phrase per change."""
    for module in loss.modules() if isinstance(loss, nn.Module) else ():
        kind, reduction = type(module).__name__, getattr(module, "reduction", None)
        if getattr(module, "batch", False) is True:
            yield f"{kind}(batch=True) pools the batch, here it pools one sample; batch=False has the same meaning"
        if isinstance(module, nn.CrossEntropyLoss | nn.NLLLoss) and reduction == "mean":
            if module.weight is not None:
                yield f"the class weights of {kind} are normalised over each sample, not over the batch"
            if module.ignore_index >= 0:
                yield (
                    f"{kind} averages over the counted pixels of each sample, not of the batch, and gives NaN for a "
                    f"sample in which every label is ignore_index={module.ignore_index}"
                )
        if reduction == "sum":
            yield f"{kind}(reduction='sum') sums over each sample; the trainer then takes the mean over the batch"
        if kind in _ABOUT_THE_BATCH:
            yield f"{kind} compares the samples of a batch, but here it gets one sample per call"
