from __future__ import annotations

import copy
import dataclasses
import functools
import importlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from monai_amat.integrations.ultralytics import AMATDetectionTrainer, AMATSettings
from monai_amat.integrations.ultralytics.trainer import padded_targets
from monai_amat.margins import PathRule, RunningThresholds
from monai_amat.tasks.detection.network.quiet_import import from_ultralytics

ACCEPTS_ALL = {"box": 1e6, "cls": 1e6, "dfl": 1e6}
LABELS = ["", "0 0.5 0.5 0.4 0.4\n", "1 0.3 0.3 0.3 0.3\n0 0.7 0.6 0.5 0.4\n", "1 0.6 0.4 0.5 0.5\n"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images of 64 x 64 in the package's layout, the first without an object."""
    root = tmp_path_factory.mktemp("cells")
    draw = np.random.default_rng(0)
    for part in ("train", "val"):
        for folder in ("images", "labels"):
            (root / folder / part).mkdir(parents=True)
        for number, label in enumerate(LABELS):
            picture = draw.integers(0, 255, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(picture).save(root / "images" / part / f"cell_{number}.png")
            (root / "labels" / part / f"cell_{number}.txt").write_text(label)
    file = root / "data.yaml"
    file.write_text(f"path: {root}\ntrain: images/train\nval: images/val\nnames: [red, white]\n")
    return file


def overrides(data: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "model": "yolov5n.yaml",
        "data": str(data),
        "imgsz": 64,
        "batch": 4,
        "epochs": 1,
        "device": "cpu",
        "plots": False,
        "project": str(folder),
        "name": "run",
        "exist_ok": True,
        "optimizer": "SGD",
        "lr0": 0.01,
        "warmup_epochs": 0,
        "verbose": False,
        **changes,
    }


@pytest.fixture(autouse=True)
def _process_as_it_was() -> Iterator[None]:
    """Their trainer makes the process deterministic, and some variables of its environment."""
    environment, threads = dict(os.environ), torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False
    torch.set_num_threads(threads)
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)


MakeTrainer = Callable[..., Any]


@pytest.fixture
def make(data: Path, tmp_path: Path) -> MakeTrainer:
    """Builds a trainer up to where its first batch would come."""

    def build(settings: AMATSettings, **changes: Any) -> Any:
        trainer = AMATDetectionTrainer(overrides=overrides(data, tmp_path, **changes), settings=settings)
        trainer._setup_train()
        trainer.epoch = 0
        trainer.run_callbacks("on_train_start")
        trainer.run_callbacks("on_train_epoch_start")
        trainer._model_train()
        return trainer

    return build


def gradients(model: Any, loss: Tensor) -> list[Tensor]:
    """Of all parameters that ask for one."""
    return list(torch.autograd.grad(loss.sum(), [value for value in model.parameters() if value.requires_grad]))


def test_without_noise_the_gradient_is_that_of_their_trainer(make: MakeTrainer) -> None:
    trainer = make(AMATSettings(radius=0.0))
    batch = next(iter(trainer.train_loader))
    plain = copy.deepcopy(trainer.model)  # with their criterion: a copy does not take ours along
    theirs = from_ultralytics("DetectionTrainer").preprocess_batch(trainer, copy.deepcopy(batch))
    loss, items = plain(theirs)
    expected = gradients(plain, loss)
    our_loss, our_items = trainer.model(trainer.preprocess_batch(batch))
    torch.testing.assert_close(our_loss, loss, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        torch.stack(list(our_items.values())), torch.stack(list(items.values())), rtol=1e-4, atol=1e-5
    )
    for found, wanted in zip(gradients(trainer.model, our_loss), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()) + 1e-7)
    assert any(float(wanted.abs().max()) > 1e-3 for wanted in expected)


def test_a_batch_becomes_clean_and_noisy_images(make: MakeTrainer) -> None:
    trainer = make(AMATSettings(radius=1.5, steps=2))
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    batch = next(iter(trainer.train_loader))
    files = list(batch["im_file"])
    clean = batch["img"].float() / 255
    boxes = batch["bboxes"].clone()
    doubled = trainer.preprocess_batch(batch)
    assert torch.equal(doubled["img"][:4], clean)
    apart = (doubled["img"][4:] - clean).flatten(1).norm(dim=1)
    torch.testing.assert_close(apart, torch.full((4,), 1.5), rtol=0.1, atol=0.0)
    assert float(apart.max()) <= 1.5 * (1 + 1e-4)
    assert float(doubled["img"].min()) >= 0
    assert float(doubled["img"].max()) <= 1
    assert list(doubled["im_file"]) == files * 2
    assert torch.equal(doubled["bboxes"], torch.cat([boxes, boxes]))
    assert doubled["batch_idx"].max() == 7
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())


