"""Distances between predicted and true landmarks in mm, and their figures: MRE and SDR."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from monai_amat.checks import check_positive, check_within
from monai_amat.tasks.landmarks.network.decoding import decode_landmarks

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["LandmarkErrors", "RadialErrorMetric", "landmark_errors", "point_errors", "pooled", "radial_error"]


class LandmarkErrors(NamedTuple):
    """The distance of each landmark of some samples from its truth.

    Args:
        error: `(N, L)` in mm, float64; the image's diagonal where there is no peak, NaN where there is no truth.
        no_peak: `(N, L)` bool, where there is a truth but the heat map has no peak.
    """

    error: Tensor
    no_peak: Tensor

    def within(self, threshold: float) -> Tensor:
        """100 where a landmark is detected within `threshold` mm, 0 where not, NaN without truth: `(N, L)`.

        Less than the threshold, as in the challenge of ISBI 2015. Without a peak nothing is detected, however small
        the image.
        """
        hit = (self.error < threshold) & ~self.no_peak
        return torch.where(self.error.isnan(), torch.nan, 100.0 * hit.double())


def radial_error(points: Tensor, landmarks: Tensor, spacing: Tensor) -> Tensor:
    """Euclidean distance of each predicted point from its landmark.

    Args:
        points: predicted, `(B, L, 2)` in pixels, (y, x).
        landmarks: true, `(B, L, 2)` in the same pixels.
        spacing: `(B, 2)`, mm per pixel along (y, x).

    Returns:
        `(B, L)` in mm, float64; NaN where one of the two is NaN.

    Raises:
        ValueError: when the shapes do not fit.

    Example:
        >>> radial_error(torch.zeros(1, 1, 2), torch.tensor([[[3.0, 8.0]]]), torch.tensor([[1.0, 0.5]]))
        tensor([[5.]], dtype=torch.float64)
    """
    if points.ndim != 3 or points.shape[2:] != (2,) or landmarks.shape != points.shape:
        raise ValueError(
            f"predicted and true landmarks must both be (B, L, 2), got {tuple(points.shape)} and "
            f"{tuple(landmarks.shape)}"
        )
    if spacing.shape != (len(points), 2):
        raise ValueError(f"spacing must be ({len(points)}, 2), mm along (y, x) per sample, got {tuple(spacing.shape)}")
    gap = points.as_subclass(Tensor).double() - landmarks.as_subclass(Tensor).to(points.device).double()
    return (gap * spacing.as_subclass(Tensor).to(points.device).double()[:, None]).norm(dim=-1)


def landmark_errors(
    pred: Tensor, target: Mapping[str, Any], *, landmarks: int, relative_radius: float = 0.05
) -> LandmarkErrors:
    """Decode a batch and measure it.

    A heat map without a peak (see `decode_landmarks`) counts with the diagonal of the image, the largest error that any
    point of the image could have: a network without an answer must not score better than one that guesses.

    Args:
        pred: what the network returned, `(B, 3·landmarks, H, W)`, heat as logits.
        target: `"landmarks"` `(B, landmarks, 2)` in pixels of the maps, NaN where missing, and `"spacing"`
            `(B, 2)`, mm per such pixel, both (y, x).
        landmarks: number of landmarks L.
        relative_radius: R of the maps that the network was trained on, as a share of their height.

    Raises:
        KeyError: for a target that lacks one of both.
        ValueError: when the shapes do not fit.
    """
    if pred.ndim != 4 or pred.shape[1] != 3 * landmarks:
        raise ValueError(
            f"{landmarks} landmarks need maps (B, {3 * landmarks}, H, W), got a prediction {tuple(pred.shape)}"
        )
    if missing := [name for name in ("landmarks", "spacing") if name not in target]:
        raise KeyError(
            f"radial errors need the target's {missing}, got a target with {sorted(map(str, target))}; "
            "name them in the targets of PrepareBatchTargets"
        )
    points = decode_landmarks(pred, relative_radius * pred.shape[2])
    return point_errors(points, target["landmarks"], target["spacing"], size=pred.shape[2:])


def point_errors(points: Tensor, landmarks: Tensor, spacing: Tensor, *, size: Sequence[int]) -> LandmarkErrors:
    """Measure decoded points; one that is NaN counts with the diagonal of the image, see `landmark_errors`.

    Args:
        points: `(B, L, 2)` in pixels, (y, x), NaN where a heat map had no peak.
        landmarks: `(B, L, 2)`, NaN where there is no truth.
        spacing: `(B, 2)`, mm per pixel along (y, x).
        size: height and width of the image in pixels.

    Example:
        >>> found = torch.tensor([[[3.0, 4.0], [torch.nan, torch.nan]]])
        >>> point_errors(found, torch.zeros(1, 2, 2), torch.ones(1, 2), size=(30, 40)).error.tolist()
        [[5.0, 50.0]]
    """
    error = radial_error(points, landmarks, spacing)
    there = landmarks.as_subclass(Tensor).to(points.device).isfinite().all(-1)
    no_peak = there & points.isnan().any(-1)
    steps = spacing.as_subclass(Tensor).to(points.device).double()
    diagonal = (steps * steps.new_tensor(size)).norm(dim=-1)
    return LandmarkErrors(torch.where(no_peak, diagonal[:, None], error), no_peak)


def pooled(values: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean over all landmarks of all samples, and over the samples for each landmark; NaN does not count.

    Args:
        values: `(N, L)`.
        weights: `(*R, N)`, how often each sample counts; once by default.

    Returns:
        `(*R)` and `(*R, L)`, float64; NaN where nothing counts.

    Example:
        >>> pooled(torch.tensor([[1.0, 2.0], [5.0, torch.nan]]))[0].item()
        2.6666666666666665
    """
    table = values.double()
    shares = table.new_ones(len(table)) if weights is None else weights.to(table.device, torch.float64)
    sums, counts = shares @ table.nan_to_num(nan=0.0), shares @ (~table.isnan()).double()
    return sums.sum(-1) / counts.sum(-1), sums / counts


