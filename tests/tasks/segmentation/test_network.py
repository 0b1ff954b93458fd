"""The 2-D nnU-Net: poolings, widths, heads, outputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.networks.nets import DynUNet
from torch import nn

from monai_amat.tasks.segmentation.network import nnunet_2d, nnunet_features, nnunet_poolings


@pytest.mark.parametrize(
    ("patch_size", "poolings"),
    [
        ((56, 40), (3, 3)),  # the paper's Hippocampus, Heart and Prostate
        ((320, 256), (6, 6)),
        ((320, 320), (6, 6)),
        ((128, 32), (4, 3)),
        ((32, 128), (3, 4)),
        ((96, 8), (4, 1)),
        ((8, 11), (1, 1)),
        ((7, 12), (0, 1)),
        ((7, 11), (0, 0)),
    ],
)
def test_poolings(patch_size: tuple[int, int], poolings: tuple[int, int]) -> None:
    assert nnunet_poolings(patch_size) == poolings


@given(st.integers(8, 1024), st.integers(8, 1024))
def test_pooling_stops_between_four_and_twelve_pixels(height: int, width: int) -> None:
    for pixels, times in zip((height, width), nnunet_poolings((height, width)), strict=True):
        assert 4 <= -(-pixels // 2**times) < 12


@pytest.mark.parametrize(
    ("stages", "base", "features"),
    [
        (4, 32, [32, 64, 128, 256]),
        (7, 32, [32, 64, 128, 256, 480, 480, 480]),
        (4, 8, [8, 16, 32, 64]),
    ],
)
def test_features(stages: int, base: int, features: list[int]) -> None:
    assert nnunet_features(stages, base) == features


@pytest.mark.parametrize(
    ("channels", "classes", "patch_size", "features", "heads"),
    [
        (1, 3, (56, 40), [32, 64, 128, 256], 1),
        (1, 2, (320, 256), [32, 64, 128, 256, 480, 480, 480], 4),
        (2, 3, [320, 320], [32, 64, 128, 256, 480, 480, 480], 4),
    ],
)
def test_the_papers_networks(channels: int, classes: int, patch_size: Any, features: list[int], heads: int) -> None:
    network = nnunet_2d(in_channels=channels, out_channels=classes, patch_size=patch_size)
    assert isinstance(network, DynUNet)
    assert list(network.filters) == features
    assert len(network.deep_supervision_heads) == heads
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert {conv.kernel_size for conv in convolutions} == {(3, 3), (1, 1)}
    assert sum(conv.stride == (2, 2) for conv in convolutions) == len(features) - 1
    # Two convolutions a resolution on the way down and up, and one 1x1 a head.
    assert sum(conv.kernel_size == (3, 3) for conv in convolutions) == 2 * (2 * len(features) - 1)
    assert sum(conv.kernel_size == (1, 1) for conv in convolutions) == heads + 1
    upward = [module for module in network.modules() if isinstance(module, nn.ConvTranspose2d)]
    assert len(upward) == len(features) - 1
    assert all(conv.bias is None and conv.stride == (2, 2) for conv in upward)
    norms = [module for module in network.modules() if isinstance(module, nn.InstanceNorm2d)]
    assert norms
    assert all(norm.affine and not norm.track_running_stats for norm in norms)
    activations = [module for module in network.modules() if isinstance(module, nn.LeakyReLU)]
    assert {activation.negative_slope for activation in activations} == {0.01}


@pytest.mark.parametrize(
    ("patch_size", "settings", "heads"),
    [
        ((56, 40), {}, 1),
        ((56, 40), {"deep_supervision": False}, 0),
        ((128, 32), {}, 2),
        ((16, 24), {}, 0),
        ((64, 64), {"poolings": (2, 2)}, 0),
        ((64, 48), {"poolings": [4, 3], "features": [2, 3, 4, 5, 6]}, 2),
    ],
)
def test_outputs(patch_size: tuple[int, int], settings: dict[str, Any], heads: int) -> None:
    network = nnunet_2d(in_channels=2, out_channels=3, patch_size=patch_size, **{"base_features": 4} | settings)
    image = torch.rand(2, 2, *patch_size)
    full = network.eval()(image)
    assert full.shape == (2, 3, *patch_size)
    trained = network.train()(image)
    assert trained.shape == ((2, 1 + heads, 3, *patch_size) if heads else (2, 3, *patch_size))
    torch.testing.assert_close(trained[:, 0] if heads else trained, full)


def test_every_weight_is_trained() -> None:
    network = nnunet_2d(in_channels=1, out_channels=3, patch_size=(56, 40), base_features=4)
    network(torch.rand(1, 1, 56, 40)).square().sum().backward()
    assert all(weight.grad is not None and bool(weight.grad.any()) for weight in network.parameters())


def test_exports_by_tracing() -> None:
    network = nnunet_2d(in_channels=1, out_channels=3, patch_size=(56, 40), base_features=4).eval()
    traced = torch.jit.trace(network, torch.rand(1, 1, 56, 40))
    image = torch.rand(3, 1, 56, 40)
    torch.testing.assert_close(traced(image), network(image))


def test_global_seed_decides_the_weights() -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        network = nnunet_2d(in_channels=1, out_channels=2, patch_size=(16, 16), base_features=2)
        return nn.utils.parameters_to_vector(network.parameters())

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch_size": (50, 40)}, r"divisible by 8 for 3 poolings, got 50 in \(50, 40\); use 56"),
        ({"patch_size": (56, 40), "poolings": (3, 4)}, "divisible by 16 .* got 40 .* use 48"),
        ({"patch_size": (8, 8)}, r"at least two poolings .* with \(1, 1\) poolings"),
        ({"patch_size": (56, 40), "features": (8, 16, 32)}, r"one entry per resolution, 4 .* got 3: \[8, 16, 32\]"),
        ({"patch_size": (56, 40, 40)}, r"patch_size must be two whole numbers"),
        ({"patch_size": (56.5, 40)}, r"patch_size must be two whole numbers"),
        ({"patch_size": (0, 40)}, r"of at least 1"),
        ({"patch_size": (56, 40), "poolings": (3, -1)}, r"poolings must be two whole numbers \(H, W\) of at least 0"),
    ],
)
def test_what_does_not_fit(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nnunet_2d(in_channels=1, out_channels=2, **settings)
