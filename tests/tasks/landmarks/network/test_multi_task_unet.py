"""The multi-task U-Net: sizes, wiring, weights, export."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from monai_amat.engines import load_weights, save_weights
from monai_amat.tasks.landmarks import MultiTaskUNet


def small(**settings: Any) -> MultiTaskUNet:
    return MultiTaskUNet(**{"landmarks": 3, "width": 1 / 16} | settings)


def test_the_papers_network() -> None:
    network = MultiTaskUNet()
    # Counted by hand: VGG19's 20,024,384; two convolutions without bias and two BatchNorms a step; the head.
    steps = [(1024, 512), (768, 256), (384, 128), (192, 64), (64, 64)]
    decoder = sum(9 * inputs * out + 9 * out * out + 4 * out for inputs, out in steps)
    assert sum(p.numel() for p in network.encoder.parameters()) == 20_024_384
    assert sum(p.numel() for p in network.parameters()) == 20_024_384 + decoder + 64 * 57 + 57
    assert sum(isinstance(module, nn.BatchNorm2d) for module in network.modules()) == 10
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.encoder.modules())


@pytest.mark.parametrize("size", [(100, 80), (200, 160), (33, 70), (32, 32), (64, 96)])
def test_any_size_comes_back(size: tuple[int, int]) -> None:
    assert small().eval()(torch.randn(2, 3, *size)).shape == (2, 9, *size)


def test_output_is_wired_as_the_description_says() -> None:
    network, image = small().eval(), torch.randn(1, 3, 100, 80)
    with torch.no_grad():
        maps = network.encoder(image.clone())
        deep = maps[4]
        for step, skip in zip(network.steps, (maps[3], maps[2], maps[1], maps[0]), strict=True):
            up = functional.interpolate(deep, skip.shape[-2:], mode="bilinear", align_corners=False)
            deep = step(torch.cat([skip, up], dim=1))
        assert deep.shape[-2:] == (50, 40)
        up = functional.interpolate(deep, (100, 80), mode="bilinear", align_corners=False)
        torch.testing.assert_close(network(image), network.head(network.last_step(up)))


def test_widths() -> None:
    network = small(
        in_channels=1, encoder_features=(16, 32, 64, 64, 64), decoder_features=(64, 48, 32, 16, 8), width=0.5
    )
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert [conv.out_channels for conv in convolutions if conv.kernel_size == (3, 3)][-10:] == [
        32, 32, 24, 24, 16, 16, 8, 8, 4, 4,
    ]  # fmt: skip
    assert network(torch.zeros(2, 1, 32, 32)).shape == (2, 9, 32, 32)
    assert small(width=1e-9).head.in_channels == 1


def test_every_weight_is_trained_and_every_sample_alone_in_evaluation() -> None:
    network, image = small(), torch.randn(3, 3, 64, 64)
    network(image).square().sum().backward()
    assert all(weight.grad is not None and bool(weight.grad.any()) for weight in network.parameters())
    network.eval()
    torch.testing.assert_close(network(image)[1:2], network(image[1:2]))


def test_encoder_weights_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(9)
    donor = small().encoder.state_dict()
    file = tmp_path / "vgg19.pth"
    torch.save(
        {f"features.{name}": value for name, value in donor.items()} | {"classifier.6.bias": torch.zeros(2)}, file
    )
    torch.manual_seed(1)
    network = small(encoder_weights=file)
    assert all(torch.equal(value, donor[name]) for name, value in network.encoder.state_dict().items())
    torch.manual_seed(1)
    # The decoder is what it would be without the file.
    assert torch.equal(network.head.weight, small().head.weight)
    with pytest.raises(ValueError, match=r"0\.weight is \(4, 3, 3, 3\), the encoder has \(4, 1, 3, 3\)"):
        small(encoder_weights=file, in_channels=1)


def test_state_dict_round_trip(tmp_path: Path) -> None:
    first, second, image = small(), small(), torch.randn(2, 3, 40, 40)
    first(image)  # running statistics are part of it
    save_weights(first, tmp_path / "model.pt")
    load_weights(second, tmp_path / "model.pt")
    assert torch.equal(first.eval()(image), second.eval()(image))
    with pytest.raises(ValueError, match=r"head\.bias is \(9,\), the network has \(6,\)"):
        load_weights(small(landmarks=2), tmp_path / "model.pt")


@pytest.mark.parametrize("export", ["script", "trace"])
def test_exports_and_keeps_any_size(export: str) -> None:
    network = small().eval()
    image = torch.randn(1, 3, 100, 80)
    exported: Any = torch.jit.script(network) if export == "script" else torch.jit.trace(network, image)
    for other in (image, torch.randn(2, 3, 64, 70)):
        torch.testing.assert_close(exported(other), network(other))


def test_a_scripted_network_still_trains() -> None:
    scripted: Any = torch.jit.script(small())
    before = scripted.last_step[1].running_mean.clone()
    scripted.train()(torch.randn(2, 3, 32, 32)).sum().backward()
    assert not torch.equal(scripted.last_step[1].running_mean, before)


def test_copies_after_a_gradient_forward() -> None:
    network, image = small(), torch.randn(2, 3, 32, 32)
    network(image).sum().backward()
    twin = copy.deepcopy(network)
    assert torch.equal(twin.eval()(image), network.eval()(image))
    assert twin.head.weight is not network.head.weight


def test_the_image_is_not_written_upon() -> None:
    # VGG19's ReLUs work in place.
    image = torch.randn(1, 3, 32, 32)
    kept: Tensor = image.clone()
    small()(torch.cat([image, image]))
    small().eval()(image)
    assert torch.equal(image, kept)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"landmarks": 0}, "landmarks must be at least 1"),
        ({"width": 0}, "width must be positive and finite"),
        ({"width": float("nan")}, "width must be positive"),
        ({"decoder_features": (8, 8)}, "one entry for each of the 5 stages"),
        ({"encoder_features": (8,) * 4, "decoder_features": (8,) * 4}, "features must have 5 entries"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**settings)


@pytest.mark.parametrize("size", [(31, 64), (64, 31)])
def test_an_image_too_small_for_five_poolings_is_named(size: tuple[int, int]) -> None:
    network = small()
    with pytest.raises(ValueError, match=rf"32 pixels along each axis for five poolings, got {size[0]}x{size[1]}"):
        network(torch.zeros(1, 3, *size))