class RadialErrorMetric:
    """MRE and SDR of a landmark network (the paper, section 3.2), as a `monai_amat.handlers.Metric`.

    Figures are over all landmarks of all samples that have a truth. **MRE is an error: lower is better**; of the
    detection rates higher is better. A heat map without a peak counts with the image's diagonal in the MRE and as a
    miss in every rate; `no_peak` is the share of such heat maps.

    Args:
        landmarks: number of landmarks L.
        relative_radius: R of the maps that the network was trained on, as a share of their height; that of
            `LandmarkMapsd`.
        thresholds: distances in mm for the detection rates.

    Raises:
        ValueError: if a setting is out of range.

    Example:
        >>> import pandas as pd
        >>> pred = torch.zeros(1, 3, 40, 40)
        >>> pred[0, 0, 10:12, 20:23] = 5.0  # pixels of a disc, whose votes say nothing but "here": the first one wins
        >>> target = {"landmarks": torch.tensor([[[13.0, 24.0]]]), "spacing": torch.tensor([[0.5, 0.5]])}
        >>> metric = RadialErrorMetric(landmarks=1)
        >>> columns = metric.columns(pred, target)
        >>> {name: values.tolist() for name, values in columns.items()}
        {'error_1': [2.5], 'no_peak_1': [0]}
        >>> summary = metric.summary(pd.DataFrame(columns))
        >>> summary["mre"], summary["sdr_2"], summary["sdr_3"]
        (2.5, 0.0, 100.0)
    """

    def __init__(
        self, *, landmarks: int, relative_radius: float = 0.05, thresholds: Sequence[float] = (2.0, 2.5, 3.0, 4.0)
    ) -> None:
        check_within("landmarks", landmarks, 1)
        check_positive("relative_radius", relative_radius)
        if not thresholds or not all(0 < threshold < math.inf for threshold in thresholds):
            raise ValueError(f"thresholds must be finite distances in mm, greater than 0, got {tuple(thresholds)}")
        self.landmarks = landmarks
        self.relative_radius = relative_radius
        self.thresholds = tuple(float(threshold) for threshold in thresholds)

    def columns(self, pred: Tensor, target: Mapping[str, Any]) -> dict[str, Tensor]:
        """Errors of every sample.

        Args:
            pred: what the network returned, `(B, 3·L, H, W)`.
            target: see `landmark_errors`.

        Returns:
            for each landmark l from 1 `error_l` in mm, float64, NaN where it has no truth, and `no_peak_l`, 1
            where its heat map has no peak, int64; each `(B,)`.
        """
        errors = landmark_errors(pred, target, landmarks=self.landmarks, relative_radius=self.relative_radius)
        columns = {name: errors.error[:, i] for i, name in enumerate(self._names("error"))}
        return columns | {name: errors.no_peak[:, i].long() for i, name in enumerate(self._names("no_peak"))}

    def summary(self, rows: pd.DataFrame, weights: np.ndarray | None = None) -> dict[str, Any]:
        """All figures over `rows`.

        Args:
            rows: one row per sample, with the columns of `columns`.
            weights: `(*R, rows)`, how often each row counts; once by default.

        Returns:
            `mre` in mm, `sdr_2`, `sdr_2.5`, … in percent of the landmarks, `no_peak` in percent, and
            `mre_l`, `sdr_2_l`, … of each landmark l; floats, or with weights arrays `(*R)`. NaN where nothing
            counts.
        """
        error, no_peak = (
            torch.from_numpy(np.stack([rows[name].to_numpy(np.float64) for name in self._names(kind)], axis=1))
            for kind in ("error", "no_peak")
        )
        errors = LandmarkErrors(error, no_peak > 0)
        shares = None if weights is None else torch.from_numpy(np.asarray(weights, dtype=np.float64))
        tables = {"mre": error} | {f"sdr_{threshold:g}": errors.within(threshold) for threshold in self.thresholds}
        means = {name: pooled(table, shares) for name, table in tables.items()}
        figures = {name: overall for name, (overall, _) in means.items()}
        figures["no_peak"] = pooled(torch.where(error.isnan(), torch.nan, 100 * no_peak), shares)[0]
        for name, (_, each) in means.items():
            figures |= {f"{name}_{i + 1}": each[..., i] for i in range(self.landmarks)}
        return {name: value.item() if weights is None else value.numpy() for name, value in figures.items()}

    def higher_is_better(self, figure: str | None = None) -> bool:
        """True of the detection rates, False of `mre` (the headline), `no_peak` and the errors of each landmark."""
        return figure is not None and figure.startswith("sdr_")

    def _names(self, kind: str) -> list[str]:
        return [f"{kind}_{number}" for number in range(1, self.landmarks + 1)]