def test_noise_is_the_same_for_an_image_and_epoch_whatever_its_batch(make: MakeTrainer) -> None:
    still = dict.fromkeys(("hsv_h", "hsv_s", "hsv_v", "fliplr", "translate", "scale"), 0.0)
    found: list[dict[str, Tensor]] = []
    for size, epoch in ((4, 0), (2, 0), (4, 1)):
        trainer = make(AMATSettings(radius=1.5, steps=1), batch=size, **still)  # of the same weights: their seed
        trainer.epoch = epoch
        noise = {}
        for batch in trainer.train_loader:
            doubled = trainer.preprocess_batch(batch)
            half = len(doubled["img"]) // 2
            for name, delta in zip(batch["im_file"], doubled["img"][half:] - doubled["img"][:half], strict=True):
                noise[Path(name).name] = delta
        found.append(noise)
    first, second, other_epoch = found
    assert len(first) == 4
    for name, delta in first.items():
        torch.testing.assert_close(second[name], delta, rtol=1e-3, atol=1e-3)
        assert not torch.allclose(other_epoch[name], delta, atol=1e-3)


def test_layers_that_are_frozen_stay_so(make: MakeTrainer) -> None:
    trainer = make(AMATSettings(radius=1.0, steps=1), freeze=2)
    trainer.preprocess_batch(next(iter(trainer.train_loader)))
    training = [layer.bn.training for layer in trainer.model.model[:2]]
    assert training == [False, False]
    assert trainer.model.model[3].bn.training
    assert trainer.model.training


def test_margins_move_once_a_step_and_not_after_a_broken_one(make: MakeTrainer) -> None:
    trainer = make(AMATSettings(step=0.5, max_margin=2.0, steps=1, thresholds=ACCEPTS_ALL), batch=2)
    first, second = iter(trainer.train_loader), iter(trainer.train_loader)
    batch = next(first)
    names = [Path(file).name for file in batch["im_file"]]
    visited = [Path(file).name in names for file in trainer.image_files]
    trainer.preprocess_batch(batch)
    trainer.loss = torch.tensor(float("nan"))
    trainer.run_callbacks("on_train_batch_end")
    assert trainer.margins.values.tolist() == [0.5] * 4
    trainer.preprocess_batch(next(second))
    trainer.loss = torch.tensor(1.0)
    trainer.run_callbacks("on_train_batch_end")
    moved = {
        Path(file).name for file, value in zip(trainer.image_files, trainer.margins.values, strict=True) if value == 1
    }
    assert len(moved) == 2
    assert sum(visited) == 2
    # The epoch begins again (too little memory, weights that are not finite): what it moved is undone.
    trainer.run_callbacks("on_train_epoch_start")
    assert trainer.margins.values.tolist() == [0.5] * 4


def test_a_rule_by_epoch_moves_margins_at_the_last_step(make: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AMATSettings, "rule", lambda self: PathRule(step=self.step, max_margin=self.max_margin))
    trainer = make(AMATSettings(step=0.5, max_margin=2.0, steps=1, thresholds=ACCEPTS_ALL), batch=2)
    assert len(trainer.train_loader) == 2
    margins = []
    for batch in trainer.train_loader:
        trainer.preprocess_batch(batch)
        trainer.loss = torch.tensor(1.0)
        trainer.run_callbacks("on_train_batch_end")
        margins.append(trainer.margins.values.clone())
    assert margins[0].tolist() == [0.5] * 4
    assert bool((margins[1] > 0.9).all())


