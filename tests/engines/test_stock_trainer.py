"""MONAI's own SupervisedTrainer, unchanged, with our prepare_batch and handlers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from monai.engines import SupervisedTrainer
from torch import Tensor, nn

from monai_amat.attacks import InnerStart, ProjectedGradientDescent
from monai_amat.engines import PrepareBatchAdversarial
from monai_amat.handlers import IMAGE_NOISY, PRED_NOISY
from monai_amat.losses import PerSampleLoss
from monai_amat.margins import PaperRule, PathRule, SampleMargins
from monai_amat.tasks.segmentation import nnunet_2d
from tests.engines.stock import LOSS, Net, Training, batches, same_weights, with_meta

# ------------------------------------------------------------------ equation 1 and Algorithm 1


def test_the_loss_is_equation_1() -> None:
    network, loader = Net(), batches(4)
    before = copy.deepcopy(network)
    run = Training(network, loader).run()
    last = run.prepare.last
    assert last is not None
    with torch.no_grad():
        clean = LOSS(before(loader[0]["image"]), loader[0]["label"])
        noisy = LOSS(before(last.noisy), loader[0]["label"])
    assert run.losses == [pytest.approx(float((clean.mean() + noisy.mean()) / 2), abs=1e-6)]
    assert float(noisy.mean()) > float(clean.mean()) + 0.05


def test_without_noise_it_is_plain_training() -> None:
    network, plain = Net(), Net()
    Training(network, batches(4, 4, 2), radius=0.0, epochs=2).run()
    optimizer = torch.optim.SGD(plain.parameters(), 0.1, momentum=0.9)
    SupervisedTrainer("cpu", 2, batches(4, 4, 2), plain, optimizer, LOSS).run()
    same_weights(network, plain)


STEPS, REL_STEP, DELTA, RATE, CLIP = 4, 0.4, 0.5, 0.05, (-0.5, 0.5)


def algorithm_1(network: nn.Module, loader: Any, epochs: int, margins: Tensor, xi: float | None) -> None:
    """The paper's loop in plain PyTorch: two forwards, one step; without ξ the margins stand still (SAT)."""
    optimizer = torch.optim.SGD(network.parameters(), RATE, momentum=0.9)

    def loss(image: Tensor, label: Tensor) -> Tensor:
        logits = network(image)
        return nn.functional.cross_entropy(logits, label[:, 0].long(), reduction="none").mean(dim=(1, 2))

    for batch in loader * epochs:
        clean, label, ids = batch["image"], batch["label"], batch["sample_id"].tolist()
        radius = margins[batch["sample_id"]].to(clean)

        def confined(noise: Tensor, radius: Tensor, clean: Tensor = clean) -> Tensor:
            norm = noise.flatten(1).norm(dim=1)
            inside = noise * torch.where(norm > radius, radius / norm, 1.0).reshape(-1, 1, 1, 1)
            return (clean + inside).clamp(*CLIP) - clean

        draws = [torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(int(s))) for s in batch["sample_seed"]]
        start = (radius - DELTA).clamp_min(DELTA)
        cube = (2 * torch.stack(draws).to(clean) - 1) * start.reshape(-1, 1, 1, 1)
        noise = confined(cube * (start / cube.flatten(1).norm(dim=1)).clamp_max(1).reshape(-1, 1, 1, 1), radius)
        for _ in range(STEPS):  # line 3
            noise.requires_grad_(True)
            (gradient,) = torch.autograd.grad(loss(clean + noise, label).sum(), noise)
            direction = gradient / gradient.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
            noise = confined(noise.detach() + REL_STEP * radius.reshape(-1, 1, 1, 1) * direction, radius)
        clean_loss, noisy_loss = loss(clean, label), loss(clean + noise, label)
        optimizer.zero_grad()
        ((clean_loss.mean() + noisy_loss.mean()) / 2).backward()  # equation 1
        optimizer.step()
        if xi is not None:
            for row, i in enumerate(ids):  # lines 9 to 13
                norm = float(noise[row].norm())
                margins[i] = margins[i] + DELTA if float(noisy_loss[row].detach()) < xi else (norm + margins[i]) / 2


