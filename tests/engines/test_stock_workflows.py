"""MONAI's own SupervisedTrainer with crops, metrics and other inputs, targets and outputs."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.engines.utils import PrepareBatch, PrepareBatchExtraInput
from monai.handlers import MeanDice, from_engine
from monai.transforms import AsDiscreted, Compose, RandCropByPosNegLabeld, RandSpatialCropSamplesd
from torch import Tensor, nn

from monai_amat.attacks import ProjectedGradientDescent
from monai_amat.data.indexed import IndexedDataset
from monai_amat.data.sampler import SeededSampler
from monai_amat.engines import PrepareBatchAdversarial
from monai_amat.handlers import IMAGE_NOISY, PRED_NOISY, AdaptiveMarginHandler
from monai_amat.losses import PerSampleLoss
from monai_amat.margins import Absolute, AdaptiveMargins, PaperRule, SampleMargins
from tests.engines.stock import LOSS, Net, Training, batches

# ------------------------------------------------------------------ crops: several visits of one sample


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    "crops",
    [
        RandCropByPosNegLabeld(["image", "label"], "label", spatial_size=(4, 4), num_samples=3),
        RandSpatialCropSamplesd(["image", "label"], roi_size=(4, 4), num_samples=3, random_size=False),
    ],
)
def test_crops_of_one_image_share_its_margin(crops: Any, workers: int) -> None:
    source = batches(4)[0]
    items = [{"image": source["image"][row], "label": source["label"][row]} for row in range(4)]
    dataset = IndexedDataset(Dataset(items, Compose([crops])), seed=5)
    loader = DataLoader(dataset, batch_size=2, sampler=SeededSampler(4, seed=2), num_workers=workers)
    margins = SampleMargins(dataset.source_length, 1.0, fingerprint=dataset.fingerprint)
    run = Training(Net(), loader, radius=margins, rule=PaperRule(step=1.0), xi=1.17).run()
    assert [len(visits.ids) for visits in run.visits] == [6, 6]
    for batch, visits in zip(run.raw, run.visits, strict=True):
        assert batch["image"].shape == (6, 1, 4, 4)
        ids = visits.ids.tolist()
        assert ids == [ids[0]] * 3 + [ids[3]] * 3
        # Equal crops or not, every visit begins at noise of its own.
        assert len({tuple(noise.flatten().tolist()) for noise in batch[IMAGE_NOISY] - batch["image"]}) == 6
        for i in set(ids):
            verdicts = visits.accepted[visits.ids == i]
            assert float(margins.values[i]) == pytest.approx(2.0 if bool(verdicts.all()) else 1.0)
    verdicts = torch.cat([visits.accepted for visits in run.visits])
    assert 0 < int(verdicts.sum()) < 12


# ------------------------------------------------------------------ metrics and post-processing see clean data


def test_metrics_on_the_trainer_are_those_of_plain_evaluation() -> None:
    loader = batches(4, 4, 2)
    after = Compose([AsDiscreted("pred", argmax=True, to_onehot=2), AsDiscreted("label", to_onehot=2)])

    def metric() -> Any:
        return {"dice": MeanDice(include_background=False, output_transform=from_engine(["pred", "label"]))}

    network = Net()
    run = Training(network, loader, rate=0.0, radius=3.0, postprocessing=after, key_train_metric=metric()).run()
    evaluator = SupervisedEvaluator(torch.device("cpu"), loader, network, postprocessing=after, key_val_metric=metric())
    evaluator.run()
    expected = evaluator.state.metrics["dice"]
    assert 0 < expected < 1
    assert run.trainer.state.metrics["dice"] == pytest.approx(expected, abs=1e-6)
    # The noisy half would have scored otherwise.
    noisy_after = Compose([AsDiscreted(PRED_NOISY, argmax=True, to_onehot=2), AsDiscreted("label", to_onehot=2)])
    attacked = Training(
        Net(),
        loader,
        rate=0.0,
        radius=3.0,
        postprocessing=noisy_after,
        key_train_metric={
            "dice": MeanDice(include_background=False, output_transform=from_engine([PRED_NOISY, "label"]))
        },
    ).run()
    assert attacked.trainer.state.metrics["dice"] < expected - 0.05


# ------------------------------------------------------------------ other inputs, targets and outputs


class Gained(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer = nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, image: Tensor, gain: Tensor) -> Tensor:
        return self.layer(image) * gain[:, None, None, None]


@pytest.mark.parametrize("keys", ["gain", {"gain": "gain"}])
def test_networks_with_further_inputs(keys: Any) -> None:
    loader = batches(3)
    loader[0]["gain"] = torch.tensor([1.0, 2.0, 3.0])
    network = Gained()
    before = copy.deepcopy(network)
    run = Training(network, loader, prepare_batch=PrepareBatchExtraInput(keys)).run()
    last = run.prepare.last
    assert last is not None
    with torch.no_grad():
        halves = [
            LOSS(before(image, loader[0]["gain"]), loader[0]["label"]).mean() for image in (last.clean, last.noisy)
        ]
    assert run.losses == [pytest.approx(float(sum(halves)) / 2, abs=1e-6)]


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer = nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, image: Tensor) -> Any:
        value = self.layer(image)
        return {"map": value, "scores": [value.mean(dim=(1, 2, 3)), value.amax(dim=(1, 2, 3))]}


class BranchLoss(PerSampleLoss):
    def terms(self, pred: Any, target: Any) -> dict[str, Tensor]:
        return {
            "map": (pred["map"] - target["mask"]).square().flatten(1).mean(1),
            "score": (pred["scores"][0] - target["levels"][0]).square() + pred["scores"][1].abs(),
        }


class BranchBatch(PrepareBatch):
    def __call__(self, batchdata: Any, *_: Any, **__: Any) -> Any:
        return batchdata["image"], {"mask": batchdata["label"], "levels": [batchdata["sample_id"].float()]}


def test_trees_for_predictions_and_targets() -> None:
    loader, margins = batches(3), SampleMargins(3, 1.0)
    network = Branches()
    before = copy.deepcopy(network)
    loss = BranchLoss(judged=("map", "score"))
    prepare = PrepareBatchAdversarial(
        network=network,
        loss=loss,
        attack=ProjectedGradientDescent(steps=2),
        radius=AdaptiveMargins(margins, acceptance=Absolute({"map": 0.42, "score": 2.1}), rule=PaperRule(step=1.0)),
        prepare_batch=BranchBatch(),
    )
    trainer = SupervisedTrainer(
        "cpu",
        1,
        loader,
        network,
        torch.optim.SGD(network.parameters(), 0.1),
        loss,
        prepare_batch=prepare,
        train_handlers=[AdaptiveMarginHandler(prepare)],
    )
    trainer.run()
    assert prepare.last is not None
    with torch.no_grad():
        terms = loss.terms(before(prepare.last.noisy), prepare.last.target)
        scores = before(loader[0]["image"])["scores"][0]
    accepted = (terms["map"] < 0.42) & (terms["score"] < 2.1)
    assert 0 < int(accepted.sum()) < 3
    assert margins.values.tolist() == pytest.approx((1.0 + accepted.float()).tolist())
    items: Any = trainer.state.output
    assert items[1]["pred"]["scores"][0] == pytest.approx(float(scores[1]), abs=1e-6)
