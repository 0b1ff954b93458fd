from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import monai.bundle
import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor, nn

from monai_amat.engines import frozen, save_weights
from monai_amat.tasks.detection import YOLOv5, decode_detections
from monai_amat.tasks.detection.network import yolov5

CLASSES = 3


@pytest.fixture(scope="module")
def network() -> YOLOv5:
    torch.manual_seed(0)
    built = YOLOv5(CLASSES, "n")
    with torch.no_grad():  # so that there is something to see: fresh weights answer alike everywhere
        for layer in built.modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight.mul_(1.5)
    return built


@pytest.fixture(autouse=True)
def _mode(request: pytest.FixtureRequest) -> None:
    if "network" in request.fixturenames:
        request.getfixturevalue("network").eval()


def image(batch: int = 2, height: int = 64, width: int = 96) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def test_training_gives_raw_outputs_and_evaluation_one_tensor(network: YOLOv5) -> None:
    cells = 8 * 12 + 4 * 6 + 2 * 3
    raw = network.train()(image())
    assert {name: tuple(value.shape) for name, value in raw.items() if name != "feats"} == {
        "boxes": (2, 64, cells),
        "scores": (2, CLASSES, cells),
    }
    assert [tuple(level.shape[2:]) for level in raw["feats"]] == [(8, 12), (4, 6), (2, 3)]
    decoded = network.eval()(image())
    assert decoded.shape == (2, 4 + CLASSES, cells)
    assert bool(((decoded[:, 4:] > 0) & (decoded[:, 4:] < 1)).all())
    assert bool((decoded[:, 2:4] > 0).all())


@pytest.mark.parametrize(("size", "parameters"), [("n", 2.5e6), ("s", 9.1e6)])
def test_every_size_is_the_packages_own(size: str, parameters: float) -> None:
    network = YOLOv5(classes=5, size=size)
    assert sum(value.numel() for value in network.parameters()) == pytest.approx(parameters, rel=0.02)
    assert network.parts.classes == 5


def test_raw_is_the_training_output_of_the_frozen_network(network: YOLOv5) -> None:
    raw = network.raw(image())
    network.train()
    with frozen(network) as still:
        training = still(image())
    for name in ("boxes", "scores"):
        torch.testing.assert_close(raw[name], training[name])
    assert torch.equal(network.raw(image())["boxes"], network(image())["boxes"])


def test_frozen_leaves_statistics_alone_and_keeps_the_training_outputs(network: YOLOv5) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.train()
    with frozen(network) as still:
        assert isinstance(still(image()), dict)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(module.training for module in network.modules())
    fixed = [name for name, value in network.named_parameters() if not value.requires_grad]
    assert fixed == ["model.model.24.dfl.conv.weight"]  # the package's own constant, as it was


def test_samples_do_not_meet_in_evaluation_mode(network: YOLOv5) -> None:
    with torch.no_grad():
        torch.testing.assert_close(network(image())[1:], network(image()[1:]), rtol=1e-4, atol=1e-4)


def test_a_grid_made_in_inference_mode_does_not_stop_a_gradient(network: YOLOv5) -> None:
    with torch.inference_mode():
        network(image())
    point = image().requires_grad_(True)
    network(point).sum().backward()
    assert point.grad is not None
    assert bool(point.grad.abs().sum() > 0)


def test_the_traced_network_gives_the_same_at_other_sizes_and_batches(network: YOLOv5) -> None:
    traced = torch.jit.trace(network, image(1))
    for size in [(2, 64, 96), (1, 96, 64)]:
        with torch.no_grad():
            torch.testing.assert_close(traced(image(*size)), network(image(*size)), rtol=1e-4, atol=1e-3)


def test_a_bundle_verifies_and_exports_it(tmp_path: Path, network: YOLOv5) -> None:
    image_format = {
        "type": "image",
        "num_channels": 3,
        "spatial_shape": [64, 96],
        "dtype": "float32",
        "value_range": [0, 1],
    }
    outputs = {"type": "tuples", "num_channels": 4 + CLASSES, "spatial_shape": [126], "dtype": "float32"}
    metadata = {"network_data_format": {"inputs": {"image": image_format}, "outputs": {"pred": outputs}}}
    (tmp_path / "metadata.json").write_text(json.dumps(metadata))
    definition = {"network_def": {"_target_": "monai_amat.tasks.detection.YOLOv5", "classes": CLASSES, "size": "n"}}
    (tmp_path / "net.json").write_text(json.dumps(definition))
    save_weights(network, tmp_path / "model.pt")
    files = {"meta_file": str(tmp_path / "metadata.json"), "config_file": str(tmp_path / "net.json")}
    monai.bundle.verify_net_in_out("network_def", device="cpu", **files)  # type: ignore[arg-type]
    monai.bundle.ckpt_export(
        "network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(tmp_path / "model.pt"),
        key_in_ckpt="model",
        use_trace=True,
        input_shape=[1, 3, 64, 96],
        **files,  # type: ignore[arg-type]
    )
    exported = torch.jit.load(tmp_path / "model.ts").eval()
    with torch.no_grad():
        torch.testing.assert_close(exported(image()), network(image()), rtol=1e-4, atol=1e-3)


