from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from monai_amat.tasks.detection import ClassicYOLOv5Loss

CLASSES, CELLS, STRIDE = 2, (3, 4), 8.0
TERMS = ("box", "obj", "cls")


class StandIn:
    """Of the interface of YOLOv5's ComputeLoss, written for these tests: averages over the batch, detached items."""

    def __init__(self, autobalance: bool = False) -> None:
        self.hyp: dict[str, float] = {"box": 0.05, "obj": 1.0, "cls": 0.5, "anchor_t": 4.0}
        self.autobalance = autobalance
        self.calls: list[int] = []

    def __call__(self, levels: list[Tensor], targets: Tensor) -> tuple[Tensor, Tensor]:
        self.calls.append(len(levels[0]))
        box, obj, cls = (torch.zeros(1, dtype=levels[0].dtype) for _ in range(3))
        for level in levels:
            _, _, height, width, _ = level.shape
            truth = torch.zeros_like(level[..., 4])
            if len(targets):
                image, label = targets[:, 0].long(), targets[:, 1].long()
                place = targets[:, 2:] * torch.tensor([width, height, width, height], dtype=level.dtype)
                column, row = (place[:, i].long().clamp(0, limit - 1) for i, limit in enumerate((width, height)))
                found = level[image, 0, row, column]
                apart = (found[:, :4].tanh() - (place - place.floor())).square().mean(1)
                box += apart.mean()
                truth[image, 0, row, column] = (1 - apart).detach().clamp(0)
                cls += F.binary_cross_entropy_with_logits(found[:, 5:], F.one_hot(label, CLASSES).to(level.dtype))
            obj += F.binary_cross_entropy_with_logits(level[..., 4], truth)
        box *= self.hyp["box"]
        obj *= self.hyp["obj"]
        cls *= self.hyp["cls"]
        return (box + obj + cls) * len(levels[0]), torch.cat([box, obj, cls]).detach()


def levels(batch: int, seed: int = 0, requires_grad: bool = False) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, 3, rows, columns, 5 + CLASSES, generator=draw).requires_grad_(requires_grad)
        for rows, columns in (CELLS, (2, 2))
    ]


def boxes(counts: list[int], seed: int = 0) -> Tensor:
    """In pixels of an image of 24 x 32."""
    draw = torch.Generator().manual_seed(50 + seed)
    target = torch.zeros(len(counts), 4, 5)
    target[..., 0] = -1
    for image, count in zip(target, counts, strict=True):
        low = torch.rand(count, 2, generator=draw) * torch.tensor([20.0, 14.0])
        labels = torch.randint(0, CLASSES, (count, 1), generator=draw).float()
        image[:count] = torch.cat([labels, low, low + 1 + 9 * torch.rand(count, 2, generator=draw)], dim=1)
    return target


def alone(pred: list[Tensor], target: Tensor, image: int) -> tuple[Tensor, Tensor]:
    """The stand-in on a batch of that one image, its targets put together box by box."""
    rows = []
    for label, x1, y1, x2, y2 in target[image].tolist():
        if label >= 0:
            rows.append([0, label, (x1 + x2) / 64, (y1 + y2) / 48, (x2 - x1) / 32, (y2 - y1) / 24])
    return StandIn()([level[image : image + 1] for level in pred], torch.tensor(rows).reshape(-1, 6))


@settings(max_examples=10)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=4), st.integers(0, 100), st.booleans())
def test_it_is_compute_loss_image_by_image(counts: list[int], seed: int, with_gradient: bool) -> None:
    pred, target = levels(len(counts), seed, with_gradient), boxes(counts, seed)
    loss = ClassicYOLOv5Loss(StandIn())
    terms = loss.terms(pred, target)
    assert tuple(terms) == loss.judged == TERMS
    for image in range(len(counts)):
        total, items = alone(pred, target, image)
        torch.testing.assert_close(torch.stack([terms[name][image] for name in TERMS]).detach(), items)
        torch.testing.assert_close(loss(pred, target)[image], total.squeeze())


def test_each_term_has_its_own_gradient() -> None:
    target = boxes([2, 0, 4])
    pred = levels(3, 1, requires_grad=True)
    terms = ClassicYOLOv5Loss(StandIn()).terms(pred, target)
    for name in TERMS:
        ours = torch.autograd.grad(terms[name].sum(), pred, retain_graph=True)
        only = StandIn()
        only.hyp = {key: value if key in (name, "anchor_t") else 0.0 for key, value in only.hyp.items()}
        fresh = [level.detach().clone().requires_grad_(True) for level in pred]
        for image in range(3):
            low, high = target[image, :, 1:3], target[image, :, 3:]
            real = target[image, :, 0] >= 0
            rows = torch.cat([(low + high) / 2 / torch.tensor([32.0, 24]), (high - low) / torch.tensor([32.0, 24])], 1)
            rows = torch.cat([torch.zeros(4, 1), target[image, :, :1], rows], 1)[real]
            only([level[image : image + 1] for level in fresh], rows)[0].sum().backward()
        for mine, level in zip(ours, fresh, strict=True):
            assert level.grad is not None
            torch.testing.assert_close(mine, level.grad)
    assert all(bool(gradient.any()) for gradient in torch.autograd.grad(terms["obj"].sum(), pred))


