"""A detector in the engines: its loss under attack in evaluation mode, and MONAI's stock trainer around it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.engines.utils import IterationEvents
from torch import Tensor, nn

from monai_amat.attacks import InnerStart, ProjectedGradientDescent
from monai_amat.engines import FrozenInferer, PrepareBatchAdversarial, PrepareBatchNoisy, RawOutputsInferer, measure
from monai_amat.handlers import PRED_NOISY, AdaptiveMarginHandler, AdversarialOutputHandler
from monai_amat.margins import Absolute, AdaptiveMargins, PaperRule, SampleMargins
from monai_amat.tasks.detection import ClassicYOLOv5, ClassicYOLOv5Loss, DetectionLoss, YOLOv5

SIZE, CELLS = 64, 84


def awake(network: YOLOv5) -> YOLOv5:
    """With running statistics of its own activations: a fresh network in evaluation mode hardly sees its image."""
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    before = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 1.0
    with torch.no_grad():
        network.train()(torch.rand(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(7)))
    for layer, momentum in zip(norms, before, strict=True):
        layer.momentum = momentum
    return network


@pytest.fixture(scope="module")
def built() -> YOLOv5:
    torch.manual_seed(0)
    return awake(YOLOv5(3, "n"))


@pytest.fixture
def network(built: YOLOv5) -> YOLOv5:
    return copy.deepcopy(built)


def batch(samples: int = 2) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(2)
    target = torch.zeros(samples, 4, 5)
    target[..., 0] = -1
    for number in range(samples):  # the first image holds nothing
        for row in range(number):
            low = 32 * torch.rand(2, generator=draw)
            target[number, row] = torch.tensor([float(row % 3), *low, *(low + 24)])
    ids = torch.arange(samples)
    image = torch.rand(samples, 3, SIZE, SIZE, generator=draw)
    return {"image": image, "label": target, "sample_id": ids, "sample_seed": 10 + ids}


def attack(steps: int = 3) -> ProjectedGradientDescent:
    return ProjectedGradientDescent(steps=steps, rel_step=0.5, clip_range=(0.0, 1.0))


def state(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def unchanged(network: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_under_attack_raises_the_loss_and_touches_nothing(network: YOLOv5, training: bool) -> None:
    loss, data, before = DetectionLoss(network), batch(), state(network)
    network.train(training)
    prepare = PrepareBatchNoisy(network=network, loss=loss, attack=attack(), epsilon=2.0, inferer=RawOutputsInferer())
    noisy, target = prepare(data)
    assert unchanged(network, before)
    assert all(module.training is training for module in network.modules())
    assert prepare.last is not None
    torch.testing.assert_close(prepare.last.noise_norm, torch.full((2,), 2.0), rtol=0.05, atol=0.0)
    assert prepare.last.result.stalled.tolist() == [0, 0]
    network.eval()
    with torch.no_grad():
        clean, attacked = (loss(network.raw(image), target) for image in (data["image"], noisy))
    assert bool((attacked > clean).all())


def test_without_raw_outputs_it_says_what_to_give(network: YOLOv5) -> None:
    prepare = PrepareBatchNoisy(network=network, loss=DetectionLoss(network), attack=attack(), epsilon=2.0)
    with pytest.raises(TypeError, match=r"inferer=monai_amat\.engines\.RawOutputsInferer\(\)"):
        prepare(batch())


def test_an_evaluator_gets_the_loss_and_the_boxes(network: YOLOv5) -> None:
    loss, inferer = DetectionLoss(network), RawOutputsInferer()
    prepare = PrepareBatchNoisy(network=network, loss=loss, attack=attack(1), epsilon=1.0, inferer=inferer)
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=[batch()],
        network=network,
        prepare_batch=prepare,
        inferer=inferer,
        decollate=False,
    )
    evaluator.run()
    output: Any = evaluator.state.output
    assert prepare.last is not None
    with torch.no_grad():
        decoded = network.eval()(prepare.last.noisy)
        torch.testing.assert_close(loss.prediction(output["pred"], output["label"]), decoded, rtol=1e-4, atol=1e-3)
    assert loss(output["pred"], output["label"]).shape == (2,)


def trainer(network: nn.Module, loss: Any, prepare: PrepareBatchAdversarial, handler: Any, data: Any) -> Any:
    return SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=data,
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), 0.01),
        loss_function=loss,
        prepare_batch=prepare,
        train_handlers=[handler],
    )


def test_the_stock_trainer_trains_adversarially(network: YOLOv5) -> None:
    loss, before = DetectionLoss(network), state(network)
    prepare = PrepareBatchAdversarial(network=network, loss=loss, attack=attack(), radius=1.0)
    handler = AdversarialOutputHandler(prepare)
    training = trainer(network, loss, prepare, handler, [batch(3)] * 2)
    seen: list[tuple[float, ...]] = []

    def watch(engine: Any) -> None:
        assert handler.clean is not None
        assert handler.noisy is not None
        halves = handler.clean.terms["total"].mean(), handler.noisy.terms["total"].mean()
        seen.append((float(engine.state.output["loss"].detach()), *map(float, halves)))

    training.add_event_handler(IterationEvents.LOSS_COMPLETED, watch)
    shapes: list[Any] = []
    training.add_event_handler(
        Events.ITERATION_COMPLETED,
        lambda engine: shapes.append(
            [tuple(sample[key].shape) for sample in engine.state.output for key in ("pred", PRED_NOISY)]
        ),
    )
    training.run()
    for together, clean, noisy in seen:
        assert together == pytest.approx((clean + noisy) / 2, rel=1e-5)  # equation 1
    assert shapes == [[(7, CELLS)] * 6] * 2
    assert not unchanged(network, before)
    tracked = network.model.model[0].bn.num_batches_tracked - before["model.model.0.bn.num_batches_tracked"]
    assert int(tracked) == 2  # one forward a step; the attack left no trace


def test_margins_move_by_three_terms(network: YOLOv5) -> None:
    loss, data = DetectionLoss(network), batch(3)
    network.train()
    with torch.no_grad():
        clean = measure(loss, FrozenInferer()(data["image"], network), data["label"])
    # Every threshold is far above the clean loss but for sample 2, whose class term is judged too strictly.
    xi = {name: float(clean.terms[name].max()) + 1e6 for name in ("box", "dfl")}
    order = clean.terms["cls"].argsort()
    xi["cls"] = float(clean.terms["cls"][order[1:]].mean())
    margins = SampleMargins(3, initial=0.01)
    prepare = PrepareBatchAdversarial(
        network=network,
        loss=loss,
        attack=ProjectedGradientDescent(steps=2, rel_step=0.5, random_start=InnerStart(0.01), clip_range=(0.0, 1.0)),
        radius=AdaptiveMargins(margins, acceptance=Absolute(xi), rule=PaperRule(step=0.01)),
    )
    handler = AdaptiveMarginHandler(prepare)
    trainer(network, loss, prepare, handler, [data]).run()
    assert prepare.last is not None
    measured = prepare.last.noisy_measured
    assert measured is not None
    accepted = torch.stack([measured.terms[name] < value for name, value in xi.items()]).all(0)
    assert 0 < int(accepted.sum()) < 3
    moved = torch.where(accepted, 0.02, (prepare.last.noise_norm + 0.01) / 2)
    torch.testing.assert_close(margins.values, moved)


# --- a classic network: a stand-in with BatchNorm, anchors, objectness, and its own ComputeLoss


class Anchored(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.BatchNorm2d(8), nn.SiLU(), nn.Conv2d(8, 3 * 7, 1))

    def forward(self, image: Tensor) -> Any:
        level = self.body(image).unflatten(1, (3, 7)).permute(0, 1, 3, 4, 2).contiguous()
        return [level] if self.training else (level.flatten(1, 3).sigmoid(), [level])


class ComputeLoss:
    def __init__(self) -> None:
        self.hyp = {"box": 1.0, "obj": 1.0, "cls": 1.0}

    def __call__(self, levels: list[Tensor], targets: Tensor) -> tuple[Tensor, Tensor]:
        (level,) = levels
        obj = nn.functional.softplus(level[..., 4]).mean() * self.hyp["obj"]
        box = level[..., :4].square().mean() * len(targets) * self.hyp["box"]
        cls = level[..., 5:].square().mean() * len(targets) * self.hyp["cls"]
        return (box + obj + cls).reshape(1) * len(level), torch.stack([box, obj, cls]).detach()


def test_a_classic_network_is_trained_and_attacked_likewise() -> None:
    network, data = ClassicYOLOv5(Anchored()), batch(3)
    data["label"][..., 0].clamp_(max=1)
    loss, before = ClassicYOLOv5Loss(ComputeLoss()), state(network)
    noisy = PrepareBatchNoisy(network=network, loss=loss, attack=attack(), epsilon=1.0, inferer=RawOutputsInferer())
    image, target = noisy(data)
    assert unchanged(network, before)
    network.eval()
    with torch.no_grad():
        raw = network.raw(image)
        assert bool((loss(raw, target) > loss(network.raw(data["image"]), target)).all())
    assert loss.prediction(raw, target).shape == (3, 6, 3 * 64)
    prepare = PrepareBatchAdversarial(network=network, loss=loss, attack=attack(), radius=1.0)
    trainer(network, loss, prepare, AdversarialOutputHandler(prepare), [data]).run()
    assert not unchanged(network, before)
    assert int(network.state_dict()["network.body.1.num_batches_tracked"]) == 1
