"""The thresholds ξ, one per judged loss term (sections 2.2 and 2.3): fitted and saved, or updated in training."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monai_amat.changes import refuse_changed
from monai_amat.checks import check_within
from monai_amat.files import write_text_whole
from monai_amat.margins.statistics import MeanStd, ThresholdStatistic

__all__ = ["RunningThresholds", "Thresholds"]

_FORMAT = 1


@dataclass(frozen=True)
class Thresholds:
    """ξ by term, and how it was obtained.

    Args:
        values: ξ by term; finite.
        provenance: statistic, number of samples, share of them below every ξ, checkpoint, data set, date …

    Raises:
        ValueError: if there are no terms, or a value is not finite.

    Example:
        >>> thresholds = Thresholds.fit({"total": torch.tensor([1.0, 2.0, 3.0])})
        >>> thresholds.values["total"], round(thresholds.provenance["clean_accepted"], 3)
        (2.0, 0.333)
    """

    values: dict[str, float]
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("thresholds must hold at least one term, got none")
        wrong = {name: value for name, value in self.values.items() if not math.isfinite(value)}
        if wrong:
            raise ValueError(f"thresholds must be finite, got {wrong}; calibrate with a trained network")

    @property
    def ready(self) -> bool:
        """True: fixed thresholds need no warm-up."""
        return True

    @classmethod
    def fit(
        cls,
        losses: Mapping[str, Tensor],
        statistic: ThresholdStatistic | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> Thresholds:
        """ξ from the losses of a trained network on the clean training set (section 2.2).

        Args:
            losses: V by judged term, each `(n,)`.
            statistic: how ξ follows from V; by default the mean, as the paper does for segmentation.
            provenance: more entries to save with the thresholds.

        Raises:
            ValueError: if there are no samples, or a loss is not finite.

        Warns:
            UserWarning: if less than 30 % or more than 90 % of the clean samples are below ξ.
        """
        statistic = MeanStd() if statistic is None else statistic
        arrays = {name: values.detach().cpu().double().numpy() for name, values in losses.items()}
        counts = {len(values) for values in arrays.values()}
        if not counts or 0 in counts:
            raise ValueError("thresholds need the losses of at least one clean sample, got none")
        if len(counts) > 1:
            raise ValueError(
                f"all terms must have the same number of samples, got { {n: len(v) for n, v in arrays.items()} }"
            )
        for name, values in arrays.items():
            if not np.isfinite(values).all():
                bad = np.flatnonzero(~np.isfinite(values))[:5].tolist()
                raise ValueError(
                    f"clean losses must be finite, got NaN or infinity in '{name}' for samples {bad}; check the "
                    "network and the data"
                )
        fitted = {name: statistic(values) for name, values in arrays.items()}
        below = np.stack([arrays[name] < value for name, value in fitted.items()]).all(axis=0)
        share = float(below.mean())
        if not 0.3 <= share <= 0.9:
            warnings.warn(
                f"ξ accepts {share:.0%} of the clean samples; outside 30–90 % margins hardly move, or only grow; look "
                "at the losses by kind of sample, or choose another statistic",
                stacklevel=2,
            )
        return cls(
            fitted,
            {
                "statistic": repr(statistic),
                "samples": counts.pop(),
                "clean_accepted": share,
                "mean": {name: float(values.mean()) for name, values in arrays.items()},
                "std": {name: float(values.std()) for name, values in arrays.items()},
                **(provenance or {}),
            },
        )

    def shifted(self, k: float) -> Thresholds:
        """ξ + k·std(V) for every term: stricter (k < 0) or less strict thresholds from the same clean losses.

        Raises:
            ValueError: if the provenance does not hold the standard deviations.

        Example:
            >>> thresholds = Thresholds.fit({"total": torch.tensor([1.0, 3.0])})
            >>> thresholds.shifted(0.5).values
            {'total': 2.5}
        """
        if k == 0:
            return self
        spread = self.provenance.get("std", {})
        if missing := sorted(self.values.keys() - spread.keys()):
            raise ValueError(
                f"shifted thresholds need the standard deviations of V, got no standard deviation of {missing} in the "
                "provenance; fit the thresholds again with calibrate.json"
            )
        values = {name: value + k * spread[name] for name, value in self.values.items()}
        return Thresholds(values, {**self.provenance, "shifted_by": k})

    def save(self, path: str | Path) -> None:
        """Write the thresholds as JSON; the file is never written in part."""
        content = {"format": _FORMAT, "thresholds": self.values, "provenance": self.provenance}
        write_text_whole(Path(path), json.dumps(content, indent=2, sort_keys=True) + "\n")

    @classmethod
    def load(cls, path: str | Path, expected: Mapping[str, Any] | None = None) -> Thresholds:
        """Read a file that `save` wrote.

        Args:
            path: the file.
            expected: entries of the provenance, such as loss and data set; entries that the file has must be equal.

        Raises:
            FileNotFoundError: if the file does not exist.
            ValueError: if it is not a thresholds file, a value is not finite, or the provenance differs from
                `expected`.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"no thresholds at {path}; fit them first with the bundle's calibrate.json and a trained checkpoint"
            )
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.get("format", _FORMAT) != _FORMAT:
                raise ValueError(f"format must be {_FORMAT}, got {content['format']!r}")
            values = {str(name): float(value) for name, value in content["thresholds"].items()}
            provenance = dict(content.get("provenance", {}))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is not a thresholds file ({error}); fit it again with calibrate.json") from error
        for name, wanted in (expected or {}).items():
            if name not in provenance:
                continue
            refuse_changed(
                path,
                provenance[name],
                json.loads(json.dumps(wanted)),  # as in the file, where a tuple is a list
                "fit the thresholds again with calibrate.json and the settings of the training",
                name=name,
                error=ValueError,
            )
        try:
            return cls(values, provenance)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


