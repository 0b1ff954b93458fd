"""Where adversarial noise enters a MONAI workflow: `prepare_batch`, before the trainer's one forward."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import torch
from monai.engines.utils import PrepareBatch, PrepareBatchDefault
from monai.inferers import Inferer, SimpleInferer
from torch import Tensor, nn

from monai_amat.attacks import Attack, AttackResult, check_attack
from monai_amat.checks import check_not_negative
from monai_amat.engines.compiled import check_compiled_gradient, is_compiled
from monai_amat.engines.frozen import couples_samples, evaluating, frozen, unwrap
from monai_amat.engines.objective import BatchObjective
from monai_amat.engines.trees import batch_size, double, like, plain
from monai_amat.losses.base import PerSampleLoss
from monai_amat.margins import Acceptance, AdaptiveMargins, Measurement, RadiusSource, SampleMargins

__all__ = ["AttackedBatch", "PrepareBatchAdversarial", "PrepareBatchNoisy"]


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
class _Prepared:
    """What the inner `prepare_batch` gave, in one form."""

    inputs: Tensor
    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    short: bool  # whether it gave only inputs and targets


class _PrepareBatchAttack(PrepareBatch):
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
                f"an attack needs one loss a sample, but {type(loss).__name__} is not a PerSampleLoss; "
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

    def _prepare(self, batchdata: Any, device: Any, non_blocking: bool, **kwargs: Any) -> _Prepared:
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
        return _Prepared(inputs, target, tuple(args), dict(extra), len(batch) == 2)

    def _objective(self, prepared: _Prepared, network: nn.Module, acceptance: Acceptance | None) -> BatchObjective:
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
        """A seed a sample: from the batch, or, for loaders that give none, from what the sample holds."""
        given = self._column(batchdata, self.seed_key)
        if given is not None:
            return [int(seed) for seed in given]
        return [zlib.crc32(sample.contiguous().numpy().tobytes()) for sample in plain(inputs).detach().cpu().float()]

    def _norms(self, noisy: Tensor, clean: Tensor) -> Tensor:
        return self.attack.norm.size(noisy.float() - clean.float())


class PrepareBatchAdversarial(_PrepareBatchAttack):
    r"""Turn each batch `x` into `[x ; x̃]`: SAT with a constant radius, AMAT with margins.

    MONAI's trainer then takes one forward, one loss and one step as always. With a loss of one value a sample, its
    mean over the doubled batch is equation 1,

    .. math:: \tfrac12\left(L(f(x), y) + L(f(\tilde x), y)\right).

    Args:
        network: the network that is trained; wrappers (DDP, compile) are looked through.
        loss: the loss that is trained.
        attack: makes x̃ (line 3 of Algorithm 1).
        radius: ε for every sample (SAT), `AdaptiveMargins` (AMAT), or another `RadiusSource`.
        acceptance: when x̃ is still good enough, for an attack that needs verdicts at a radius that does not adapt;
            `AdaptiveMargins` bring their own.
        prepare_batch: the workflow's own; MONAI's default takes `image` and `label`.
        inferer: how the network is applied inside the attack; a plain forward by default.
        id_key: where batches carry the sample IDs; see `IndexedDataset`.
        seed_key: where they carry the seed of the random start; without it the image's own content is the seed.

    What it did last is in `last`, for the handlers. Tensors are returned plain, without MONAI metadata.

    Raises:
        TypeError: for a loss that is not per sample, an attack without its two properties, or a radius of no kind.
        ValueError: for a radius that is negative or not finite, an attack that needs verdicts without acceptance, or
            margins whose acceptance or rule does not fit loss or attack.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        loss: PerSampleLoss,
        attack: Attack,
        radius: float | RadiusSource,
        acceptance: Acceptance | None = None,
        prepare_batch: PrepareBatch | None = None,
        inferer: Inferer | None = None,
        id_key: str = "sample_id",
        seed_key: str = "sample_seed",
    ) -> None:
        super().__init__(
            network=network,
            loss=loss,
            attack=attack,
            prepare_batch=prepare_batch,
            inferer=inferer,
            id_key=id_key,
            seed_key=seed_key,
        )
        if isinstance(radius, Real):
            radius = float(radius)
            check_not_negative("radius", radius)
        elif isinstance(radius, SampleMargins):
            raise TypeError(
                "radius is SampleMargins, which do not move by themselves; give AdaptiveMargins(margins, acceptance=…, "
                "rule=…), or the tensor margins.values for margins that stay as they are"
            )
        elif not hasattr(radius, "__getitem__") or isinstance(radius, str):
            raise TypeError(f"radius must be a number or an object with a radius by sample ID, got {radius!r}")
        margins = radius if isinstance(radius, AdaptiveMargins) else None
        if margins is not None and acceptance is not None:
            raise ValueError("radius=AdaptiveMargins(…) has an acceptance already; leave acceptance= out")
        if margins is not None and attack.needs_verdicts and not margins.judges_path:
            raise ValueError(
                f"{type(attack).__name__} returns points that are accepted by construction, so that "
                f"{type(margins.rule).__name__} would only ever grow margins; use BoundaryRule"
            )
        acceptance = acceptance if margins is None else margins.acceptance
        if attack.needs_verdicts and acceptance is None:
            raise ValueError(f"{type(attack).__name__} follows the acceptance boundary: give acceptance=")
        unknown = sorted(acceptance.judged - set(loss.judged)) if acceptance is not None else []
        if unknown:
            raise ValueError(
                f"thresholds are for the terms {unknown}, but {type(loss).__name__} is judged on {list(loss.judged)}; "
                "calibrate with the loss that is trained"
            )
        self.radius: float | RadiusSource = radius
        self.adaptive = margins
        self.acceptance = acceptance
        #: Whether every iterate of the attack gets a verdict.
        self.judge_path = attack.needs_verdicts or (margins is not None and margins.judges_path)
        # Where no layer couples samples or draws numbers the training forward measures the same.
        self._measure_frozen = acceptance is not None and couples_samples(unwrap(network))

    def __call__(
        self, batchdata: Any, device: str | torch.device | None = None, non_blocking: bool = False, **kwargs: Any
    ) -> Any:
        """Attack a batch; the signature is that of MONAI's `PrepareBatch`.

        Returns:
            `([x ; x̃], [y ; y])`, with `args` and `kwargs` doubled likewise where the inner one gives them.
        """
        prepared = self._prepare(batchdata, device, non_blocking, **kwargs)
        ids = self._column(batchdata, self.id_key)
        inputs = plain(prepared.inputs)
        radius = self._radius(ids, inputs)
        if self.adaptive is not None:
            self.adaptive.start_batch()
        self.network.train()  # as the trainer does next: the attack sees the heads that training sees
        with frozen(self.network) as network:
            objective = self._objective(prepared, network, self.acceptance if self.judge_path else None)
            needs_clean = self.acceptance is not None and self.judge_path and self.acceptance.needs_clean
            clean_measured = objective.measure(inputs) if needs_clean or self._measure_frozen else None
            objective = replace(objective, clean=clean_measured)
            result = self.attack(objective, inputs, radius, seeds=self._seeds(batchdata, inputs))
            if self.judge_path and result.all_accepted is None:  # all radii are 0: no step, and x̃ is the whole path
                verdict = objective.judge(result.noisy)
                result = replace(result, accepted=verdict, all_accepted=verdict)
            wanted = self._measure_frozen and not self.judge_path
            noisy_measured = objective.measure(result.noisy) if wanted else None
        self.last = AttackedBatch(
            ids=ids,
            clean=prepared.inputs,
            target=prepared.target,
            radius=radius,
            result=result,
            noise_norm=self._norms(result.noisy, inputs),
            clean_measured=clean_measured,
            noisy_measured=noisy_measured,
        )
        doubled = torch.cat([inputs, result.noisy]), double(objective.target, objective.target)
        if prepared.short:
            return doubled
        return *doubled, double(objective.args, objective.args), double(objective.kwargs, objective.kwargs)

    def check_compiled(self, batchdata: Any, network: nn.Module, inferer: Inferer, device: Any) -> None:
        """Check on a batch, as the trainer's forward sees it, that a compiled network has the right gradient.

        Args:
            batchdata: a batch as the data loader gives it.
            network: the trainer's network.
            inferer: the trainer's inferer.
            device: the trainer's device.

        Raises:
            RuntimeError: when the compiled network has another gradient than the network itself.
        """
        while isinstance(network, nn.parallel.DistributedDataParallel | nn.DataParallel):
            network = network.module
        if not is_compiled(network):
            return
        prepared = self._prepare(batchdata, device, non_blocking=False)
        inputs, target, args, kwargs = (
            double(part, part)
            for part in map(plain, (prepared.inputs, prepared.target, prepared.args, prepared.kwargs))
        )
        network.train()
        check_compiled_gradient(network, lambda: self.loss(inferer(inputs, network, *args, **kwargs), target).mean())
        self.loss.take_terms()

    def _radius(self, ids: Tensor | None, inputs: Tensor) -> Tensor:
        if isinstance(self.radius, float):
            return torch.full((len(inputs),), self.radius, device=inputs.device)
        if ids is None:
            raise KeyError(
                f"the batch has no '{self.id_key}', which says whose margin is whose; "
                "wrap the training data set in monai_amat.data.IndexedDataset"
            )
        if len(ids) != len(inputs):
            raise ValueError(f"the batch has {len(inputs)} samples but {len(ids)} values under '{self.id_key}'")
        return self.radius[ids].to(inputs.device, torch.float32)


class PrepareBatchNoisy(_PrepareBatchAttack):
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
