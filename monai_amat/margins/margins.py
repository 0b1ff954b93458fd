"""The margins E(i) of Algorithm 1: one number per sample, independent of shuffling, sharding and resuming."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from monai_amat.checks import check_not_negative, check_within
from monai_amat.margins.rules import MarginRule

__all__ = ["SampleMargins"]


class SampleMargins:
    """E(i) of every sample of the training list, initially Δ.

    Args:
        size: number of samples in the full source list; IDs are `0 … size − 1`.
        initial: Δ, in the units of the image.
        fingerprint: identifies the data set (`IndexedDataset.fingerprint`), so that margins of another data set are
            refused when a checkpoint is loaded. An empty fingerprint accepts any data set of the same size.

    Ten million samples take 40 MB; the cost of an update depends on the batch alone.

    Raises:
        ValueError: if the list is empty, or the initial margin is negative or not finite.

    Example:
        >>> from monai_amat.margins import PaperRule
        >>> margins, rule = SampleMargins(4, initial=2.5), PaperRule(step=2.5)
        >>> margins.update(torch.tensor([1, 3]), torch.tensor([True, False]), torch.tensor([2.5, 1.5]), rule)
        >>> margins[torch.arange(4)]
        tensor([2.5000, 5.0000, 2.5000, 2.0000])
    """

    def __init__(self, size: int, initial: float, *, fingerprint: str = "") -> None:
        check_within("size (number of training samples)", size, 1)
        check_not_negative("initial (margin)", initial)
        self.fingerprint = fingerprint
        self.values = torch.full((size,), float(initial), dtype=torch.float32, device="cpu")

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, ids: Tensor) -> Tensor:
        """E(i) `(n,)` of the samples `ids` `(n,)`, on the CPU."""
        return self.values[self._check(ids)]

    def update(self, ids: Tensor, accepted: Tensor, noise_norm: Tensor, rule: MarginRule) -> None:
        """Apply a rule to the visits of one step.

        Several visits to one ID count as one visit: accepted if all of them were, with the mean of their noise norms.

        Args:
            ids: `(n,)` sample IDs, repeated where a sample was visited more than once.
            accepted: `(n,)` bool.
            noise_norm: `(n,)`, in the units of the image.
            rule: how a margin changes, such as `PaperRule`.

        Raises:
            IndexError: if an ID is outside the list.
            TypeError: if the IDs are not integers.
            ValueError: if a noise norm is negative or not finite, or the arguments have different lengths.
        """
        self._merge(ids, accepted, noise_norm, rule, all_accepted=True)

    def update_epoch(self, ids: Tensor, accepted: Tensor, noise_norm: Tensor, rule: MarginRule) -> None:
        """Apply a rule to all visits of one epoch; a sample is accepted if any visit was (the authors' code)."""
        self._merge(ids, accepted, noise_norm, rule, all_accepted=False)

    def state_dict(self) -> dict[str, Any]:
        """Plain tensors and strings, loadable with `weights_only=True`."""
        return {"fingerprint": self.fingerprint, "values": self.values.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over saved margins.

        Raises:
            ValueError: if they belong to another data set, or a margin is negative or not finite.
        """
        if "values" not in state:
            raise ValueError(f"saved margins must hold 'values' and 'fingerprint', got {sorted(state)}")
        values = torch.as_tensor(state["values"], dtype=torch.float32, device="cpu")
        if values.shape != self.values.shape:
            raise ValueError(
                f"saved margins must hold one number per sample, shape ({len(self)},), got shape "
                f"{tuple(values.shape)}; use the data set that they were trained with"
            )
        saved = str(state.get("fingerprint", ""))
        if saved and self.fingerprint and saved != self.fingerprint:
            raise ValueError(
                f"saved margins must belong to this data set (fingerprint {self.fingerprint}), got {saved}; "
                "use the data, split and slicing that they were trained with, or start without them"
            )
        # Minimum and maximum are NaN if any value is NaN, and need no extra memory for millions of samples.
        if not (values.min() >= 0 and values.max() < float("inf")):
            raise ValueError("saved margins must be finite and not negative; the file is damaged")
        self.values.copy_(values)

    def _merge(
        self, ids: Tensor, accepted: Tensor, noise_norm: Tensor, rule: MarginRule, *, all_accepted: bool
    ) -> None:
        ids = self._check(ids)
        if ids.ndim != 1 or not ids.shape == accepted.shape == noise_norm.shape:
            raise ValueError(
                f"IDs, verdicts and noise norms must have the same shape (n,), got {tuple(ids.shape)}, "
                f"{tuple(accepted.shape)} and {tuple(noise_norm.shape)}"
            )
        norms = noise_norm.detach().to("cpu", torch.float32)
        verdicts = accepted.detach().to("cpu", torch.float32)
        wrong = ~(torch.isfinite(norms) & (norms >= 0))
        if wrong.any():
            raise ValueError(
                f"noise norms must be finite and not negative, got {norms[wrong].tolist()} for samples "
                f"{ids[wrong].tolist()}"
            )
        unique, place = torch.unique(ids, return_inverse=True)
        blank = norms.new_zeros(len(unique))
        mean = blank.scatter_reduce(0, place, norms, "mean", include_self=False)
        merged = blank.scatter_reduce(0, place, verdicts, "amin" if all_accepted else "amax", include_self=False)
        changed = rule(self.values[unique], merged.bool(), mean)
        bad = ~(torch.isfinite(changed) & (changed >= 0))
        if bad.any():
            raise ValueError(f"margins must be finite and not negative, got {changed[bad].tolist()} from {rule!r}")
        self.values[unique] = changed

    def _check(self, ids: Tensor) -> Tensor:
        ids = torch.as_tensor(ids, device="cpu")
        if ids.numel() and (ids.is_floating_point() or ids.dtype == torch.bool):
            raise TypeError(f"sample IDs must be integers, got {ids.dtype}")
        ids = ids.detach().long()
        if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= len(self)):
            raise IndexError(
                f"sample IDs must lie in 0 … {len(self) - 1}, got {int(ids.min())} … {int(ids.max())}; "
                "IDs index the full training list, so wrap that list in IndexedDataset before sharding it"
            )
        return ids
