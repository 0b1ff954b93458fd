"""Notes beside a table and a curve: what ε means per value of the image, and how far the intervals can be relied on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from monai.inferers import SlidingWindowInferer

from monai_amat.robustness.resampling import few_groups

__all__ = ["noise_label", "noise_rms", "reading_notes"]


def noise_label(norm: str | None) -> str:
    """The name of the noise level on an axis, where the report gives none.

    Example:
        >>> noise_label("L2")
        'noise level ε (L2 norm over the whole image)'
    """
    return f"noise level ε ({norm} norm over the whole image)" if norm else "noise level ε"


def noise_rms(rows: pd.DataFrame) -> dict[float, float]:
    r"""Mean over samples of the noise's root mean square per value, $\sqrt{\frac{1}{n}\sum_j (\tilde x_j - x_j)^2}$.

    Args:
        rows: of `RobustnessCurve`.

    Returns:
        by noise level, in the units of the network's input; empty where the rows have no column `noise_rms`.

    Example:
        >>> noise_rms(pd.DataFrame({"noise_level": [2.0, 2.0], "noise_rms": [0.5, 0.25]}))
        {2.0: 0.375}
    """
    if "noise_rms" not in rows.columns:
        return {}
    means = rows.groupby("noise_level")["noise_rms"].mean().reset_index()
    return dict(means.to_numpy(dtype=np.float64).tolist())


def reading_notes(rows: pd.DataFrame, *, group_key: str, norm: str | None = None, inferer: Any = None) -> list[str]:
    """What a reader of the figures needs to know, one sentence each.

    Args:
        rows: of `RobustnessCurve`.
        group_key: column that intervals are resampled by.
        norm: of the attack, such as `L2`.
        inferer: how the network was applied.

    Example:
        >>> rows = pd.DataFrame({"noise_level": [0.0, 2.0], "noise_rms": [0.0, 0.25], "case": ["a", "b"]})
        >>> for note in reading_notes(rows, group_key="case", norm="L2"):
        ...     print(note)
        ε is the L2 norm over all values of an image; root mean square of the noise per value: ε 2: 0.25.
        The intervals rest on 2 groups: so few make intervals too narrow, and cannot rank arms.
    """
    notes = []
    levels = ", ".join(f"ε {level:g}: {value:.3g}" for level, value in noise_rms(rows).items() if level)
    if levels:
        norm_text = f"the {norm} norm" if norm else "the norm"
        notes.append(
            f"ε is {norm_text} over all values of an image; root mean square of the noise per value: {levels}."
        )
    if isinstance(inferer, SlidingWindowInferer):
        sizes = np.atleast_1d(inferer.roi_size)
        notes.append(
            f"The network was applied to windows of {'×'.join(map(str, sizes))}, but ε is over the whole image: a "
            "network trained at this ε on windows of that size has seen more noise per value."
        )
    if note := few_groups(rows[group_key].nunique()):
        notes.append(note)
    return notes