class RunningThresholds:
    """ξ from the clean losses that training computes, so that no trained network is needed first.

    ξ = mean + k·std, both as exponential moving averages over the steps. Margins do not move in the first `warmup`
    steps, because the losses of an untrained network are no measure of a trained one.

    While losses fall, the average is above the present losses: samples are accepted at more noise than intended, and
    margins grow to their limit. `lag` is this difference. If it is not small compared with ξ, use thresholds that are
    fitted to a trained network (`Thresholds.fit`).

    Args:
        k: number of standard deviations above the mean.
        momentum: weight of earlier steps, in [0, 1); 0.99 averages over about a hundred steps.
        warmup: number of steps before `ready`, at least 1.

    Raises:
        ValueError: if a setting is out of range.

    Example:
        >>> running = RunningThresholds(momentum=0.5, warmup=2)
        >>> for loss in (4.0, 2.0):
        ...     running.update({"total": torch.tensor([loss, loss])})
        >>> running.ready, round(running.values["total"], 4)
        (True, 2.6667)
        >>> round(running.lag["total"], 4)
        0.4444
    """

    def __init__(self, *, k: float = 0.0, momentum: float = 0.99, warmup: int = 500) -> None:
        check_within("momentum", momentum, 0, 1, without=1)
        check_within("warmup (steps)", warmup, 1)
        self.k = k
        self.momentum = momentum
        self.warmup = warmup
        self.steps = 0
        self._weight = 0.0
        self._moments: dict[str, tuple[float, float]] = {}
        self._twice: dict[str, float] = {}  # the average of the averages

    @property
    def ready(self) -> bool:
        """Whether the warm-up is over."""
        return self.steps >= self.warmup

    @property
    def values(self) -> dict[str, float]:
        """ξ by term, with the bias correction of Adam for the start at zero; empty before the first step."""
        result = {}
        for name, (first, second) in self._moments.items():
            mean = first / self._weight
            result[name] = mean + self.k * math.sqrt(max(second / self._weight - mean**2, 0.0))
        return result

    @property
    def lag(self) -> dict[str, float]:
        """The mean in ξ minus the present losses, by term; negative if losses rise.

        For losses on a straight line this equals the difference between the average of the average and the average.
        """
        return {name: (twice - self._moments[name][0]) / self._weight for name, twice in self._twice.items()}

    def update(self, losses: Mapping[str, Tensor]) -> None:
        """Add the clean losses of one step, by judged term, of all ranks; losses that are not finite are left out."""
        finite = {name: values.detach().cpu().double() for name, values in losses.items()}
        finite = {name: values[torch.isfinite(values)] for name, values in finite.items()}
        if not finite or not all(len(values) for values in finite.values()):
            return
        self.steps += 1
        self._weight = self.momentum * self._weight + (1 - self.momentum)
        for name, values in finite.items():
            first, second = self._moments.get(name, (0.0, 0.0))
            self._moments[name] = (
                self.momentum * first + (1 - self.momentum) * float(values.mean()),
                self.momentum * second + (1 - self.momentum) * float(values.square().mean()),
            )
            mean = self._moments[name][0] / self._weight
            self._twice[name] = self.momentum * self._twice.get(name, 0.0) + (1 - self.momentum) * mean

    def state_dict(self) -> dict[str, Any]:
        """The state as plain numbers."""
        return {
            "steps": self.steps,
            "weight": self._weight,
            "moments": {name: list(moments) for name, moments in self._moments.items()},
            "twice": dict(self._twice),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""
        self.steps = int(state["steps"])
        self._weight = float(state["weight"])
        self._moments = {str(name): (float(m[0]), float(m[1])) for name, m in state["moments"].items()}
        self._twice = {str(name): float(value) for name, value in state["twice"].items()}
