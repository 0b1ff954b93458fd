"""What training and evaluation under attack share: the inner `prepare_batch`, sample IDs, seeds, the objective."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from monai.engines.utils import PrepareBatch, PrepareBatchDefault
from monai.inferers import Inferer, SimpleInferer
from torch import Tensor, nn

from monai_amat.attacks import Attack, AttackResult, check_attack
from monai_amat.engines.objective import BatchObjective
from monai_amat.engines.trees import batch_size, plain
from monai_amat.losses.base import PerSampleLoss
from monai_amat.margins import Acceptance, Measurement

__all__ = ["AttackedBatch", "PrepareBatchAttack", "PreparedBatch"]


@dataclass(frozen=True)
class AttackedBatch:
    """What one call of a `prepare_batch` did; handlers read it from `PrepareBatchAdversarial.last`.

    Args:
        ids: `(B,)` sample IDs; None where the batch carries none.
        clean: the clean inputs `(B, *shape)` as the inner `prepare_batch` gave them, metadata included.
        target: the targets, likewise.
        radius: `(B,)`.
        result: what the attack returned.
        noise_norm: `(B,)` `‖x̃ − x‖`.
        clean_measured: measured on x by the frozen network; None where the training forward will do.
        noisy_measured: measured on x̃, likewise.
    """

    ids: Tensor | None
    clean: Tensor
    target: Any
    radius: Tensor
    result: AttackResult
    noise_norm: Tensor
    clean_measured: Measurement | None = None
    noisy_measured: Measurement | None = None

    @property
    def noisy(self) -> Tensor:
        """x̃ `(B, *shape)`."""
        return self.result.noisy


@dataclass(frozen=True)
class PreparedBatch:
    """What the inner `prepare_batch` gave, in one form."""

    inputs: Tensor
    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    short: bool  # whether it gave only inputs and targets


class PrepareBatchAttack(PrepareBatch):
    """What training and evaluation under attack share: the inner `prepare_batch`, IDs, seeds and the objective."""

    def __init__(
        self,
        *,
        network: nn.Module,
        loss: PerSampleLoss,
        attack: Attack,
        prepare_batch: PrepareBatch | None = None,
        inferer: Inferer | None = None,
        id_key: str = "sample_id",
        seed_key: str = "sample_seed",
    ) -> None:
        if not isinstance(loss, PerSampleLoss):
            raise TypeError(
                f"an attack needs one loss per sample, but {type(loss).__name__} is not a PerSampleLoss; "
                "wrap it: monai_amat.losses.PerSample(loss)"
            )
        self.network = network
        self.loss = loss
        self.attack = check_attack(attack)
        self.prepare_batch = PrepareBatchDefault() if prepare_batch is None else prepare_batch
        self.inferer = SimpleInferer() if inferer is None else inferer
        self.id_key = id_key
        self.seed_key = seed_key
        self.last: AttackedBatch | None = None

    def _prepare(self, batchdata: Any, device: Any, non_blocking: bool, **kwargs: Any) -> PreparedBatch:
        batch = self.prepare_batch(batchdata, device, non_blocking, **kwargs)
        if not isinstance(batch, tuple) or len(batch) not in (2, 4) or batch[1] is None:
            raise ValueError(
                "an attack needs inputs and targets: prepare_batch must return (inputs, targets[, args, kwargs])"
            )
        inputs, target = batch[:2]
        if not isinstance(inputs, Tensor):
            raise TypeError(f"an attack needs one input tensor, got {type(inputs).__name__}")
        args, extra = batch[2:] if len(batch) == 4 else ((), {})
        samples = batch_size([inputs, target, args, extra])
        if samples == 0:
            raise ValueError("the batch holds no sample")
        return PreparedBatch(inputs, target, tuple(args), dict(extra), len(batch) == 2)

    def _objective(self, prepared: PreparedBatch, network: nn.Module, acceptance: Acceptance | None) -> BatchObjective:
        return BatchObjective(
            network=network,
            loss=self.loss,
            target=plain(prepared.target),
            args=plain(prepared.args),
            kwargs=plain(prepared.kwargs),
            inferer=self.inferer,
            acceptance=acceptance,
        )

    def _column(self, batchdata: Any, key: str) -> Tensor | None:
        if not isinstance(batchdata, Mapping) or key not in batchdata:
            return None
        return torch.as_tensor(batchdata[key]).reshape(-1).cpu()

    def _seeds(self, batchdata: Any, inputs: Tensor) -> list[int]:
        """One seed per sample: from the batch, or, for loaders that give none, from what the sample holds."""
        given = self._column(batchdata, self.seed_key)
        if given is not None:
            return [int(seed) for seed in given]
        return [zlib.crc32(sample.contiguous().numpy().tobytes()) for sample in plain(inputs).detach().cpu().float()]

    def _norms(self, noisy: Tensor, clean: Tensor) -> Tensor:
        return self.attack.norm.size(noisy.float() - clean.float())