def test_metadata_stays_outside(network: YOLOv5) -> None:
    with torch.no_grad():
        decoded = network(MetaTensor(image()))
    assert type(decoded) is Tensor
    assert torch.equal(decoded, network(image()))


def test_a_copy_stands_alone(network: YOLOv5) -> None:
    twin = copy.deepcopy(network)
    with torch.no_grad():
        for value in twin.parameters():
            value.zero_()
    assert twin.parts._model is twin.model
    assert not torch.equal(network(image()), twin(image()))


def test_weights_are_drawn_from_the_global_generator() -> None:
    def drawn(seed: int) -> list[Tensor]:
        torch.manual_seed(seed)
        return list(YOLOv5(2, "n").state_dict().values())

    first, second, other = drawn(1), drawn(1), drawn(2)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes": 0}, "classes must be at least 1, got 0"),
        ({"classes": 3, "size": "z"}, "size must be one of n, s, m, l, x, got 'z'"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        YOLOv5(**settings)


def test_an_image_of_another_size_is_refused(network: YOLOv5) -> None:
    for call in (network, network.raw):
        with pytest.raises(ValueError, match=r"divisible by 32, got \(1, 3, 64, 80\)"):
            call(image(1, 64, 80))


def test_outputs_of_another_form_say_which_versions_work(network: YOLOv5, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network.model, "forward", lambda image: (torch.zeros(1, 7, 126), [torch.zeros(1)]))
    with pytest.raises(ImportError, match=r"training outputs are list instead of .* works with versions >=8\.4"):
        network.raw(image())


# --- objects


def prediction(*images: Sequence[tuple[float, ...]], cells: int = 20, classes: int = 2) -> Tensor:
    """Decoded outputs with such rows (x, y, w, h, scores …), and nothing elsewhere."""
    pred = torch.zeros(len(images), 4 + classes, cells)
    for number, rows in enumerate(images):
        for place, row in enumerate(rows):
            pred[number, :, place] = torch.tensor(row)
    return pred


def test_overlapping_boxes_of_one_class_leave_the_best() -> None:
    pred = prediction(
        [(20, 20, 10, 10, 0.6, 0.0), (21, 20, 10, 10, 0.9, 0.0), (21, 20, 10, 10, 0.0, 0.7), (60, 60, 4, 8, 0.3, 0.1)],
        [],
    )
    first, second = decode_detections(pred)
    expected = [[16, 15, 26, 25, 0.9, 0], [16, 15, 26, 25, 0.7, 1], [58, 56, 62, 64, 0.3, 0]]
    torch.testing.assert_close(first, torch.tensor(expected))
    assert second.shape == (0, 6)


def test_thresholds_and_numbers_are_kept() -> None:
    rows = [(10.0 + 20 * i, 10, 8, 8, 0.1 + 0.05 * i, 0) for i in range(10)]
    pred = prediction(rows)
    assert len(decode_detections(pred, conf=0.3)[0]) == 5
    best = decode_detections(pred, conf=0.0, max_det=3)[0]
    torch.testing.assert_close(best[:, 4], torch.tensor([0.55, 0.5, 0.45]))
    overlap = prediction([(20, 20, 10, 10, 0.9, 0), (22, 20, 10, 10, 0.8, 0)])  # IoU 80 / 120
    assert [len(decode_detections(overlap, iou=iou)[0]) for iou in (0.6, 0.7)] == [1, 2]


def test_the_prediction_is_left_as_it_was(network: YOLOv5) -> None:
    pred = network(image())
    before = pred.detach().clone()
    found = decode_detections(pred, conf=0.0)
    assert torch.equal(pred, before)
    assert not any(rows.requires_grad for rows in found)
    assert all(bool((rows[:, 4].diff() <= 0).all()) for rows in found)


def test_no_image_is_dropped_however_long_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    clock = iter(range(0, 100_000_000, 10_000))
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    pred = prediction(*[[(20, 20, 10, 10, 0.9, 0.0)]] * 3)
    assert [len(rows) for rows in decode_detections(pred)] == [1, 1, 1]
    # The clock is what the package looks at: with a limit it gives up after the first image.
    limited = yolov5.from_ultralytics("non_max_suppression")(pred, max_time_img=0.05)
    assert [len(rows) for rows in limited] == [1, 0, 0]


@pytest.mark.parametrize(
    ("pred", "settings", "message"),
    [
        (torch.zeros(1, 4, 5), {}, r"\(B, 4 \+ classes, N\).*got \(1, 4, 5\)"),
        ([torch.zeros(1)], {}, "got list"),
        (torch.zeros(1, 6, 5), {"conf": 1.5}, r"conf must lie in \[0, 1\], got 1\.5"),
        (torch.zeros(1, 6, 5), {"max_det": 0}, "max_det must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_decoded(pred: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_detections(pred, **settings)
