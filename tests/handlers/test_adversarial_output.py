from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from monai.data import DataLoader, MetaTensor, list_data_collate
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents, PrepareBatch
from torch import Tensor, nn

from monai_amat.attacks import ProjectedGradientDescent
from monai_amat.data import IndexedDataset
from monai_amat.engines import PrepareBatchAdversarial
from monai_amat.handlers import EpochSeedHandler
from monai_amat.handlers.adversarial_output import IMAGE_NOISY, PRED_NOISY, AdversarialOutputHandler
from monai_amat.losses import PerSampleLoss
from monai_amat.margins import Absolute
from monai_amat.tasks.segmentation import DiceCELoss

LOSS = DiceCELoss(smooth=1.0)


class Heads(nn.Module):
    """Full resolution and half, as a list, in training mode."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), norm, nn.LeakyReLU(), nn.Conv2d(4, 2, 1))

    def forward(self, image: Tensor) -> Any:
        full = self.body(image)
        return [full, full[..., ::2, ::2]] if self.training else full


def a_batch(count: int = 3) -> dict[str, Any]:
    source = torch.Generator().manual_seed(6)
    items = [
        {
            "image": MetaTensor(
                torch.randn(1, 8, 8, generator=source),
                affine=torch.eye(4) * (number + 1),
                meta={"name": f"case_{number}"},
            ),
            "label": MetaTensor(torch.randint(0, 2, (1, 8, 8), generator=source).float(), meta={"name": "label"}),
        }
        for number in range(count)
    ]
    return list_data_collate(items)


def run(
    network: nn.Module, batch: Any, **settings: Any
) -> tuple[SupervisedTrainer, AdversarialOutputHandler, dict[str, Any]]:
    """One step; also what the trainer's output was just after the loss."""
    loss = settings.pop("loss", LOSS)
    decollate = settings.pop("decollate", True)
    trainer_loss = settings.pop("trainer_loss", loss)
    prepare = PrepareBatchAdversarial(
        network=network, loss=loss, attack=ProjectedGradientDescent(steps=2), radius=1.0, **settings
    )
    handler, seen = AdversarialOutputHandler(prepare), {}
    trainer = SupervisedTrainer(
        "cpu",
        1,
        [batch],
        network,
        torch.optim.SGD(network.parameters(), 0.0),
        trainer_loss,
        prepare_batch=prepare,
        train_handlers=[handler],
        decollate=decollate,
    )
    trainer.add_event_handler(IterationEvents.LOSS_COMPLETED, lambda engine: seen.update(engine.state.output))
    trainer.run()
    return trainer, handler, seen


def test_after_the_loss_outputs_are_the_clean_half_at_full_resolution() -> None:
    network, batch = Heads(nn.InstanceNorm2d(4)), a_batch()
    _, handler, seen = run(network, batch)
    prepare = handler.prepare_batch
    assert prepare.last is not None
    with torch.no_grad():
        clean, noisy = network.eval()(batch["image"].as_tensor()), network(prepare.last.noisy)
    assert torch.equal(seen["image"].as_tensor(), batch["image"].as_tensor())
    assert torch.equal(seen["label"].as_tensor(), batch["label"].as_tensor())
    torch.testing.assert_close(seen["pred"].as_tensor(), clean)
    torch.testing.assert_close(seen[PRED_NOISY].as_tensor(), noisy)
    assert torch.equal(seen[IMAGE_NOISY].as_tensor(), prepare.last.noisy)
    assert seen["loss"].ndim == 0
    assert not any(seen[name].requires_grad for name in ("image", "label", "pred", IMAGE_NOISY, PRED_NOISY))


def test_metadata_of_every_sample_is_restored() -> None:
    trainer, _, seen = run(Heads(nn.InstanceNorm2d(4)), a_batch())
    for name in ("image", "pred", IMAGE_NOISY, PRED_NOISY):
        assert seen[name].is_batch
        assert seen[name][1].meta["name"] == "case_1"
    assert seen["label"][1].meta["name"] == "label"
    # Through MONAI's decollation too, and what is done to one output is not done to another.
    items: Any = trainer.state.output
    assert [item["pred"].meta["name"] for item in items] == ["case_0", "case_1", "case_2"]
    torch.testing.assert_close(items[2][PRED_NOISY].affine, torch.eye(4, dtype=torch.float64) * 3)
    items[0]["pred"].meta["name"] = "changed"
    assert items[0]["image"].meta["name"] == items[0][PRED_NOISY].meta["name"] == "case_0"


def test_plain_tensors_stay_plain() -> None:
    batch = {name: value.as_tensor() for name, value in a_batch().items()}
    _, _, seen = run(Heads(nn.InstanceNorm2d(4)), batch)
    assert {type(value) for value in seen.values()} == {Tensor}


def test_both_halves_are_measured_from_the_training_forward() -> None:
    network, batch = Heads(nn.InstanceNorm2d(4)), a_batch()
    _, handler, seen = run(network, batch, acceptance=Absolute({"total": 1.0}))
    last = handler.prepare_batch.last
    assert last is not None
    assert handler.clean is not None
    assert handler.noisy is not None
    network.train()
    with torch.no_grad():
        for measured, image in ((handler.clean, batch["image"].as_tensor()), (handler.noisy, last.noisy)):
            heads = network(image)
            terms = LOSS.terms(heads, batch["label"])
            for name, value in {**terms, "total": LOSS(heads, batch["label"])}.items():
                torch.testing.assert_close(measured.terms[name], value)
            torch.testing.assert_close(measured.pred, heads[0])
            assert torch.equal(measured.target, batch["label"].as_tensor())
    assert float(seen["loss"].detach()) == pytest.approx(
        float((handler.clean.terms["total"].mean() + handler.noisy.terms["total"].mean()) / 2)
    )