def test_nothing_depends_on_another_sample() -> None:
    found = []
    for change in (False, True):
        pred, target = levels(3, 2), boxes([1, 3, 2], 2)
        if change:
            for level, other in zip(pred, levels(3, 9), strict=True):
                level[1] = other[1]
            target[1] = boxes([0, 4, 0], 9)[1]
        for level in pred:
            level.requires_grad_(True)
        value = ClassicYOLOv5Loss(StandIn())(pred, target)
        gradients = torch.autograd.grad(value.sum(), pred)
        found.append([value[[0, 2]].detach(), *(gradient[[0, 2]] for gradient in gradients)])
    for before, after in zip(*found, strict=True):
        assert torch.equal(before, after)


def test_three_calls_an_image_with_a_gradient_and_one_without() -> None:
    compute = StandIn()
    loss = ClassicYOLOv5Loss(compute)
    loss(levels(2), boxes([1, 0]))
    assert compute.calls == [1, 1]
    with torch.no_grad():
        loss(levels(2, requires_grad=True), boxes([1, 0]))
    assert compute.calls == [1] * 4
    loss(levels(2, requires_grad=True), boxes([1, 0]))
    assert compute.calls == [1] * 10


def test_the_gains_stay_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    compute = StandIn()
    gains = compute.hyp
    loss = ClassicYOLOv5Loss(compute, weights={"obj": 2.0})
    terms = loss.terms(levels(1, requires_grad=True), boxes([1]))
    assert compute.hyp is gains
    assert gains == {"box": 0.05, "obj": 1.0, "cls": 0.5, "anchor_t": 4.0}
    torch.testing.assert_close(loss.total(terms), terms["box"] + 2 * terms["obj"] + terms["cls"])
    monkeypatch.setattr(StandIn, "__call__", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        loss(levels(1, requires_grad=True), boxes([1]))
    assert compute.hyp is gains


def test_autocast_and_half_precision_are_left_outside() -> None:
    loss, target = ClassicYOLOv5Loss(StandIn()), boxes([2])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(levels(1), target)
    assert torch.equal(inside, loss(levels(1), target))
    half = [level.half() for level in levels(1)]
    assert torch.equal(loss(half, target), loss([level.float() for level in half], target))


def test_an_empty_batch_is_nothing() -> None:
    terms = ClassicYOLOv5Loss(StandIn()).terms(levels(0), torch.zeros(0, 4, 5))
    assert [tuple(value.shape) for value in terms.values()] == [(0,)] * 3


def test_its_prediction_is_what_the_network_decoded() -> None:
    loss, decoded = ClassicYOLOv5Loss(StandIn()), torch.zeros(1, 6, 4)
    raw = {"levels": levels(1), "decoded": decoded}
    assert loss.prediction(raw, None) is decoded
    assert loss.prediction(raw["levels"], None) is raw["levels"]
    torch.testing.assert_close(loss(raw, boxes([1])), loss(levels(1), boxes([1])))


class WithoutGains:
    def __call__(self, levels: list[Tensor], targets: Tensor) -> Any:
        raise AssertionError


@pytest.mark.parametrize(
    ("compute", "keywords", "error", "message"),
    [
        (
            WithoutGains(),
            {},
            TypeError,
            "box, obj, cls, got WithoutGains with hyp of type NoneType",
        ),
        (StandIn(autobalance=True), {}, ValueError, "autobalance=False"),
        (StandIn(), {"stride": 0.0}, ValueError, r"stride must be positive and finite, got 0\.0"),
        (StandIn(), {"weights": {"dfl": 1.0}}, ValueError, r"weights must name terms .* got \['dfl'\]"),
    ],
)
def test_what_it_cannot_work_with(compute: Any, keywords: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ClassicYOLOv5Loss(compute, **keywords)


def test_what_cannot_be_a_prediction_says_what_to_do() -> None:
    loss = ClassicYOLOv5Loss(StandIn())
    for wrong in (torch.zeros(1, 6, 4), [torch.zeros(1, 6, 4)], {"boxes": torch.zeros(1, 64, 4)}):
        with pytest.raises(TypeError, match=r"\(B, anchors, h, w, 5 \+ classes\).*RawOutputsInferer\(\)"):
            loss(wrong, boxes([1]))
    with pytest.raises(ValueError, match=r"got 2 in samples \[0\]"):
        loss(levels(1), torch.tensor([[[2.0, 1, 1, 9, 9]]]))
