"""MONAI's own SupervisedTrainer, unchanged, with our prepare_batch and handlers, for the tests of both."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from ignite.engine import Events
from monai.data import MetaTensor, list_data_collate
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents, PrepareBatch
from torch import Tensor, nn

from monai_amat.attacks import ProjectedGradientDescent
from monai_amat.engines import PrepareBatchAdversarial
from monai_amat.handlers import AdaptiveMarginHandler, AdversarialOutputHandler
from monai_amat.losses import PerSampleLoss
from monai_amat.margins import Absolute, AdaptiveMargins, MarginRule
from monai_amat.tasks.segmentation import DiceCELoss

LOSS = DiceCELoss(smooth=1.0)


class Net(nn.Module):
    """A small segmentation network that counts its forwards."""

    def __init__(self, norm: str = "instance", spatial: int = 2, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(1)
        conv: Any = nn.Conv2d if spatial == 2 else nn.Conv3d
        norms: Any = {
            ("instance", 2): lambda: nn.InstanceNorm2d(4, affine=True),
            ("instance", 3): lambda: nn.InstanceNorm3d(4, affine=True),
            ("batch", 2): lambda: nn.BatchNorm2d(4),
        }
        self.body = nn.Sequential(conv(1, 4, 3, padding=1), norms[norm, spatial](), nn.LeakyReLU(), conv(4, 2, 1)).to(
            dtype
        )
        self.forwards: list[int] = []

    def forward(self, image: Tensor) -> Tensor:
        self.forwards.append(len(image))
        return self.body(image)


def batches(*sizes: int, shape: Sequence[int] = (8, 8), dtype: torch.dtype = torch.float32) -> list[dict[str, Tensor]]:
    """Batches of samples with IDs in order."""
    source, first, found = torch.Generator().manual_seed(3), 0, []
    for size in sizes:
        ids = torch.arange(first, first + size)
        found.append(
            {
                "image": torch.randn(size, 1, *shape, generator=source).to(dtype),
                "label": torch.randint(0, 2, (size, 1, *shape), generator=source).to(dtype),
                "sample_id": ids,
                "sample_seed": 100 + 7 * ids,
            }
        )
        first += size
    return found


class Training:
    """The stock trainer, wired as a user would."""

    def __init__(
        self,
        network: nn.Module,
        loader: Iterable[Any],
        *,
        rule: MarginRule | None = None,
        radius: Any = 1.0,
        xi: float = 1.0,
        loss: PerSampleLoss = LOSS,
        attack: Any = None,
        epochs: int = 1,
        rate: float = 0.1,
        prepare_batch: PrepareBatch | None = None,
        **settings: Any,
    ) -> None:
        self.prepare = PrepareBatchAdversarial(
            network=network,
            loss=loss,
            attack=ProjectedGradientDescent(steps=3, rel_step=0.5) if attack is None else attack,
            radius=radius if rule is None else AdaptiveMargins(radius, acceptance=Absolute({"total": xi}), rule=rule),
            prepare_batch=prepare_batch,
        )
        self.handler: Any = (AdversarialOutputHandler if rule is None else AdaptiveMarginHandler)(self.prepare)
        self.trainer = SupervisedTrainer(
            "cpu",
            epochs,
            loader,
            network,
            torch.optim.SGD(network.parameters(), rate, momentum=0.9),
            loss,
            prepare_batch=self.prepare,
            train_handlers=[self.handler],
            **settings,
        )
        self.losses: list[float] = []
        self.visits: list[Any] = []
        self.outputs: list[Any] = []
        self.raw: list[dict[str, Any]] = []
        self.trainer.add_event_handler(IterationEvents.LOSS_COMPLETED, lambda e: self.raw.append(dict(e.state.output)))
        self.trainer.add_event_handler(Events.ITERATION_COMPLETED, self._note)

    def _note(self, engine: Any) -> None:
        self.losses.append(float(self.raw[-1]["loss"].detach()))
        self.visits.append(getattr(self.handler, "visits", None))
        self.outputs.append(engine.state.output)

    def run(self) -> Training:
        self.trainer.run()
        return self


def same_weights(one: nn.Module, other: nn.Module, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=tolerance)


def with_meta(batch: dict[str, Tensor]) -> dict[str, Any]:
    """The batch as MONAI's loader makes it of MetaTensors."""
    items = [
        {
            "image": MetaTensor(batch["image"][row], affine=torch.eye(4) * (row + 1), meta={"name": f"case_{row}"}),
            "label": MetaTensor(batch["label"][row]),
            "sample_id": int(batch["sample_id"][row]),
            "sample_seed": int(batch["sample_seed"][row]),
        }
        for row in range(len(batch["image"]))
    ]
    return list_data_collate(items)
