"""VGG19's features: torchvision's layout, by the published table, and files of its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from monai_amat.tasks.landmarks.network.vgg19 import VGG19Encoder, load_vgg19

# Configuration E of Simonyan and Zisserman: channels, 0 a max-pool. torchvision numbers convolution, ReLU and pool.
TABLE = [64, 64, 0, 128, 128, 0, 256, 256, 256, 256, 0, 512, 512, 512, 512, 0, 512, 512, 512, 512, 0]
SMALL = (2, 3, 4, 5, 6)


def published(prefix: str = "") -> dict[str, tuple[int, ...]]:
    """Names and shapes of torchvision's `vgg19().features`."""
    shapes: dict[str, tuple[int, ...]] = {}
    index, inputs = 0, 3
    for entry in TABLE:
        if entry:
            shapes[f"{prefix}{index}.weight"] = (entry, inputs, 3, 3)
            shapes[f"{prefix}{index}.bias"] = (entry,)
            inputs = entry
        index += 2 if entry else 1
    return shapes


def small_state(prefix: str = "", seed: int = 3) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    shapes = {name: value.shape for name, value in VGG19Encoder(features=SMALL).state_dict().items()}
    return {prefix + name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}


def saved(content: Any, tmp_path: Path) -> Path:
    torch.save(content, tmp_path / "vgg19.pth")
    return tmp_path / "vgg19.pth"


def test_the_published_layout() -> None:
    found = {name: tuple(value.shape) for name, value in VGG19Encoder().state_dict().items()}
    assert found == published()
    assert list(found)[-1] == "34.bias"


def test_maps_are_those_after_the_pools() -> None:
    encoder, image = VGG19Encoder(features=SMALL), torch.randn(2, 3, 100, 80)
    expected, value = [], image
    for i in range(37):
        layer = encoder[i]
        value = nn.functional.relu(value) if isinstance(layer, nn.ReLU) else layer(value)
        if i in (4, 9, 18, 27, 36):
            expected.append(value)
    found = encoder(image.clone())
    assert [tuple(level.shape[1:]) for level in found] == [
        (2, 50, 40), (3, 25, 20), (4, 12, 10), (5, 6, 5), (6, 3, 2),
    ]  # fmt: skip
    for level, reference in zip(found, expected, strict=True):
        assert torch.equal(level, reference)
    assert len(encoder) == 37


def test_the_signal_survives_sixteen_layers_without_pretrained_weights() -> None:
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        deepest = VGG19Encoder(features=(16, 32, 64, 128, 128))(image)[-1]
    assert 0.05 < deepest.std() < 5
    # What differs between two images must not drown in what they share, as it does under torch's own initialisation.
    assert (deepest[0] - deepest[1]).std() > 0.1 * deepest.std()


@pytest.mark.parametrize("whole", [False, True])
def test_weights_of_the_whole_network_or_its_features(tmp_path: Path, whole: bool) -> None:
    state = small_state("features." if whole else "")
    extra = {"classifier.0.weight": torch.zeros(4, 4), "classifier.0.bias": torch.zeros(4)} if whole else {}
    encoder = load_vgg19(VGG19Encoder(features=SMALL), saved(state | extra, tmp_path))
    for name, value in small_state().items():
        assert torch.equal(encoder.state_dict()[name], value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: {**state, "0.weight": torch.zeros(2, 1, 3, 3)}, r"0\.weight is \(2, 1, 3, 3\).*\(2, 3, 3, 3\)"),
        (lambda state: {name: value for name, value in state.items() if name != "34.bias"}, r"34\.bias is missing"),
        (lambda state: {**state, "1.running_mean": torch.zeros(2)}, r"1\.running_mean is not part of VGG19"),
        (lambda state: {"classifier.0.bias": torch.zeros(4)}, r"32 differences"),
        (lambda state: {"model": state}, "expected a state dict"),
        (lambda state: [1, 2], "got list"),
    ],
)
def test_files_of_something_else_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    encoder = VGG19Encoder(features=SMALL)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    with pytest.raises(ValueError, match=message) as error:
        load_vgg19(encoder, saved(change(small_state()), tmp_path))
    assert "vgg19.pth" in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no VGG19 weights at .*nothing\.pth"):
        load_vgg19(VGG19Encoder(features=SMALL), tmp_path / "nothing.pth")
    (tmp_path / "text.pth").write_text("not a checkpoint")
    with pytest.raises(ValueError, match=r"text\.pth: cannot be loaded with weights_only=True"):
        load_vgg19(VGG19Encoder(features=SMALL), tmp_path / "text.pth")


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    with pytest.raises(ValueError, match="weights_only=True"):
        load_vgg19(VGG19Encoder(features=SMALL), saved({"0.weight": Trap()}, tmp_path))
    assert not (tmp_path / "ran").exists()


def test_another_number_of_stages() -> None:
    with pytest.raises(ValueError, match="features must have 5 entries"):
        VGG19Encoder(features=(2, 2))
