"""Targets as a dictionary, through attacks and MONAI's own engines."""

from __future__ import annotations

import operator
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import Dataset, MetaTensor, list_data_collate
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from monai_amat.attacks import InnerStart, ProjectedGradientDescent
from monai_amat.data.indexed import IndexedDataset
from monai_amat.engines import (
    FrozenInferer,
    OwnStatisticsInferer,
    PrepareBatchAdversarial,
    PrepareBatchNoisy,
    PrepareBatchTargets,
    SeparateForwardsInferer,
)
from monai_amat.handlers import (
    AdaptiveMarginHandler,
    EpochSeedHandler,
    MetricHandler,
    NonFiniteGuardHandler,
    ResumeHandler,
    ThresholdHandler,
)
from monai_amat.margins import Absolute, AdaptiveMargins, MeanStd, PaperRule, SampleMargins
from monai_amat.robustness import RobustnessCurve
from monai_amat.tasks.landmarks import (
    HeatmapBCE,
    HeatmapDice,
    HeatmapOffsetLoss,
    HeatmapTerm,
    MultiTaskUNet,
    RadialErrorMetric,
    decode_landmarks,
)
from monai_amat.tasks.landmarks.transforms.maps import landmark_maps

SIZE = (40, 32)
LANDMARKS = 2
LOSS = HeatmapOffsetLoss()
PGD = ProjectedGradientDescent(steps=2, rel_step=0.5, clip_range=(-1, 1))
KEYS = ("maps", "landmarks", "spacing")


def items(count: int = 5) -> list[dict[str, Any]]:
    draw = torch.Generator().manual_seed(1)
    found = []
    for i in range(count):
        points = torch.rand(LANDMARKS, 2, generator=draw) * torch.tensor([39.0, 31.0])
        points[i % LANDMARKS, 0] = torch.nan if i == 3 else points[i % LANDMARKS, 0]
        image = 0.1 * torch.randn(1, *SIZE, generator=draw)
        maps = landmark_maps(points, SIZE, 2.0)
        image = (image + maps[:LANDMARKS].sum(0, keepdim=True) / 2).clamp(-1, 1).repeat(3, 1, 1)
        spacing = torch.tensor([1.0, 0.5])
        found.append({"image": image, "maps": maps, "landmarks": points, "spacing": spacing, "case": f"{i:03d}"})
    return found


def loader(size: int = 3) -> DataLoader[Any]:
    return DataLoader(IndexedDataset(items(), seed=2), batch_size=size)


def network() -> MultiTaskUNet:
    torch.manual_seed(4)
    return MultiTaskUNet(landmarks=LANDMARKS, width=1 / 32)


def batch() -> dict[str, Any]:
    return next(iter(loader()))


def test_image_and_targets() -> None:
    of = batch()
    image, target = PrepareBatchTargets()(of)
    assert torch.equal(image, of["image"])
    assert list(target) == list(KEYS)
    assert all(target[key] is of[key] for key in KEYS)
    renamed = {"scan": of["image"], "truth": of["maps"]}
    image, target = PrepareBatchTargets(targets="truth", image_key="scan")(renamed, "cpu", True)
    assert list(target) == ["truth"]


