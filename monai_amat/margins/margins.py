"""The margins E(i) of Algorithm 1: one number per sample, kept through shuffling, sharding and resuming."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from monai_amat.checks import check_not_negative
from monai_amat.margins.rules import MarginRule

__all__ = ["SampleMargins"]


class SampleMargins:
    """E(i) for every sample of the training list, initially Δ.

    Args:
        size: number of samples in the full source list; IDs are `0 … size − 1`.
        initial: Δ, in the units of the image.
        fingerprint: names the data set (`IndexedDataset.fingerprint`), so that margins
            of another one are refused when a checkpoint is loaded. Empty accepts any of the same size.

    Ten million samples take 40 MB; an update costs what its batch costs.

    Raises:
        ValueError: for an empty list or a margin that is negative or not finite.

    Example:
        >>> from monai_amat.margins import PaperRule
        >>> margins, rule = SampleMargins(4, initial=2.5), PaperRule(step=2.5)
        >>> margins.update(torch.tensor([1, 3]), torch.tensor([True, False]), torch.tensor([2.5, 1.5]), rule)
        >>> margins[torch.arange(4)]
        tensor([2.5000, 5.0000, 2.5000, 2.0000])
    """

    def __init__(self, size: int, initial: float, *, fingerprint: str = "") -> None:
        if size < 1:
            raise ValueError(f"margins need at least one sample, got size {size}; is the training split empty?")
        check_not_negative("the initial margin", initial)
        self.fingerprint = fingerprint
        self.values = torch.full((size,), float(initial), dtype=torch.float32, device="cpu")

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, ids: Tensor) -> Tensor:
        """Radius `(n,)` of the samples `ids` `(n,)`, on the CPU."""
        return self.values[self._check(ids)]

    def update(self, ids: Tensor, accepted: Tensor, noise_norm: Tensor, rule: MarginRule) -> None:
        """Apply a rule to the visits of one step.

        Several visits to one ID count as one: accepted only if all were, with the mean of their noise norms.

        Args:
            ids: `(n,)` sample IDs, repeated where a sample was visited more than once.
            accepted: `(n,)` bool.
            noise_norm: `(n,)`, in the units of the image.
            rule: see `monai_amat.margins.rules`.

        Raises:
            IndexError: for an ID outside the list.
            TypeError: for IDs that are not integers.
            ValueError: for a noise norm that is negative or not finite, or arguments of different lengths.
        """
        self._merge(ids, accepted, noise_norm, rule, all_accepted=True)

    def update_epoch(self, ids: Tensor, accepted: Tensor, noise_norm: Tensor, rule: MarginRule) -> None:
        """The same for all visits of an epoch, accepted if any visit was (the authors' code)."""
        self._merge(ids, accepted, noise_norm, rule, all_accepted=False)

    def state_dict(self) -> dict[str, Any]:
        """Plain tensors and strings, loadable with `weights_only=True`."""
        return {"fingerprint": self.fingerprint, "values": self.values.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over saved margins.

        Raises:
            ValueError: when they belong to another data set, or are not finite.
        """
        if "values" not in state:
            raise ValueError(f"saved margins hold 'values' and 'fingerprint', but this state holds {sorted(state)}")
        values = torch.as_tensor(state["values"], dtype=torch.float32, device="cpu")
        if values.ndim != 1:
            raise ValueError(f"saved margins must be one number per sample, got shape {tuple(values.shape)}")
        if len(values) != len(self):
            raise ValueError(f"saved margins are of {len(values)} samples, this data set has {len(self)}")
        saved = str(state.get("fingerprint", ""))
        if saved and self.fingerprint and saved != self.fingerprint:
            raise ValueError(
                f"saved margins belong to another data set (fingerprint {saved}, here {self.fingerprint}); "
                "use the data, split and slicing they were trained with, or start without them"
            )
        # Both are NaN where any value is; neither needs memory of its own, which for millions of samples counts.
        if not (values.min() >= 0 and values.max() < float("inf")):
            raise ValueError("saved margins hold negative or non-finite values: the file is damaged")
        self.values.copy_(values)

    def _merge(
        self, ids: Tensor, accepted: Tensor, noise_norm: Tensor, rule: MarginRule, *, all_accepted: bool
    ) -> None:
        ids = self._check(ids)
        if ids.ndim != 1 or not ids.shape == accepted.shape == noise_norm.shape:
            raise ValueError(
                f"an update needs as many verdicts and noise norms as IDs, (n,) each, got {tuple(ids.shape)}, "
                f"{tuple(accepted.shape)} and {tuple(noise_norm.shape)}"
            )
        norms = noise_norm.detach().to("cpu", torch.float32)
        verdicts = accepted.detach().to("cpu", torch.float32)
        wrong = ~(torch.isfinite(norms) & (norms >= 0))
        if wrong.any():
            raise ValueError(f"noise norms of samples {ids[wrong].tolist()} are negative or not finite")
        unique, place = torch.unique(ids, return_inverse=True)
        blank = norms.new_zeros(len(unique))
        mean = blank.scatter_reduce(0, place, norms, "mean", include_self=False)
        merged = blank.scatter_reduce(0, place, verdicts, "amin" if all_accepted else "amax", include_self=False)
        changed = rule(self.values[unique], merged.bool(), mean)
        if not (torch.isfinite(changed) & (changed >= 0)).all():
            raise ValueError(f"{rule!r} gave a negative or non-finite margin")
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