class CrossEntropy(PerSampleLoss):
    def terms(self, pred: Tensor, target: Tensor) -> dict[str, Tensor]:
        return {"ce": nn.functional.cross_entropy(pred, target[:, 0].long(), reduction="none").mean(dim=(1, 2))}


@pytest.mark.parametrize("adaptive", [False, True])
def test_training_is_the_papers_loop(adaptive: bool) -> None:
    loader = batches(4, 4, 2, dtype=torch.float64)
    for batch in loader:
        batch["image"].clamp_(*CLIP)
    network, reference = Net(dtype=torch.float64), Net(dtype=torch.float64)
    margins, by_hand, xi = SampleMargins(10, DELTA), torch.full((10,), DELTA), 0.8
    Training(
        network,
        loader,
        radius=margins if adaptive else DELTA,
        rule=PaperRule(step=DELTA) if adaptive else None,
        xi=xi,
        loss=CrossEntropy(),
        attack=ProjectedGradientDescent(
            steps=STEPS, rel_step=REL_STEP, random_start=InnerStart(DELTA), clip_range=CLIP
        ),
        rate=RATE,
        epochs=5,
    ).run()
    algorithm_1(reference, loader, 5, by_hand, xi if adaptive else None)
    same_weights(network, reference)
    torch.testing.assert_close(margins.values, by_hand if adaptive else torch.full((10,), DELTA), rtol=1e-5, atol=1e-6)
    if adaptive:
        off_grid = by_hand / DELTA % 1 > 1e-3
        assert 0 < int(off_grid.sum()) < 10, "some margins must have been refined and some only grown"
        assert len(by_hand.unique()) > 3
    moved = network.state_dict()["body.0.weight"] - Net(dtype=torch.float64).state_dict()["body.0.weight"]
    assert float(moved.abs().max()) > 1e-3


# ------------------------------------------------------------------ what MONAI's trainer can do besides


def test_gradient_accumulation() -> None:
    loader = batches(4, 4, 2)
    network, reference = Net(), Net()
    margins = SampleMargins(10, 1.0)
    run = Training(network, loader, accumulation_steps=2, radius=margins, rule=PaperRule(step=1.0), xi=2.0).run()
    # By hand: the first two batches make one step, the last one makes another.
    optimizer = torch.optim.SGD(reference.parameters(), 0.1, momentum=0.9)
    prepare = PrepareBatchAdversarial(network=reference, loss=LOSS, attack=run.prepare.attack, radius=1.0)
    for window, share in ((loader[:2], 2), (loader[2:], 2)):
        optimizer.zero_grad()
        for batch in window:
            inputs, target = prepare(batch)
            (LOSS(reference(inputs), target).mean() / share).backward()
        optimizer.step()
    same_weights(network, reference)
    assert margins.values.tolist() == [2.0] * 10


def test_short_last_batches_and_batches_of_one() -> None:
    margins = SampleMargins(6, 1.0)
    run = Training(Net(), batches(4, 1, 1), radius=margins, rule=PaperRule(step=1.0), xi=5.0, epochs=2).run()
    assert margins.values.tolist() == [3.0] * 6
    assert [len(visits.ids) for visits in run.visits] == [4, 1, 1] * 2
    assert [len(output) for output in run.outputs] == [4, 1, 1] * 2


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_forwards_of_a_step(norm: str) -> None:
    network = Net(norm)
    Training(network, batches(4), radius=SampleMargins(4, 1.0), rule=PaperRule(step=1.0)).run()
    measuring = [4, 4] if norm == "batch" else []  # x and x̃ through frozen, where the training forward differs
    assert network.forwards == [4, 4, 4, *measuring, 8]


def test_batchnorm_statistics_move_once_a_step_and_by_both_halves() -> None:
    network = Net("batch")
    first = network.body[0]
    run = Training(network, batches(4), rate=0.0, radius=SampleMargins(4, 1.0), rule=PaperRule(step=1.0)).run()
    last = run.prepare.last
    assert last is not None
    norm = network.body[1]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.num_batches_tracked is not None
    assert int(norm.num_batches_tracked) == 1
    with torch.no_grad():
        features = first(torch.cat([last.clean, last.noisy]))
    torch.testing.assert_close(norm.running_mean, 0.1 * features.mean(dim=(0, 2, 3)))