def test_with_batchnorm_what_frozen_measured_is_what_counts() -> None:
    network = Heads(nn.BatchNorm2d(4))
    _, handler, seen = run(network, a_batch(), acceptance=Absolute({"total": 1.0}))
    last = handler.prepare_batch.last
    assert last is not None
    assert handler.clean is last.clean_measured
    assert handler.noisy is last.noisy_measured
    assert handler.clean is not None
    # The outputs themselves are still the training forward's.
    assert not torch.allclose(seen["pred"].as_tensor(), handler.clean.pred, atol=1e-2)


class TreeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 2, 1)

    def forward(self, image: Tensor) -> dict[str, Any]:
        value = self.layer(image)
        return {"map": value, "scores": [value.mean(dim=(1, 2, 3)), value.amax(dim=(1, 2, 3))]}


class TreeLoss(PerSampleLoss):
    def terms(self, pred: Any, target: Any) -> dict[str, Tensor]:
        return {"map": (pred["map"] - target["mask"]).square().flatten(1).mean(1), "score": pred["scores"][1].square()}


class TreeBatch(PrepareBatch):
    def __call__(self, batchdata: Any, *_: Any, **__: Any) -> Any:
        return batchdata["image"], {"mask": batchdata["label"]}


def test_predictions_and_targets_may_be_trees() -> None:
    batch = {name: value.as_tensor() for name, value in a_batch().items()}
    network = TreeNet()
    trainer, handler, seen = run(network, batch, loss=TreeLoss(), prepare_batch=TreeBatch())
    last = handler.prepare_batch.last
    assert last is not None
    assert seen["label"]["mask"] is batch["label"]
    torch.testing.assert_close(seen["pred"]["scores"][0], network(batch["image"])["scores"][0].detach())
    torch.testing.assert_close(seen[PRED_NOISY]["map"], network(last.noisy)["map"].detach())
    items: Any = trainer.state.output
    assert len(items) == 3
    torch.testing.assert_close(items[2][PRED_NOISY]["map"], seen[PRED_NOISY]["map"][2])


def test_without_decollation() -> None:
    trainer, _, _ = run(Heads(nn.InstanceNorm2d(4)), a_batch(), decollate=False)
    output: Any = trainer.state.output
    assert output["pred"].shape == (3, 2, 8, 8)
    assert output[PRED_NOISY].shape == (3, 2, 8, 8)


def test_another_prepare_batch_is_refused_when_attached() -> None:
    network = Heads(nn.InstanceNorm2d(4))
    prepare = PrepareBatchAdversarial(network=network, loss=LOSS, attack=ProjectedGradientDescent(), radius=1.0)
    with pytest.raises(ValueError, match=r"must be the PrepareBatchAdversarial .*, got function"):
        SupervisedTrainer(
            "cpu",
            1,
            [a_batch()],
            network,
            torch.optim.SGD(network.parameters(), 0.0),
            LOSS,
            train_handlers=[AdversarialOutputHandler(prepare)],
        )


def test_outputs_are_split_only_once() -> None:
    network = Heads(nn.InstanceNorm2d(4))
    prepare = PrepareBatchAdversarial(network=network, loss=LOSS, attack=ProjectedGradientDescent(steps=1), radius=1.0)
    trainer = SupervisedTrainer(
        "cpu",
        1,
        [a_batch()],
        network,
        torch.optim.SGD(network.parameters(), 0.0),
        LOSS,
        prepare_batch=prepare,
        train_handlers=[AdversarialOutputHandler(prepare), AdversarialOutputHandler(prepare)],
    )
    with pytest.raises(RuntimeError, match="a doubled batch of 3 samples must give 6 outputs, got 3"):
        trainer.run()


def test_another_loss_in_the_trainer_is_pointed_out() -> None:
    with pytest.warns(UserWarning, match="noise is made and judged by another loss object"):
        run(Heads(nn.InstanceNorm2d(4)), a_batch(), trainer_loss=DiceCELoss())


def test_a_data_set_stuck_in_its_epoch_is_pointed_out_once() -> None:
    items = [{"image": torch.randn(1, 8, 8), "label": torch.ones(1, 8, 8)} for _ in range(4)]
    for handlers, told in (([], 1), ([EpochSeedHandler()], 0)):
        network = Heads(nn.InstanceNorm2d(4))
        prepare = PrepareBatchAdversarial(
            network=network, loss=LOSS, attack=ProjectedGradientDescent(steps=1), radius=1.0
        )
        trainer = SupervisedTrainer(
            "cpu",
            3,
            DataLoader(IndexedDataset(items), batch_size=2),
            network,
            torch.optim.SGD(network.parameters(), 0.0),
            LOSS,
            prepare_batch=prepare,
            train_handlers=[*handlers, AdversarialOutputHandler(prepare)],
        )
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trainer.run()
        assert sum("EpochSeedHandler" in str(warning.message) for warning in caught) == told
