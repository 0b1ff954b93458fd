"""The gradient of each sample's loss with respect to its noisy input, in half precision too."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_amat.attacks.norms import per_sample

__all__ = ["input_gradient"]

# 2¹⁵ is the largest power of two in half precision.
_SCALES = (2.0**15, 2.0**8, 1.0)


def input_gradient(
    loss: Tensor, noisy: Tensor, *, kept: Tensor | None = None, amp: torch.dtype | None = None
) -> Tensor:
    """Gradient of each kept sample's loss, up to a positive factor per sample, because the attack normalises it.

    Half-precision activations lose gradients below 6e-8 and overflow above 65504, so that their losses are scaled up. A
    sample that overflows gets a smaller scale; the other samples keep theirs, so that noise depends on its own
    sample alone.

    Args:
        loss: `(n,)`, computed from `noisy`.
        noisy: `(n, *shape)`, a leaf that requires a gradient.
        kept: `(n,)` bool, the samples whose gradient is needed; None for all.
        amp: type in which autocast computed the loss; None if only the types of the tensors count.

    Returns:
        `(k, *shape)` of the k kept samples.

    Raises:
        ValueError: if the loss does not depend on `noisy`.

    Example:
        >>> point = torch.tensor([[1.0, 2.0]], requires_grad=True)
        >>> input_gradient(point.square().sum(dim=1), point)
        tensor([[2., 4.]])
    """
    chosen = loss if kept is None else loss[kept]
    if torch.float16 not in (amp, _ambient(noisy.device.type), noisy.dtype, loss.dtype):
        return _differentiate(chosen.sum(), noisy, kept, retain_graph=False)
    total = chosen.float().sum()
    gradient = _differentiate(total * _SCALES[0], noisy, kept, retain_graph=True)
    for scale in _SCALES[1:]:
        # A smaller scale cannot help if the loss itself is not finite.
        lost = torch.isfinite(chosen) & ~torch.isfinite(gradient).reshape(len(gradient), -1).all(dim=1)
        if not lost.any():
            break
        smaller = _differentiate(total * scale, noisy, kept, retain_graph=scale != _SCALES[-1])
        gradient = torch.where(per_sample(lost, gradient), smaller, gradient)
    return gradient


def _ambient(device_type: str) -> torch.dtype | None:
    return torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else None


def _differentiate(total: Tensor, noisy: Tensor, kept: Tensor | None, *, retain_graph: bool) -> Tensor:
    if total.requires_grad:
        (gradient,) = torch.autograd.grad(total, noisy, retain_graph=retain_graph, allow_unused=True)
        if gradient is not None:
            return gradient if kept is None else gradient[kept]
    raise ValueError(
        "the loss of the objective must be differentiable in the noisy input, got a loss that does not depend on it; "
        "remove torch.no_grad, detach or argmax between the two"
    )
