"""Evaluation under attack: `prepare_batch` gives the evaluator noisy inputs."""

from __future__ import annotations

from typing import Any

import torch

from monai_amat.checks import check_not_negative
from monai_amat.engines.frozen import evaluating, frozen, unwrap
from monai_amat.engines.prepare_attack import AttackedBatch, PrepareBatchAttack
from monai_amat.engines.trees import like, plain

__all__ = ["PrepareBatchNoisy"]


class PrepareBatchNoisy(PrepareBatchAttack):
    """Give an evaluator only x̃, at one noise level ε.

    It runs where the evaluator has neither set the mode nor turned gradients off, so it does both itself: the network
    is attacked in eval mode, as it will be evaluated, and left as it was found.

    Args:
        epsilon: noise level, in the units of the network's input; 0 gives the clean input.

    The other arguments are those of `PrepareBatchAdversarial`.
    """

    def __init__(self, *, epsilon: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_not_negative("epsilon", epsilon)
        if self.attack.needs_verdicts:
            raise ValueError(f"{type(self.attack).__name__} stops at a boundary and cannot be used for evaluation")
        self.epsilon = epsilon

    def __call__(
        self, batchdata: Any, device: str | torch.device | None = None, non_blocking: bool = False, **kwargs: Any
    ) -> Any:
        """Attack a batch; the signature is that of MONAI's `PrepareBatch`.

        Returns:
            `(x̃, y)`, with `args` and `kwargs` where the inner one gives them.
        """
        prepared = self._prepare(batchdata, device, non_blocking, **kwargs)
        inputs = plain(prepared.inputs)
        radius = torch.full((len(inputs),), float(self.epsilon), device=inputs.device)
        with torch.inference_mode(False), evaluating(unwrap(self.network)), frozen(self.network) as network:
            objective = self._objective(prepared, network, None)
            result = self.attack(objective, inputs, radius, seeds=self._seeds(batchdata, inputs))
        self.last = AttackedBatch(
            ids=self._column(batchdata, self.id_key),
            clean=prepared.inputs,
            target=prepared.target,
            radius=radius,
            result=result,
            noise_norm=self._norms(result.noisy, inputs),
        )
        noisy = like(result.noisy, prepared.inputs)
        if prepared.short:
            return noisy, prepared.target
        return noisy, prepared.target, prepared.args, prepared.kwargs
