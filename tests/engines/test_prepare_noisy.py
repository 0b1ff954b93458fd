"""Evaluation under attack: what an evaluator sees of a batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.data import MetaTensor, list_data_collate
from monai.engines import SupervisedEvaluator
from monai.engines.utils import PrepareBatchExtraInput
from monai.inferers import SlidingWindowInferer
from torch import Tensor

from monai_amat.attacks import ProjectedGradientDescent
from monai_amat.engines import evaluating
from monai_amat.tasks.segmentation import DiceCELoss
from tests.engines.preparing import (
    LOSS,
    Gained,
    Net,
    adversarial,
    batch,
    batch_net,
    instance_net,
    last_of,
    noisy,
    rows,
)


def test_an_evaluator_sees_only_the_noisy_image() -> None:
    network, of = batch_net().train(), batch()
    prepare = noisy(network)
    seen: list[Tensor] = []
    evaluator = SupervisedEvaluator(torch.device("cpu"), [of], network, prepare_batch=prepare, decollate=False)
    evaluator.add_event_handler("ITERATION_COMPLETED", lambda engine: seen.append(engine.state.output["image"]))
    with torch.no_grad():
        evaluator.run()
    (image,) = seen
    assert torch.equal(image, last_of(prepare).noisy)
    torch.testing.assert_close((image - of["image"]).flatten(1).norm(dim=1), torch.full((4,), 1.5))
    with evaluating(network), torch.no_grad():
        assert bool((LOSS(network(image), of["label"]) > LOSS(network(of["image"]), of["label"])).all())
    assert last_of(prepare).ids.tolist() == [0, 1, 2, 3]


def test_the_attack_is_on_the_network_in_eval_mode_and_leaves_its_modes() -> None:
    network, of = batch_net().train(), batch()
    network.body[2].eval()
    network.body[0].requires_grad_(False)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    asked = [parameter.requires_grad for parameter in network.parameters()]
    noisy(network)(of)
    assert {training for training, _ in network.forwards} == {False}
    assert [module.training for module in network.modules()] == modes
    assert [parameter.requires_grad for parameter in network.parameters()] == asked
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_modes_are_back_after_an_error_in_the_attack() -> None:
    network = batch_net().train()
    of = batch()
    of["image"][0, 0, 0, 0] = float("nan")
    for prepare in (noisy(network), adversarial(network)):
        with pytest.raises(ValueError, match=r"inputs must be finite, got NaN or infinity in samples \[0\]"):
            prepare(of)
        assert all(module.training for module in network.modules())
        assert all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("make", [instance_net, batch_net])
def test_no_noise_is_the_clean_image_and_costs_nothing(make: Any) -> None:
    network, of = make(), batch()
    inputs, target = noisy(network, epsilon=0.0)(of)
    assert torch.equal(inputs, of["image"])
    assert target is of["label"]
    assert network.forwards == []


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_gradients_are_on_inside_whatever_is_off_outside(around: Any) -> None:
    network = Net()
    loss = DiceCELoss(activation="sigmoid", smooth=1.0)  # its backward needs the target itself
    expected, _ = noisy(network, loss=loss)({**batch(), "label": batch()["label"].repeat(1, 2, 1, 1)})
    with around():
        of = {**batch(), "label": batch()["label"].repeat(1, 2, 1, 1)}  # as a loader inside would make it
        inputs, target = noisy(network, loss=loss)(of)
    assert target is of["label"]
    torch.testing.assert_close(inputs, expected)


def test_metadata_is_kept_sample_by_sample() -> None:
    items = [
        {
            "image": MetaTensor(
                torch.randn(1, 8, 8), affine=torch.eye(4) * (number + 1), meta={"name": f"case_{number}"}
            ),
            "label": MetaTensor(torch.ones(1, 8, 8)),
        }
        for number in range(3)
    ]
    of = list_data_collate(items)
    inputs, target = noisy(instance_net())(of)
    assert isinstance(inputs, MetaTensor)
    assert isinstance(target, MetaTensor)
    assert inputs.is_batch
    for number in range(3):
        one: Any = inputs[number]
        assert one.meta["name"] == f"case_{number}"
        torch.testing.assert_close(one.affine, torch.eye(4, dtype=torch.float64) * (number + 1))
    assert not torch.equal(inputs.as_tensor(), of["image"].as_tensor())


def test_evaluation_noise_follows_from_the_image_where_nothing_else_is_given() -> None:
    of = {key: value for key, value in batch(5).items() if not key.startswith("sample")}
    prepare = noisy(instance_net())
    whole = prepare(of)[0]
    assert last_of(prepare).ids is None
    order = [3, 1, 4, 0, 2]
    torch.testing.assert_close(prepare(rows(of, order))[0], whole[order])
    torch.testing.assert_close(torch.cat([prepare(rows(of, [row]))[0] for row in range(5)]), whole)
    start = noisy(instance_net(), attack=ProjectedGradientDescent(steps=0))(of)[0] - of["image"]
    assert len({tuple(noise.flatten().tolist()) for noise in start}) == 5


def test_extra_inputs_stay_as_they_are_under_evaluation() -> None:
    of = batch(gain=torch.tensor([1.0, 2.0, 3.0, 4.0]))
    inputs, target, args, kwargs = noisy(Gained(), prepare_batch=PrepareBatchExtraInput("gain"))(of)
    assert inputs.shape == (4, 1, 8, 8)
    assert target is of["label"]
    assert len(args) == 1
    assert args[0] is of["gain"]
    assert kwargs == {}


def test_the_inferer_of_the_workflow_serves_the_attack() -> None:
    network = Net()
    inferer = SlidingWindowInferer(roi_size=(8, 8), sw_batch_size=4, overlap=0.0)
    inputs, _ = noisy(network, inferer=inferer)(batch(2, (8, 16)))
    assert {count for _, count in network.forwards} == {4}  # two windows of two images
    assert not torch.equal(inputs, batch(2, (8, 16))["image"])
