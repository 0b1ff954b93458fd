"""Dice with cross-entropy for segmentation, one value per sample, with deep supervision."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from monai_amat.checks import check_positive
from monai_amat.losses.base import PerSampleLoss, full_precision

Activation = Literal["softmax", "sigmoid"]
DiceOver = Literal["all", "present"]


class DiceCELoss(PerSampleLoss):
    r"""Soft Dice loss plus cross-entropy, per sample; terms `"dice"` and `"ce"`, judged on their total.

    $$
    L_i = \sum_h w_h \Big[ 1 - \frac1{|K|} \sum_{k \in K} \frac{2 \sum_v p_{kv} t_{kv} + s}
          {\sum_v p_{kv} + \sum_v t_{kv} + s} \;-\; \frac1V \sum_v \sum_c t_{cv} \log p_{cv} \Big]
    $$

    over the pixels v of sample i, the foreground classes K and the heads h. This is the loss of nnU-Net with the Dice
    per sample (not over the batch), and MONAI's `DiceCELoss(include_background=False)` for a batch of one. nnU-Net has
    minus Dice instead of one minus Dice, so thresholds differ by the weight of Dice.

    - *softmax*: `target` is a label map `(B, 1, *spatial)` or one-hot (also soft) `(B, C, *spatial)`, for logits
      with C > 1 channels; class 0 is background.
    - *sigmoid*: `target` is `(B, C, *spatial)` in 0..1; every channel is a foreground class; the cross-entropy is
      the binary one, averaged over pixels and channels.

    *Deep supervision.* Heads are stacked, `(B, H, C, *spatial)`, as `DynUNet` of MONAI returns them in training mode,
    or a list or tuple, full resolution first. A head of lower resolution is compared with the target at its resolution,
    by nearest neighbour; all sums, and the classes present, are those of that target. Head weights are `1/2^i`,
    normalised to sum 1. nnU-Net gives its lowest head the weight zero; build the network without that head instead.

    All computations are in float32, also under autocast, or in float64 if the logits are float64.

    Args:
        activation: `"softmax"` or `"sigmoid"`.
        dice_over: `"all"` averages Dice over all foreground classes, as the authors do: with a small `smooth`, the Dice
            of an absent class is about 0 if anything is predicted. `"present"` averages over the classes that are
            present in the truth of the sample, so that absent ones count only in cross-entropy; if none is present, the
            Dice term is 0.
        smooth: s above, greater than 0.
        weights: weights of `"dice"` and `"ce"` in the total, 1 each by default.
        head_weights: one weight per head, full resolution first, instead of `1/2^i`; normalised as well, so that the
            scale of the loss does not depend on the number of heads. Not used if the network returns a single tensor.

    Raises:
        ValueError: if a setting is out of range.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> logits = torch.randn(2, 3, 8, 8, requires_grad=True)
        >>> labels = torch.randint(0, 3, (2, 1, 8, 8))
        >>> loss = DiceCELoss()
        >>> loss(logits, labels).shape
        torch.Size([2])
        >>> {name: tuple(term.shape) for name, term in loss.terms(logits, labels).items()}
        {'dice': (2,), 'ce': (2,)}
        >>> heads = torch.stack([logits, logits], dim=1)  # (B, H, C, *spatial)
        >>> torch.allclose(loss(heads, labels), loss(logits, labels))
        True
    """

    def __init__(
        self,
        *,
        activation: Activation = "softmax",
        dice_over: DiceOver = "all",
        smooth: float = 1e-5,
        weights: Mapping[str, float] | None = None,
        head_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__(weights=weights)
        for name, value, allowed in (("activation", activation, Activation), ("dice_over", dice_over, DiceOver)):
            if value not in get_args(allowed):
                raise ValueError(f"{name} must be one of {get_args(allowed)}, got {value!r}")
        check_positive("smooth", smooth)  # an empty class would be 0/0
        if unknown := self.weights.keys() - {"dice", "ce"}:
            raise ValueError(f"weights must name terms of ['dice', 'ce'], got {sorted(unknown)}")
        self.activation = activation
        self.dice_over = dice_over
        self.smooth = smooth
        self.head_weights = None if head_weights is None else tuple(float(weight) for weight in head_weights)
        if self.head_weights is not None and not (
            all(math.isfinite(weight) and weight >= 0 for weight in self.head_weights) and sum(self.head_weights) > 0
        ):
            raise ValueError(f"head_weights must be finite, at least 0 and not all 0, got {self.head_weights}")

    def terms(self, pred: Any, target: Tensor) -> dict[str, Tensor]:
        """Dice and cross-entropy of each sample, summed over the heads.

        Args:
            pred: logits `(B, C, *spatial)`, stacked heads `(B, H, C, *spatial)`, or a list or tuple of heads;
                two or three spatial dimensions.
            target: label map or channels, see the class; any dtype.

        Returns:
            `{"dice": (B,), "ce": (B,)}`: 0 is best; Dice is at most 1.

        Raises:
            TypeError: if `target` is not a tensor, `pred` neither tensor, list nor tuple, or the logits integers.
            ValueError: if shapes do not fit, or a value of `target` is out of range. The latter is checked only on the
                CPU: on an accelerator the check would wait for the device, so there the loss of the sample becomes NaN.
        """
        heads = [full_precision(head) for head in _heads(pred, target)]
        _check_shapes(heads, target, self.activation)
        full = self._truth(target.as_subclass(Tensor), heads[0])
        dice, ce = [], []
        for weight, head in zip(self._weights(heads), heads, strict=True):
            size = head.shape[2:]
            truth = full if size == full.shape[2:] else functional.interpolate(full, size=size, mode="nearest-exact")
            head_dice, head_ce = self._dice_ce(head, truth)
            dice.append(weight * head_dice)
            ce.append(weight * head_ce)
        return {"dice": torch.stack(dice).sum(0), "ce": torch.stack(ce).sum(0)}

    def prediction(self, pred: Any, target: Tensor) -> Tensor:
        """Return the head of full resolution, `(B, C, *spatial)`."""
        return _heads(pred, target)[0]

    def _weights(self, heads: Sequence[Tensor]) -> list[float]:
        """One weight per head, with sum 1."""
        raw = [0.5**i for i in range(len(heads))]
        if self.head_weights is not None and len(heads) > 1:
            if len(self.head_weights) != len(heads):
                raise ValueError(
                    f"head_weights must have one weight per head, {len(heads)}, got {len(self.head_weights)}"
                )
            raw = list(self.head_weights)
        return [weight / sum(raw) for weight in raw]

    def _truth(self, target: Tensor, head: Tensor) -> Tensor:
        """The target as `(B, C, *spatial)` in the dtype of the logits, its values checked."""
        channels = head.shape[1]
        if self.activation == "sigmoid":
            truth = target.to(head.dtype)
            return _checked(truth, ((truth >= 0) & (truth <= 1)).all(1, keepdim=True), target, "lie in 0..1")
        if target.shape[1] == 1:
            # Compared, not scattered, because a label outside of the classes would be a device assertion without
            # message.
            hits = target == torch.arange(channels, device=target.device).view(-1, *[1] * (target.ndim - 2))
            rule = f"be whole class labels in 0..{channels - 1}"
            return _checked(hits.to(head.dtype), hits.any(1, keepdim=True), target, rule)
        truth = target.to(head.dtype)
        # Wide enough for soft labels that were stored in bfloat16.
        sums_to_one = (truth.sum(1, keepdim=True) - 1).abs() < 1e-2
        rule = "be class probabilities (one-hot or soft), at least 0 and of sum 1 over the channels"
        return _checked(truth, (truth >= 0).all(1, keepdim=True) & sums_to_one, target, rule)

    def _dice_ce(self, head: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        """Dice loss and cross-entropy of one head, `(B,)` each."""
        if self.activation == "softmax":
            log_probability = functional.log_softmax(head, dim=1)
            # Not nll_loss, which is not deterministic on CUDA.
            ce = -(truth * log_probability).sum(1).flatten(1).mean(1)
            probability, truth = log_probability[:, 1:].exp(), truth[:, 1:]
        else:
            ce = functional.binary_cross_entropy_with_logits(head, truth, reduction="none").flatten(1).mean(1)
            probability = torch.sigmoid(head)
        pixels = tuple(range(2, head.ndim))
        overlap, true = (probability * truth).sum(pixels), truth.sum(pixels)
        dice = 1 - (2 * overlap + self.smooth) / (probability.sum(pixels) + true + self.smooth)
        if self.dice_over == "all":
            return dice.mean(1), ce
        present = true > 0
        return (dice * present).sum(1) / present.sum(1).clamp(min=1), ce


def _heads(pred: Any, target: Tensor) -> list[Tensor]:
    """The heads of a prediction, full resolution first."""
    if not isinstance(target, Tensor):
        raise TypeError(f"target must be a tensor (B, channels, *spatial), got {type(target).__name__}")
    if isinstance(pred, Tensor):
        return list(pred.unbind(1)) if pred.ndim == target.ndim + 1 else [pred]
    if isinstance(pred, list | tuple) and pred and all(isinstance(head, Tensor) for head in pred):
        return list(pred)
    raise TypeError(
        f"pred must be logits (B, C, *spatial), stacked heads (B, H, C, *spatial) or a non-empty list or tuple of "
        f"heads, got {type(pred).__name__}"
    )


def _check_shapes(heads: Sequence[Tensor], target: Tensor, activation: Activation) -> None:
    """Refuse shapes that do not fit, before they broadcast into something else."""
    shapes = f"logits {[tuple(head.shape) for head in heads]}, target {tuple(target.shape)}"
    if target.ndim not in (4, 5):
        raise ValueError(f"target must be (B, channels, *spatial) with 2 or 3 spatial dimensions, got {shapes}")
    batch, channels = target.shape[0], heads[0].shape[1] if heads[0].ndim > 1 else 0
    for head in heads:
        if not head.is_floating_point():
            raise TypeError(f"pred must hold floating-point logits, got {head.dtype}")
        if head.ndim != target.ndim or head.shape[:2] != (batch, channels):
            raise ValueError(
                f"logits must be (B, C, *spatial) with B and spatial dimensions as in target, got {shapes}"
            )
        if any(size > full for size, full in zip(head.shape[2:], target.shape[2:], strict=True)):
            raise ValueError(f"no head may be larger than the target, got {shapes}")
    if heads[0].shape[2:] != target.shape[2:]:
        raise ValueError(f"the first head must have the spatial size of the target, got {shapes}")
    if activation == "softmax" and channels < 2:
        raise ValueError(f"softmax needs at least 2 channels, background first, got {shapes}; use activation='sigmoid'")
    expected = (channels,) if activation == "sigmoid" else (1, channels)
    if target.shape[1] not in expected:
        raise ValueError(
            f"target must have {' or '.join(map(str, expected))} channels for {activation} over {channels}, got "
            f"{shapes}"
        )


def _checked(truth: Tensor, valid: Tensor, target: Tensor, rule: str) -> Tensor:
    """Return `truth` if all of `valid` `(B, 1, *spatial)` is True; otherwise see `DiceCELoss.terms`."""
    if target.device.type != "cpu":
        return truth.masked_fill(~valid, math.nan)
    if not bool(valid.all()):
        wrong = ~valid
        rows = wrong.flatten(1).any(1).nonzero().flatten().tolist()
        found = sorted(set(target[wrong.expand_as(target)].tolist()))[:8]
        raise ValueError(
            f"values of target {tuple(target.shape)} must {rule}, got others in samples {rows} of the batch, among "
            f"them {found}"
        )
    return truth
