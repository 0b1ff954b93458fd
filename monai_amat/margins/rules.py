"""How a margin E(i) changes once its noisy sample is judged: lines 9–13 of Algorithm 1, and two variants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from monai_amat.checks import check_positive, check_within

__all__ = ["BoundaryRule", "MarginRule", "PaperRule", "PathRule"]


@dataclass(frozen=True, kw_only=True)
class MarginRule:
    r"""Grow an accepted margin by Δ, refine a rejected one.

    $$
    E \leftarrow \begin{cases} E + \Delta & \text{accepted (line 10)}\\
    (\|\tilde x - x\| + E)/2 & \text{rejected (line 12)}\end{cases}
    $$

    Args:
        step: Δ, the expansion step, in the units of the image; also what every margin starts at.
        max_margin: cap on a margin; None for none, as in the paper. The authors' code has caps.
        min_margin: floor under a refined margin.
        decay: factor on a refined margin, in (0, 1]. Noise without clipping ends on its sphere, where line 12 changes
            nothing; a factor under 1 lets margins shrink all the same.

    The class attributes say what the rule needs from the training: `judges_path`, whether a sample counts as
    accepted only if every iterate of its attack was; `by_epoch`, whether margins move once an epoch.

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
            noise_norm: `(n,)` size of the noise that was judged.

        Returns:
            `(n,)`, rejected margins are at least `min_margin`, and all margins are at most `max_margin`.
        """
        enlarged = margin + self.step  # line 10
        refined = (self.decay * (noise_norm + margin) / 2).clamp_min(self.min_margin)  # line 12
        changed = torch.where(accepted, enlarged, refined)
        return changed if self.max_margin is None else changed.clamp_max(self.max_margin)


@dataclass(frozen=True, kw_only=True)
class PaperRule(MarginRule):
    """Algorithm 1 as printed: judged at the noisy sample, updated in the step."""


@dataclass(frozen=True, kw_only=True)
class PathRule(MarginRule):
    """The authors' code: one rejected iterate rejects the sample; margins move once an epoch, by any accepted visit."""

    judges_path: ClassVar[bool] = True
    by_epoch: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class BoundaryRule(MarginRule):
    """For `BoundaryPGD`, whose point lies inside the ball, so that margins shrink.

    Args:
        floor: floor under a refined margin, by default Δ. Without one, a sample that is rejected on clean data already
            is halved down to nothing and sees clean data only.
    """

    judges_path: ClassVar[bool] = True

    floor: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "min_margin", self.step if self.floor is None else self.floor)
        super().__post_init__()
