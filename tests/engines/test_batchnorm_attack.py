"""The landmark network under attack: BatchNorm neither moves nor lets a sample see its neighbours."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from monai_amat.attacks import FullStart, ProjectedGradientDescent
from monai_amat.engines import PrepareBatchAdversarial, PrepareBatchTargets
from monai_amat.margins import Absolute
from monai_amat.tasks.landmarks import HeatmapOffsetLoss, MultiTaskUNet
from monai_amat.tasks.landmarks.transforms.maps import landmark_maps

SIZE = (50, 40)


def network() -> MultiTaskUNet:
    """Running statistics as training leaves them, far from those of any batch below; float64 against rounding."""
    torch.manual_seed(3)
    net = MultiTaskUNet(landmarks=2, width=1 / 32).double()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2.0)
    return net


def batch(count: int = 4) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(6)
    points = torch.rand(count, 2, 2, generator=draw) * torch.tensor([49.0, 39.0])
    return {
        "image": 2 * torch.rand(count, 3, *SIZE, generator=draw, dtype=torch.float64) - 1,
        "maps": torch.stack([landmark_maps(each, SIZE, 2.5) for each in points]),
        "sample_id": torch.arange(count),
        "sample_seed": 77 + torch.arange(count),
    }


def prepare(net: nn.Module, **settings: Any) -> PrepareBatchAdversarial:
    return PrepareBatchAdversarial(
        network=net,
        loss=HeatmapOffsetLoss(),
        attack=ProjectedGradientDescent(steps=3, rel_step=0.5, clip_range=(-1, 1), random_start=FullStart()),
        radius=1.0,
        prepare_batch=PrepareBatchTargets(targets=["maps"]),
        **settings,
    )


def rows(of: dict[str, Any], chosen: list[int]) -> dict[str, Any]:
    return {key: value[chosen] for key, value in of.items()}


def noise(net: nn.Module, of: dict[str, Any]) -> Tensor:
    inputs = prepare(net)(of)[0]
    half = len(inputs) // 2
    return inputs[half:] - inputs[:half]


@pytest.mark.parametrize("acceptance", [None, Absolute({"heatmap": 1.0, "offset_y": 1.0, "offset_x": 1.0})])
def test_the_attack_leaves_running_statistics_and_gradients_alone(acceptance: Any) -> None:
    net = network()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    made = prepare(net, acceptance=acceptance)
    made(batch())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(module.training for module in net.modules())
    # A training forward does move them: the test could fail.
    net(batch()["image"])
    assert not torch.equal(net.state_dict()["last_step.1.running_mean"], before["last_step.1.running_mean"])
    assert made.last is not None
    assert (made.last.clean_measured is not None) == (acceptance is not None)


def test_noise_does_not_depend_on_the_neighbours() -> None:
    net, of = network(), batch()
    together = noise(net, of)
    assert bool((together.flatten(1).norm(dim=1) > 0.5).all())
    for row in range(4):
        torch.testing.assert_close(noise(net, rows(of, [row])), together[row : row + 1])
    torch.testing.assert_close(noise(net, rows(of, [3, 0])), together[[3, 0]])
    changed = {**of, "image": of["image"].clone()}
    changed["image"][1:] *= -1
    torch.testing.assert_close(noise(net, changed)[:1], together[:1])


def test_in_training_mode_the_neighbours_would_show() -> None:
    # Why the network is frozen: the same sample among other ones gives another output.
    net, of = network().train(), batch()
    alone, among = net(of["image"][:2])[:1], net(of["image"])[:1]
    assert not torch.allclose(alone, among, atol=1e-3)