def test_outer_autocast() -> None:
    network = Net()
    margins = SampleMargins(4, 1.0)
    run = Training(network, batches(4), radius=margins, rule=PaperRule(step=1.0), xi=5.0)
    seen: list[torch.dtype] = []
    network.body[0].register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        run.run()
    assert set(seen) == {torch.bfloat16}
    assert len(seen) == 4
    assert margins.values.tolist() == [2.0] * 4
    last = run.prepare.last
    assert last is not None
    assert last.noisy.dtype == torch.float32
    torch.testing.assert_close(last.noise_norm, torch.ones(4))
    exact = Training(Net(), batches(4)).run()
    assert run.losses[0] == pytest.approx(exact.losses[0], rel=2e-2)
    assert all(value.dtype == torch.float32 for value in network.state_dict().values())


@pytest.mark.parametrize("compiled", [False, True])
def test_meta_tensors_with_and_without_compile(compiled: bool) -> None:
    loader = batches(4, shape=(16, 16))
    torch.manual_seed(1)
    network = nnunet_2d(in_channels=1, out_channels=2, patch_size=(16, 16), features=[4, 4, 4], poolings=(2, 2))
    plain = copy.deepcopy(network)
    settings: dict[str, Any] = {"compile": True, "compile_kwargs": {"backend": "eager"}} if compiled else {}
    margins = SampleMargins(4, 1.0)
    run = Training(network, [with_meta(loader[0])], radius=margins, rule=PaperRule(step=1.0), xi=9.0, **settings).run()
    expected = Training(plain, loader).run()
    assert run.losses == pytest.approx(expected.losses, rel=1e-5)
    same_weights(network, plain, 1e-5)
    assert margins.values.tolist() == [2.0] * 4
    (items,) = run.outputs
    (plain_items,) = expected.outputs
    assert len(items) == 4
    for row, (item, other) in enumerate(zip(items, plain_items, strict=True)):
        for name in ("image", "pred", IMAGE_NOISY, PRED_NOISY):
            assert isinstance(item[name], MetaTensor)
            assert item[name].meta["name"] == f"case_{row}"
            torch.testing.assert_close(item[name].affine, torch.eye(4, dtype=torch.float64) * (row + 1))
            torch.testing.assert_close(item[name].as_tensor(), other[name], rtol=1e-4, atol=1e-5)
        assert isinstance(item["label"], MetaTensor)
        assert torch.equal(item["image"].as_tensor(), loader[0]["image"][row])
        assert item["pred"].shape == (2, 16, 16)


def test_deep_supervision_trains_all_heads_and_shows_the_first() -> None:
    loader = batches(2, shape=(16, 16))
    torch.manual_seed(1)
    network = nnunet_2d(in_channels=1, out_channels=2, patch_size=(16, 16), features=[4, 4, 4, 4], poolings=(3, 3))
    before = copy.deepcopy(network)
    heads = before.train()(loader[0]["image"])
    assert heads.ndim == 5
    assert heads.shape[1] > 1
    run = Training(network, loader, radius=SampleMargins(2, 1.0), rule=PaperRule(step=1.0)).run()
    last = run.prepare.last
    assert last is not None
    with torch.no_grad():
        clean, noisy = before(loader[0]["image"]), before(last.noisy)
        expected = (LOSS(clean, loader[0]["label"]).mean() + LOSS(noisy, loader[0]["label"]).mean()) / 2
    assert run.losses == [pytest.approx(float(expected), rel=1e-5)]
    torch.testing.assert_close(run.raw[0]["pred"], clean[:, 0])
    torch.testing.assert_close(run.raw[0][PRED_NOISY], noisy[:, 0])
    torch.testing.assert_close(run.handler.output.noisy.terms["total"], LOSS(noisy, loader[0]["label"]))


def test_volumes() -> None:
    margins = SampleMargins(2, 1.0)
    run = Training(Net(spatial=3), batches(2, shape=(6, 6, 4)), radius=margins, rule=PathRule(step=1.0), xi=9.0).run()
    assert run.raw[0]["pred"].shape == (2, 2, 6, 6, 4)
    assert margins.values.tolist() == [2.0, 2.0]
