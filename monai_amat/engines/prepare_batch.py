"""Where adversarial noise enters training: `prepare_batch`, before the one forward of MONAI's trainer."""

from __future__ import annotations

from dataclasses import replace
from numbers import Real
from typing import Any

import torch
from monai.engines.utils import PrepareBatch
from monai.inferers import Inferer
from torch import Tensor, nn

from monai_amat.attacks import Attack
from monai_amat.checks import check_not_negative
from monai_amat.engines.compiled import check_compiled_gradient, is_compiled
from monai_amat.engines.frozen import couples_samples, frozen, unwrap
from monai_amat.engines.prepare_attack import AttackedBatch, PrepareBatchAttack
from monai_amat.engines.trees import double, plain
from monai_amat.losses.base import PerSampleLoss
from monai_amat.margins import Acceptance, AdaptiveMargins, RadiusSource, SampleMargins

__all__ = ["PrepareBatchAdversarial"]


class PrepareBatchAdversarial(PrepareBatchAttack):
    r"""Turn each batch `x` into `[x ; x̃]`: SAT with a constant radius, AMAT with margins.

    MONAI's trainer then takes one forward, one loss and one step as always. With a loss of one value per sample, its
    mean over the doubled batch is equation 1,

    $$
    \tfrac12\left(L(f(x), y) + L(f(\tilde x), y)\right).
    $$

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

    `last` holds the latest attacked batch, for the handlers. Tensors are returned plain, without MONAI metadata.

    Raises:
        TypeError: for a loss that is not per sample, an attack without its two properties, or a radius of another type.
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
            raise TypeError(f"radius must be a number or an object with one radius per sample ID, got {radius!r}")
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
            raise ValueError(f"{type(attack).__name__} follows the acceptance boundary; give acceptance=")
        unknown = sorted(acceptance.judged - set(loss.judged)) if acceptance is not None else []
        if unknown:
            raise ValueError(
                f"thresholds are for the terms {unknown}, got {type(loss).__name__} with {list(loss.judged)}; "
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
                f"the batch has no '{self.id_key}', which assigns a margin to each sample; "
                "wrap the training data set in monai_amat.data.IndexedDataset"
            )
        if len(ids) != len(inputs):
            raise ValueError(
                f"'{self.id_key}' must hold one ID per sample, got {len(ids)} IDs for {len(inputs)} samples"
            )
        return self.radius[ids].to(inputs.device, torch.float32)
