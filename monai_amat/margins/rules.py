"""How a margin E(i) changes after its noisy sample was judged: lines 9–13 of Algorithm 1, and two variants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from monai_amat.checks import check_positive, check_within

__all__ = ["BoundaryRule", "MarginRule", "PaperRule", "PathRule"]


@dataclass(frozen=True, kw_only=True)
class MarginRule:
    r"""Grow the margin of an accepted sample by Δ, refine the margin of a rejected sample.

    $$
    E \leftarrow \begin{cases} E + \Delta & \text{accepted (line 10)}\\
                               (\|\tilde x - x\| + E)/2 & \text{rejected (line 12)}\end{cases}
    $$

    Args:
        step: Δ, the expansion step, in the units of the image; also the initial margin of every sample.
        max_margin: largest margin, at least `step`; None for no limit, as in the paper. The authors' code has limits.
        min_margin: least margin of a rejected sample, in [0, `step`].
        decay: factor on the margin of a rejected sample, in (0, 1]. Noise that is not clipped ends on its sphere, where
            line 12 changes nothing; with a factor below 1 margins shrink there too.

    Two class attributes describe what the rule needs from the training: `judges_path`, whether a sample counts as
    accepted only if every iterate of its attack was accepted; `by_epoch`, whether margins move once per epoch.

    Raises:
        ValueError: if a setting is out of range.

    Example:
        >>> rule = PaperRule(step=2.5)
        >>> rule(torch.tensor([5.0, 5.0]), torch.tensor([True, False]), torch.tensor([5.0, 3.0]))
        tensor([7.5000, 4.0000])
    """

    judges_path: ClassVar[bool] = False
    by_epoch: ClassVar[bool] = False

    step: float
    max_margin: float | None = None
    min_margin: float = 0.0
    decay: float = 1.0

    def __post_init__(self) -> None:
        check_positive("step (Δ)", self.step)
        if self.max_margin is not None:
            check_within("max_margin", self.max_margin, self.step)
        check_within("min_margin", self.min_margin, 0, self.step)
        check_within("decay", self.decay, 0, 1, without=0)

    def __call__(self, margin: Tensor, accepted: Tensor, noise_norm: Tensor) -> Tensor:
        """New margins.

        Args:
            margin: `(n,)` E(i), in the units of the image.
            accepted: `(n,)` bool.
            noise_norm: `(n,)` size of the noise that was judged, in the units of the image.

        Returns:
            `(n,)`; rejected margins are at least `min_margin`, all are at most `max_margin`.
        """
        enlarged = margin + self.step  # line 10
        refined = (self.decay * (noise_norm + margin) / 2).clamp_min(self.min_margin)  # line 12
        changed = torch.where(accepted, enlarged, refined)
        return changed if self.max_margin is None else changed.clamp_max(self.max_margin)


@dataclass(frozen=True, kw_only=True)
class PaperRule(MarginRule):
    """Algorithm 1 of the paper: the noisy sample is judged, and its margin moves in the same step."""


@dataclass(frozen=True, kw_only=True)
class PathRule(MarginRule):
    """The authors' code: one rejected iterate rejects the sample; margins move once per epoch.

    At the end of an epoch a sample counts as accepted if any of its visits was (`SampleMargins.update_epoch`).
    """

    judges_path: ClassVar[bool] = True
    by_epoch: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class BoundaryRule(MarginRule):
    """The rule for `BoundaryPGD`, whose noise lies inside the ball, so that margins shrink.

    Args:
        floor: least margin of a rejected sample, by default Δ; it replaces `min_margin`. With 0, the margin of a sample
            that is rejected without noise is halved at every visit, until the sample is trained without noise.
    """

    judges_path: ClassVar[bool] = True

    floor: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "min_margin", self.step if self.floor is None else self.floor)
        super().__post_init__()
