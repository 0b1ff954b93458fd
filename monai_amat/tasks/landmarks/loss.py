"""The loss of heat maps and offsets for landmark detection: three terms, one value per sample."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from monai_amat.checks import check_positive
from monai_amat.losses.base import PerSampleLoss, full_precision

__all__ = ["HeatmapBCE", "HeatmapDice", "HeatmapOffsetLoss", "HeatmapTerm"]

_TERMS = ("heatmap", "offset_y", "offset_x")


class HeatmapTerm(ABC):
    """A comparison of predicted and true heat maps: `term(logits, heat) -> (B, L)`.

    Args:
        weight: weight of the heat-map term in the total, finite and at least 0.
    """

    def __init__(self, *, weight: float) -> None:
        self.weight = weight

    @abstractmethod
    def __call__(self, logits: Tensor, heat: Tensor) -> Tensor:
        """Compare all maps.

        Args:
            logits: `(B, L, H, W)`.
            heat: `(B, L, H, W)`, the Gaussian inside the disc, 0 outside; for a map without disc the result may be any
                finite value.

        Returns:
            `(B, L)`, 0 is best.
        """


class HeatmapDice(HeatmapTerm):
    r"""Soft Dice loss of the disc, $1 - \frac{2 \sum_v p_v m_v + s}{\sum_v p_v + \sum_v m_v + s}$: "STD(Dice)".

    Args:
        smooth: s above, greater than 0.
        weight: weight of the heat-map term in the total; ½ in the code of the authors.

    Raises:
        ValueError: if `smooth` is not greater than 0.

    Example:
        >>> heat = torch.tensor([[[[0.8, 0.0]]]])
        >>> HeatmapDice()(torch.tensor([[[[0.0, -100.0]]]]), heat)  # half of the disc is found, and nothing else
        tensor([[0.3333]])
    """

    def __init__(self, *, smooth: float = 1e-5, weight: float = 0.5) -> None:
        super().__init__(weight=weight)
        check_positive("smooth", smooth)
        self.smooth = smooth

    def __call__(self, logits: Tensor, heat: Tensor) -> Tensor:
        """Return the loss of each map, `(B, L)` in 0..1."""
        probability, disc = torch.sigmoid(logits).flatten(2), (heat > 0).to(logits.dtype).flatten(2)
        overlap = (probability * disc).sum(-1)
        return 1 - (2 * overlap + self.smooth) / (probability.sum(-1) + disc.sum(-1) + self.smooth)


class HeatmapBCE(HeatmapTerm):
    """Binary cross-entropy with the Gaussian, averaged over all pixels: "STD(BCE)", the loss of Yao et al.

    Its smallest value is the entropy of the Gaussian, not 0.

    Args:
        weight: weight of the heat-map term in the total; 2 in the code of the authors.

    Example:
        >>> HeatmapBCE()(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2))
        tensor([[0.6931]])
    """

    def __init__(self, *, weight: float = 2.0) -> None:
        super().__init__(weight=weight)

    def __call__(self, logits: Tensor, heat: Tensor) -> Tensor:
        """Return the loss of each map, `(B, L)`, at least 0."""
        entropy = functional.binary_cross_entropy_with_logits(logits, heat.to(logits.dtype), reduction="none")
        return entropy.flatten(2).mean(-1)


class HeatmapOffsetLoss(PerSampleLoss):
    r"""The loss of the multi-task U-Net (section 3.2), per sample; judged on each of its three terms.

    - `"heatmap"`: a `HeatmapTerm`, averaged over the landmarks of the sample; it has its own weight in the total
      (Dice ½, cross-entropy 2).
    - `"offset_y"`, `"offset_x"`: $\sum_{l, v} m_{lv} |\hat o_{lv} - o_{lv}| / \sum_{l, v} m_{lv}$, the L1
      distance averaged over the pixels in the discs of all landmarks of the sample.

    A landmark that is missing or outside of the image has maps of zeros and counts in no term; for a sample without any
    landmark all three terms are 0. The disc is where the true heat is greater than 0.

    `pred` and the maps are `(B, 3·L, H, W)`: channels 0 to L-1 heat (`pred` as logits), L to 2·L-1 offsets along
    y, 2·L to 3·L-1 along x, as `LandmarkMapsd` makes them. All computations are in float32, also under autocast, or in
    float64 if `pred` is float64.

    Args:
        heatmap: `HeatmapDice` (default) or `HeatmapBCE`.
        weights: weights of the terms in the total, instead of that of the heat map and 1 for the offsets.

    Raises:
        ValueError: if a weight is out of range or names another term.

    Example:
        >>> maps = torch.zeros(2, 3, 4, 4)  # one landmark, missing in sample 1
        >>> maps[0, 0, 1, 1] = 1.0
        >>> pred = torch.full((2, 3, 4, 4), 0.25)
        >>> loss = HeatmapOffsetLoss()
        >>> {name: [round(value, 4) for value in term.tolist()] for name, term in loss.terms(pred, maps).items()}
        {'heatmap': [0.8875, 0.0], 'offset_y': [0.25, 0.0], 'offset_x': [0.25, 0.0]}
        >>> [round(value, 4) for value in loss(pred, {"maps": maps}).tolist()]
        [0.9438, 0.0]
    """

    def __init__(self, *, heatmap: HeatmapTerm | None = None, weights: Mapping[str, float] | None = None) -> None:
        term = HeatmapDice() if heatmap is None else heatmap
        super().__init__(weights={"heatmap": term.weight, **(weights or {})}, judged=_TERMS)
        if unknown := self.weights.keys() - set(_TERMS):
            raise ValueError(f"weights must name terms of {list(_TERMS)}, got {sorted(unknown)}")
        self.heatmap = term

    def extra_repr(self) -> str:
        """Name the heat-map term, which distinguishes two such losses."""
        return f"heatmap={type(self.heatmap).__name__}"

    def terms(self, pred: Tensor, target: Tensor | Mapping[str, Any]) -> dict[str, Tensor]:
        """Compute the heat-map term and both offset terms of each sample.

        Args:
            pred: output of the network, `(B, 3·L, H, W)`.
            target: the true maps `(B, 3·L, H, W)`, or a dictionary with these maps under `"maps"`, as
                `monai_amat.engines.PrepareBatchTargets` makes it.

        Returns:
            `{"heatmap": (B,), "offset_y": (B,), "offset_x": (B,)}`.

        Raises:
            KeyError: if `target` is a dictionary without `"maps"`.
            TypeError: if `pred` or the maps are not tensors, or `pred` holds integers.
            ValueError: if their shapes do not fit.
        """
        maps = _maps(target)
        _check(pred, maps)
        logits, *offsets = full_precision(pred).chunk(3, dim=1)
        heat, *true_offsets = full_precision(maps).to(logits.dtype).chunk(3, dim=1)
        disc = heat > 0
        present = disc.flatten(2).any(-1)
        # where, not a product: a value that is not finite must not spread from a map that does not count.
        scores = torch.where(present, self.heatmap(logits, heat), 0.0)
        terms = {"heatmap": scores.sum(1) / present.sum(1).clamp(min=1)}
        pixels = disc.flatten(1).sum(1).clamp(min=1)
        for name, offset, truth in zip(_TERMS[1:], offsets, true_offsets, strict=True):
            terms[name] = torch.where(disc, (offset - truth).abs(), 0.0).flatten(1).sum(1) / pixels
        return terms


def _maps(target: Any) -> Any:
    if not isinstance(target, Mapping):
        return target
    if "maps" not in target:
        raise KeyError(
            f"HeatmapOffsetLoss needs 'maps' in the target, got {sorted(map(str, target))}; make the maps with "
            "LandmarkMapsd, and name them in the targets of PrepareBatchTargets"
        )
    return target["maps"]


def _check(pred: Any, maps: Any) -> None:
    for name, value in (("pred", pred), ("the target", maps)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a tensor (B, 3·L, H, W) of maps, got {type(value).__name__}")
    if not pred.is_floating_point():
        raise TypeError(f"pred must hold floating-point logits and offsets, got {pred.dtype}")
    if pred.shape != maps.shape or pred.ndim != 4 or pred.shape[1] % 3:
        raise ValueError(
            f"pred and the true maps must have one shape (B, 3·L, H, W), got {tuple(pred.shape)} and "
            f"{tuple(maps.shape)}; make "
            "the maps at the image size of the network, and build the network for as many landmarks"
        )