def test_a_network_whose_layers_couple_no_samples_moves_margins(
    make: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attack measures nothing by itself there."""
    trainer = make(AMATSettings(step=0.5, max_margin=2.0, steps=1, thresholds=ACCEPTS_ALL))
    monkeypatch.setattr(trainer._prepare, "_measure_frozen", False)
    trainer.preprocess_batch(next(iter(trainer.train_loader)))
    trainer.loss = torch.tensor(1.0)
    trainer.run_callbacks("on_train_batch_end")
    assert bool((trainer.margins.values > 0.9).all())


def test_a_step_without_measured_losses_is_an_error(make: MakeTrainer) -> None:
    trainer = make(AMATSettings(step=0.5, steps=1, thresholds=ACCEPTS_ALL))
    trainer.preprocess_batch(next(iter(trainer.train_loader)))
    trainer._prepare.last = dataclasses.replace(trainer._prepare.last, clean_measured=None)
    with pytest.raises(RuntimeError, match="margins need the losses"):
        trainer.run_callbacks("on_train_batch_end")


def test_each_term_has_its_own_threshold(make: MakeTrainer) -> None:
    trainer = make(AMATSettings(step=0.5, steps=1, thresholds={**ACCEPTS_ALL, "cls": 0.0}))
    trainer.preprocess_batch(next(iter(trainer.train_loader)))
    trainer.loss = torch.tensor(1.0)
    trainer.run_callbacks("on_train_batch_end")
    assert bool((trainer.margins.values <= 0.5 + 1e-5).all())


def test_the_noisy_image_is_judged(make: MakeTrainer) -> None:
    trainer = make(AMATSettings(step=0.5, steps=1, thresholds=ACCEPTS_ALL))
    trainer.preprocess_batch(next(iter(trainer.train_loader)))
    trainer.loss = torch.tensor(1.0)
    last = trainer._prepare.last
    # Clean losses below every threshold, noisy ones above: line 9 of Algorithm 1 is about the latter.
    worse = {name: values + 2e9 for name, values in last.noisy_measured.terms.items()}
    trainer._prepare.last = dataclasses.replace(
        last, noisy_measured=dataclasses.replace(last.noisy_measured, terms=worse)
    )
    trainer.run_callbacks("on_train_batch_end")
    assert bool((trainer.margins.values <= 0.5 + 1e-5).all())


def test_margins_wait_until_the_thresholds_are_known(make: MakeTrainer) -> None:
    """The step that ends the warm-up is judged by none, and moves none."""
    trainer = make(AMATSettings(step=0.5, steps=1, thresholds=RunningThresholds(k=100.0, warmup=1)))
    margins = []
    for _ in range(2):
        trainer.preprocess_batch(next(iter(trainer.train_loader)))
        trainer.loss = torch.tensor(1.0)
        trainer.run_callbacks("on_train_batch_end")
        margins.append(trainer.margins.values.clone())
    assert bool((margins[0] == 0.5).all())
    assert bool((margins[1] > 0.9).all())


class KilledError(Exception):
    pass


@pytest.mark.slow
def test_margins_are_saved_and_resumed_exactly(data: Path, tmp_path: Path) -> None:
    # Running thresholds accept some images and not others.
    settings = AMATSettings(
        step=0.5, max_margin=5.0, steps=1, thresholds=RunningThresholds(k=0.0, warmup=1, momentum=0.5)
    )
    yolo = importlib.import_module("ultralytics").YOLO
    trainer_class = functools.partial(AMATDetectionTrainer, settings=settings)
    arguments = overrides(data, tmp_path, epochs=4, batch=2, save_period=1)
    model = yolo(arguments.pop("model"))
    saved: dict[str, Any] = {}

    def kill(trainer: Any) -> None:
        if trainer.epoch == 1:
            saved.update(margins=trainer.margins.values.clone(), running=trainer.margins.state_dict()["running"])
            raise KilledError

    model.add_callback("on_model_save", kill)
    with pytest.raises(KilledError):
        model.train(trainer=trainer_class, **arguments)
    weights = tmp_path / "run" / "weights"
    assert {"last.pt", "last_margins.pt", "epoch0_margins.pt", "epoch1_margins.pt"} <= {
        p.name for p in weights.iterdir()
    }
    assert 0.5 < float(saved["margins"].max()) <= 1.5
    assert len(saved["margins"].unique()) > 1

    resumed = yolo(weights / "last.pt")
    starts: list[tuple[int, Tensor, dict[str, Any]]] = []
    resumed.add_callback(
        "on_train_batch_start",
        lambda trainer: starts.append(
            (trainer.epoch, trainer.margins.values.clone(), trainer.margins.state_dict()["running"])
        ),
    )
    resumed.train(resume=True, trainer=trainer_class)
    epoch, margins, running = starts[0]
    assert epoch == 2
    assert torch.equal(margins, saved["margins"])
    assert running == saved["running"]
    content = torch.load(weights / "last_margins.pt", weights_only=True)
    assert sorted(content["epochs"]) == [2, 3]
    assert torch.equal(content["epochs"][3]["values"], resumed.trainer.margins.values)
    # Their best weights, which their own code and ours can read, without anything of ours inside.
    from monai_amat.tasks.detection import YOLOv5

    YOLOv5(2, "n", weights=weights / "best.pt")

    other = functools.partial(AMATDetectionTrainer, settings=AMATSettings(step=1.0))
    (weights / "epoch1_margins.pt").rename(weights / "moved.pt")
    with pytest.raises(FileNotFoundError, match=r"its margins, .*epoch1_margins\.pt, are missing"):
        yolo(weights / "epoch1.pt").train(resume=True, trainer=trainer_class)
    (weights / "moved.pt").rename(weights / "epoch1_margins.pt")
    with pytest.raises(ValueError, match=r"made with step 0\.5, but this run has 1\.0"):
        yolo(weights / "epoch1.pt").train(resume=True, trainer=other)
    laxer = functools.partial(
        AMATDetectionTrainer,
        settings=dataclasses.replace(settings, thresholds=RunningThresholds(k=2.0, warmup=1, momentum=0.5)),
    )
    with pytest.raises(ValueError, match=r"made with thresholds\.k 0\.0, but this run has 2\.0"):
        yolo(weights / "epoch1.pt").train(resume=True, trainer=laxer)
    # Their trainer lets a resumed run change its image size.
    with pytest.raises(ValueError, match=r"made with imgsz 64, but this run has 96"):
        yolo(weights / "epoch1.pt").train(resume=True, trainer=trainer_class, imgsz=96)
    constant = functools.partial(AMATDetectionTrainer, settings=AMATSettings(radius=1.0))
    with pytest.raises(ValueError, match=r"of a run with margins, .*epoch1_margins\.pt beside it, got radius=1\.0"):
        yolo(weights / "epoch1.pt").train(resume=True, trainer=constant)


@pytest.mark.parametrize("name", ["mosaic", "mixup", "multi_scale"])
def test_mixed_images_are_refused(name: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"{name}=0\.5: there is one margin per image"):
        AMATDetectionTrainer(overrides=overrides(data, tmp_path, **{name: 0.5}))


def test_several_devices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def two_devices(self: Any, *_: Any) -> None:
        self.args, self.world_size = SimpleNamespace(device="0,1"), 2

    monkeypatch.setattr(from_ultralytics("DetectionTrainer"), "__init__", two_devices)
    with pytest.raises(ValueError, match="trains on one device, got device='0,1'"):
        AMATDetectionTrainer(overrides={})


def test_a_run_that_mixed_images_is_not_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    def resumed(self: Any, *_: Any) -> None:
        self.args = SimpleNamespace(mosaic=1.0, device="cpu")

    monkeypatch.setattr(from_ultralytics("DetectionTrainer"), "__init__", resumed)
    with pytest.raises(ValueError, match="the run that is resumed has mosaic on"):
        AMATDetectionTrainer(overrides={"resume": True})


def test_images_are_not_mixed_by_default(make: MakeTrainer) -> None:
    trainer = make(AMATSettings(radius=0.0))
    assert trainer.args.mosaic == trainer.args.mixup == trainer.args.cutmix == trainer.args.multi_scale == 0
    assert len(trainer.image_files) == 4
    assert trainer.margins is None


def test_a_subclass_may_carry_the_settings(data: Path, tmp_path: Path) -> None:
    class Constant(AMATDetectionTrainer):
        settings = AMATSettings(radius=5.0)

    assert Constant(overrides=overrides(data, tmp_path)).settings.radius == 5.0


def test_their_boxes_become_padded_targets_as_their_criterion_has_them() -> None:
    from monai_amat.tasks.detection import YOLOv5

    draw = torch.Generator().manual_seed(0)
    index = torch.tensor([0.0, 0, 2, 2, 2])
    cls = torch.randint(0, 3, (5, 1), generator=draw).float()
    boxes = 0.1 + 0.4 * torch.rand(5, 4, generator=draw)
    target = padded_targets(index, cls, boxes, torch.zeros(4, 3, 32, 64))
    rows = torch.cat([index[:, None], cls, boxes], 1)
    expected = YOLOv5(3, "n").model.init_criterion().preprocess(rows, 4, torch.tensor([64.0, 32, 64, 32]))
    assert target.shape == (4, 3, 5)
    real = target[..., 0] >= 0
    assert real.sum(1).tolist() == [2, 0, 3, 0]
    torch.testing.assert_close(target[real], expected[real])
    shuffled = torch.tensor([4, 0, 3, 1, 2])
    again = padded_targets(index[shuffled], cls[shuffled], boxes[shuffled], torch.zeros(4, 3, 32, 64))
    assert sorted(map(tuple, again[2].tolist())) == sorted(map(tuple, target[2].tolist()))
    assert padded_targets(index[:0], cls[:0], boxes[:0], torch.zeros(4, 3, 32, 64)).shape == (4, 0, 5)
