"""ADI and TVDI: voxel counts of each sample, and both Dice indices of any set of samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from monai_amat.tasks.segmentation.overlap import Prediction, average_dice, dice_counts, foreground_classes, total_dice

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["DiceIndexMetric"]


class DiceIndexMetric:
    r"""The Dice indices of a segmentation, ADI and TVDI, as a `monai_amat.handlers.Metric`.

    With the voxel counts of sample i and foreground class c,

    $$D_{i,c} = \frac{2\,TP_{i,c}}{2\,TP_{i,c} + FP_{i,c} + FN_{i,c}},$$

    ADI (the paper, equation 2) is the mean over samples of the mean over classes of $D_{i,c}$. TVDI sums the counts
    over all samples first; nnU-Net reports it as Dice. Higher is better.

    Args:
        num_classes: output channels of the network; the background among them with `softmax`.
        prediction: what the channels are.

    Raises:
        ValueError: when no channel is left for a foreground class.

    Example:
        >>> import pandas as pd
        >>> metric = DiceIndexMetric(num_classes=2)
        >>> columns = metric.columns(torch.tensor([[[3.0, 1.0], [0.0, 2.0]]]), torch.tensor([[[1, 1]]]))
        >>> {name: values.tolist() for name, values in columns.items()}
        {'tp_1': [1], 'fp_1': [0], 'fn_1': [1]}
        >>> round(metric.summary(pd.DataFrame(columns))["adi"], 4)
        0.6667
    """

    def __init__(self, *, num_classes: int, prediction: Prediction = "softmax") -> None:
        self.num_classes = num_classes
        self.prediction: Prediction = prediction
        self._classes = foreground_classes(num_classes, prediction)

    def columns(self, pred: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Voxel counts of each sample.

        Args:
            pred: `(B, num_classes, *spatial)`, logits or one-hot.
            target: label map `(B, 1, *spatial)` or one-hot.

        Returns:
            `tp_c`, `fp_c` and `fn_c` for each foreground class c from 1, each `(B,)` int64.
        """
        counts = dice_counts(pred, target, self._classes, prediction=self.prediction)
        return {name: counts[:, c, part] for name, c, part in self._names()}

    def summary(self, rows: pd.DataFrame, weights: np.ndarray | None = None) -> dict[str, Any]:
        """Both indices over `rows`.

        Args:
            rows: one row per sample, with the columns of `columns`.
            weights: `(*R, rows)`, how often each row counts; once by default.

        Returns:
            `adi` (over samples with any foreground in their truth), `adi_every_class` (over samples with every
            foreground class, as the authors' code does), `tvdi`, and `adi_c` and `tvdi_c` of each class c; floats, or
            with weights arrays `(*R)`. NaN where no row counts.
        """
        columns = [rows[name].to_numpy() for name, _, _ in self._names()]
        counts = torch.from_numpy(np.stack(columns, axis=1).reshape(len(rows), self._classes, 3))
        shares = None if weights is None else torch.from_numpy(np.asarray(weights, dtype=np.float64))
        adi = average_dice(counts, weights=shares)
        every = average_dice(counts, slices="every", weights=shares)
        tvdi = total_dice(counts, weights=shares)
        named = {"adi": adi.mean, "adi_every_class": every.mean, "tvdi": tvdi.mean}
        for kind, index in (("adi", adi), ("tvdi", tvdi)):
            named |= {f"{kind}_{c + 1}": index.per_class[..., c] for c in range(self._classes)}
        return {name: value.item() if weights is None else value.numpy() for name, value in named.items()}

    def higher_is_better(self, figure: str | None = None) -> bool:
        """True of every figure."""
        return True

    def _names(self) -> list[tuple[str, int, int]]:
        parts = ("tp", "fp", "fn")
        return [(f"{part}_{c + 1}", c, p) for c in range(self._classes) for p, part in enumerate(parts)]