def test_casts_are_for_the_image() -> None:
    image, target = PrepareBatchTargets()(
        batch(), torch.device("meta"), dtype=torch.float16, memory_format=torch.channels_last
    )
    assert (image.dtype, image.device.type) == (torch.float16, "meta")
    assert image.is_contiguous(memory_format=torch.channels_last)
    assert {value.dtype for value in target.values()} == {torch.float32}
    assert {value.device.type for value in target.values()} == {"meta"}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda of: {key: of[key] for key in of if key != "maps"},
            KeyError,
            r"no 'maps'; its keys are \['case', 'image'",
        ),
        (lambda of: {key: of[key] for key in of if key != "image"}, KeyError, "no 'image'"),
        (lambda of: {**of, "spacing": [0.1, 0.1]}, TypeError, "'spacing' must be a tensor.*list"),
        (lambda of: (of["image"], of["maps"]), TypeError, "dictionaries, got tuple"),
    ],
)
def test_bad_batches(change: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        PrepareBatchTargets()(change(batch()))


def test_no_target_at_all() -> None:
    with pytest.raises(ValueError, match="at least one key"):
        PrepareBatchTargets(targets=())


@pytest.mark.parametrize("meta", [False, True])
def test_inside_the_training_attack(meta: bool) -> None:
    of = batch()
    if meta:
        of["image"], of["maps"] = MetaTensor(of["image"]), MetaTensor(of["maps"])
    prepare = PrepareBatchAdversarial(
        network=network(), loss=LOSS, attack=PGD, radius=0.5, prepare_batch=PrepareBatchTargets()
    )
    inputs, target = prepare(of)
    assert inputs.shape == (6, 3, *SIZE)
    assert list(target) == list(KEYS)
    for key in KEYS:
        assert type(target[key]) is Tensor
        torch.testing.assert_close(target[key], torch.cat([of[key], of[key]]).as_subclass(Tensor), equal_nan=True)
    assert prepare.last is not None
    assert bool((prepare.last.noise_norm > 0.1).all())
    assert list(prepare.last.target) == list(KEYS)


def test_inside_the_evaluations_attack() -> None:
    prepare = PrepareBatchNoisy(
        network=network(), loss=LOSS, attack=PGD, epsilon=1.0, prepare_batch=PrepareBatchTargets()
    )
    net, of = prepare.network.eval(), batch()
    noisy, target = prepare(of)
    assert list(target) == list(KEYS)
    assert bool((LOSS(net(noisy), target) > LOSS(net(of["image"]), target)).all())


@pytest.mark.filterwarnings("ignore:ξ accepts")  # mean + 2·std of five samples accepts them all
@pytest.mark.parametrize("halves", [None, SeparateForwardsInferer, OwnStatisticsInferer])
def test_adaptive_margins_in_monais_trainer(halves: Any, tmp_path: Path) -> None:
    net = network()
    handler = ThresholdHandler(LOSS, tmp_path / "thresholds.json", statistic=MeanStd(2.0))
    SupervisedEvaluator(
        device=torch.device("cpu"), val_data_loader=loader(), network=net, mode="train", inferer=FrozenInferer(),
        prepare_batch=PrepareBatchTargets(), val_handlers=[handler],
    ).run()  # fmt: skip
    assert handler.thresholds is not None
    assert set(handler.thresholds.values) == {"heatmap", "offset_y", "offset_x"}
    margins = SampleMargins(5, 0.5)
    prepare = PrepareBatchAdversarial(
        network=net,
        loss=LOSS,
        attack=ProjectedGradientDescent(steps=2, rel_step=0.5, clip_range=(-1, 1), random_start=InnerStart(0.5)),
        radius=AdaptiveMargins(margins, acceptance=Absolute(handler.thresholds), rule=PaperRule(step=0.5)),
        prepare_batch=PrepareBatchTargets(),
    )
    inferer = OwnStatisticsInferer(net) if halves is OwnStatisticsInferer else halves and halves()
    objects = {"margins": margins} | ({"noisy_statistics": inferer} if halves is OwnStatisticsInferer else {})
    before = margins.values.clone()
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=2,
        train_data_loader=loader(),
        network=net,
        optimizer=torch.optim.Adam(net.parameters(), 1e-3),
        loss_function=LOSS,
        prepare_batch=prepare,
        inferer=inferer,
        train_handlers=[
            AdaptiveMarginHandler(prepare),
            NonFiniteGuardHandler(),
            EpochSeedHandler(2),
            ResumeHandler(tmp_path, objects),
        ],
        # After the margin handler the outputs are those of a plain training on the clean half.
        key_train_metric={"train_mre": MetricHandler(RadialErrorMetric(landmarks=LANDMARKS))},
        metric_cmp_fn=operator.lt,
    )
    trainer.run()
    assert trainer.state.iteration == 4
    assert trainer.state.metrics["train_mre"] > 0
    assert not torch.equal(margins.values, before)
    assert (tmp_path / "resume_epoch=0002.pt").is_file()


def test_collation_of_items_with_monais_collate() -> None:
    image, target = PrepareBatchTargets()(list_data_collate(items(2)))
    assert image.shape == (2, 3, *SIZE)
    assert target["landmarks"].shape == (2, LANDMARKS, 2)


@pytest.mark.filterwarnings("ignore:.*heat maps have no peak")
def test_a_robustness_curve(tmp_path: Path) -> None:
    rows = RobustnessCurve(
        network=network().eval(),
        data_loader=loader(2),
        loss=LOSS,
        attack=PGD,
        noise_levels=[0, 1],
        metric=RadialErrorMetric(landmarks=LANDMARKS),
        output_dir=tmp_path,
        extra_keys=(),
        prepare_batch=PrepareBatchTargets(),
        progress=False,
    ).run()
    assert len(rows) == 10
    assert list(rows)[-4:] == ["error_1", "error_2", "no_peak_1", "no_peak_2"]
    assert rows["error_2"].isna().sum() == 2  # sample 3, at both levels
    by_level = rows.groupby("noise_level")["loss"].mean()
    assert by_level[1.0] > by_level[0.0]
    summary = RadialErrorMetric(landmarks=LANDMARKS).summary(rows)
    assert summary["mre"] == pytest.approx(rows[["error_1", "error_2"]].stack().mean())


@pytest.mark.parametrize("heatmap", [HeatmapDice(), HeatmapBCE()])
def test_minimising_the_loss_finds_the_landmarks(heatmap: HeatmapTerm) -> None:
    # The "network" is its output alone: what is tested is that the loss asks for what the decoder reads.
    class Free(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.maps = nn.Parameter(torch.zeros(1, 3 * LANDMARKS, *SIZE))

        def forward(self, image: Tensor) -> Tensor:
            return self.maps.expand(len(image), -1, -1, -1)

    net, one = Free(), items(1)
    SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=60,
        train_data_loader=DataLoader(Dataset(one), batch_size=1),
        network=net,
        optimizer=torch.optim.Adam(net.parameters(), 0.1),
        loss_function=HeatmapOffsetLoss(heatmap=heatmap),
        prepare_batch=PrepareBatchTargets(),
    ).run()
    found = decode_landmarks(net.maps, 0.05 * SIZE[0])
    assert (found[0] - one[0]["landmarks"]).norm(dim=-1).max() < 0.25
