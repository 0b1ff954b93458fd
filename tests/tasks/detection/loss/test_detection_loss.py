from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from monai_amat.tasks.detection import DetectionLoss, DetectionParts, YOLOv5

CLASSES, HEIGHT, WIDTH = 3, 64, 96
TERMS = ("box", "cls", "dfl")


@pytest.fixture(scope="module")
def network() -> YOLOv5:
    torch.manual_seed(0)
    return YOLOv5(CLASSES, "n").train()


@pytest.fixture(scope="module")
def loss(network: YOLOv5) -> DetectionLoss:
    return DetectionLoss(network)


def outputs(batch: int, seed: int = 0, requires_grad: bool = False, like: Tensor | None = None) -> dict[str, Any]:
    """Raw outputs at random or, `like` a target, those of a network that has learnt: some cells know their box."""
    draw = torch.Generator().manual_seed(seed)
    sizes = [(HEIGHT // stride, WIDTH // stride) for stride in (8, 16, 32)]
    cells = sum(h * w for h, w in sizes)
    sides = 3 * torch.randn(batch, 4, 16, cells, generator=draw)
    scores = 2 * torch.randn(batch, CLASSES, cells, generator=draw)
    for image, row in [] if like is None else (like[..., 0] >= 0).nonzero().tolist():
        label, x1, y1, x2, y2 = like[image, row].tolist()  # type: ignore[index]
        for cell, (x, y, stride) in enumerate(centres()):
            if x1 < x < x2 and y1 < y < y2 and torch.rand((), generator=draw) < 0.7:
                distances = torch.tensor([x - x1, y - y1, x2 - x, y2 - y]) / stride
                sides[image, :, :, cell] -= 4 * (torch.arange(16) - distances[:, None]) ** 2
                scores[image, int(label), cell] += 2
    return {
        "boxes": sides.flatten(1, 2).requires_grad_(requires_grad),
        "scores": scores.requires_grad_(requires_grad),
        "feats": [torch.zeros(batch, 2, h, w) for h, w in sizes],
    }


def centres() -> list[tuple[float, float, int]]:
    """x, y and stride of every cell, in pixels."""
    return [
        (stride * (column + 0.5), stride * (row + 0.5), stride)
        for stride in (8, 16, 32)
        for row in range(HEIGHT // stride)
        for column in range(WIDTH // stride)
    ]


def boxes(counts: list[int], seed: int = 0, rows: int = 8) -> Tensor:
    """So many boxes in each image, large enough to overlap with something."""
    draw = torch.Generator().manual_seed(100 + seed)
    target = torch.zeros(len(counts), rows, 5)
    target[..., 0] = -1
    size = torch.tensor([WIDTH, HEIGHT])
    for image, count in zip(target, counts, strict=True):
        low = torch.rand(count, 2, generator=draw) * 0.5 * size
        high = low + (0.1 + 0.4 * torch.rand(count, 2, generator=draw)) * size
        labels = torch.randint(0, CLASSES, (count, 1), generator=draw).float()
        image[:count] = torch.cat([labels, low, high], dim=1)
    return target


def theirs(network: YOLOv5, raw: dict[str, Any], target: Tensor, image: int) -> Tensor:
    """The package's criterion on a batch of that one image: its three terms, gains included."""
    rows = target[image][target[image, :, 0] >= 0]
    low, high = rows[:, 1:3], rows[:, 3:]
    size = torch.tensor([WIDTH, HEIGHT])
    truth = {
        "batch_idx": torch.zeros(len(rows)),
        "cls": rows[:, :1],
        "bboxes": torch.cat([(low + high) / 2 / size, (high - low) / size], dim=1),
    }
    one = slice(image, image + 1)
    alone = {"boxes": raw["boxes"][one], "scores": raw["scores"][one], "feats": [level[one] for level in raw["feats"]]}
    terms: Tensor = network.model.init_criterion()(alone, truth)[0]
    return terms


@settings(max_examples=10)
@given(st.lists(st.integers(0, 8), min_size=1, max_size=5), st.integers(0, 1000))
def test_it_is_the_packages_criterion_image_by_image(
    network: YOLOv5, loss: DetectionLoss, counts: list[int], seed: int
) -> None:
    target = boxes(counts, seed)
    raw = outputs(len(counts), seed, like=target if seed % 2 else None)
    terms = loss.terms(raw, target)
    ours = torch.stack([terms[name] * loss.weights[name] for name in TERMS], dim=1)
    expected = torch.stack([theirs(network, raw, target, image) for image in range(len(counts))])
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(loss(raw, target), expected.sum(1), rtol=1e-5, atol=1e-5)


def test_its_gradient_is_that_of_the_criterion_image_by_image(network: YOLOv5, loss: DetectionLoss) -> None:
    counts = [3, 0, 8, 1]
    target = boxes(counts, 1)
    raw = outputs(4, 1, requires_grad=True, like=target)
    leaves = [raw["boxes"], raw["scores"]]
    for place, name in enumerate(TERMS):
        ours = torch.autograd.grad(loss.terms(raw, target)[name].sum() * loss.weights[name], leaves, allow_unused=True)
        total = sum(theirs(network, raw, target, image)[place] for image in range(4))
        expected = torch.autograd.grad(total, leaves, allow_unused=True)  # type: ignore[arg-type]
        # Where nothing flows one may say None and the other 0.
        found: list[Any] = [ours, expected]
        mine, other = (
            [torch.zeros_like(leaf) if value is None else value for value, leaf in zip(values, leaves, strict=True)]
            for values in found
        )
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)
        assert any(bool(value.any()) for value in mine), name


def test_the_images_of_the_comparison_are_not_trivial(network: YOLOv5, loss: DetectionLoss) -> None:
    target = boxes([8], 1)
    raw = outputs(1, 1, like=target)
    terms = loss.terms(raw, target)
    assert all(float(terms[name]) > 0.1 for name in TERMS)
    # The target scores add up to far more than 1, so that dividing by their sum matters.
    logits = raw["scores"].transpose(1, 2)
    summed = network.parts.class_loss(logits, torch.zeros_like(logits)).sum()
    assert float(summed / terms["cls"]) > 3


def test_a_batch_normaliser_would_be_seen(network: YOLOv5, loss: DetectionLoss) -> None:
    target = boxes([1, 8, 4], 2)
    raw = outputs(3, 2, like=target)
    rows = target[target[..., 0] >= 0]
    size = torch.tensor([WIDTH, HEIGHT])
    truth = {
        "batch_idx": (target[..., 0] >= 0).nonzero()[:, 0].float(),
        "cls": rows[:, :1],
        "bboxes": torch.cat([(rows[:, 1:3] + rows[:, 3:]) / 2 / size, (rows[:, 3:] - rows[:, 1:3]) / size], dim=1),
    }
    together = network.model.init_criterion()(raw, truth)[0].sum()
    assert abs(float(together - loss(raw, target).sum())) > 0.1


@settings(max_examples=8)
@given(st.integers(0, 3), st.integers(0, 3), st.integers(0, 8), st.integers(0, 100))
def test_nothing_depends_on_another_sample(loss: DetectionLoss, changed: int, kept: int, count: int, seed: int) -> None:
    if changed == kept:
        return
    counts = [2, 0, 5, 1]
    other_counts = [count if image == changed else was for image, was in enumerate(counts)]
    found = []
    for which, (raw, target) in enumerate(
        [(outputs(4, 3, True), boxes(counts, 3)), (outputs(4, 3, True), boxes(counts, 3))]
    ):
        if which:
            replaced, drawn = outputs(4, 50 + seed), boxes(other_counts, 50 + seed)
            with torch.no_grad():
                for name in ("boxes", "scores"):
                    raw[name][changed] = replaced[name][changed]
            target[changed] = drawn[changed]
        value = loss(raw, target)
        gradient = torch.autograd.grad(value.sum(), [raw["boxes"], raw["scores"]])
        found.append((value[kept].detach(), *(part[kept] for part in gradient)))
    for before, after in zip(*found, strict=True):
        torch.testing.assert_close(before, after, rtol=1e-6, atol=1e-7)


def test_an_image_without_objects_has_the_class_term_alone(loss: DetectionLoss) -> None:
    raw = outputs(2, 4)
    for target in (boxes([0, 0]), torch.zeros(2, 0, 5)):
        terms = loss.terms(raw, target)
        assert terms["box"].tolist() == terms["dfl"].tolist() == [0, 0]
        expected = torch.nn.functional.softplus(raw["scores"]).sum((1, 2))  # cross-entropy against nothing
        torch.testing.assert_close(terms["cls"], expected)
    raw = outputs(2, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(raw, boxes([0, 0])).sum(), raw["scores"])
    assert torch.isfinite(gradient).all()


def test_where_padding_stands_does_not_matter(loss: DetectionLoss) -> None:
    raw, target = outputs(1, 5), boxes([3], 5)
    apart = target[:, [5, 0, 6, 2, 7, 1, 4, 3]]
    torch.testing.assert_close(loss(raw, apart), loss(raw, target))
    torch.testing.assert_close(loss(raw, {"targets": target}), loss(raw, target))


def test_autocast_and_half_precision_are_left_outside(loss: DetectionLoss) -> None:
    raw, target = outputs(2, 6), boxes([4, 2], 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss.terms(raw, target)
        decoded = loss.prediction(raw, target)
    for name, value in loss.terms(raw, target).items():
        assert value.dtype == torch.float32
        assert torch.equal(inside[name], value)
    assert torch.equal(decoded, loss.prediction(raw, target))
    half: dict[str, Any] = {
        name: value.half() if isinstance(value, Tensor) else [level.half() for level in value]
        for name, value in raw.items()
    }
    full = {name: value.float() if isinstance(value, Tensor) else raw["feats"] for name, value in half.items()}
    torch.testing.assert_close(loss(half, target), loss(full, target))


def test_inference_mode_beforehand_does_not_spoil_a_later_gradient(network: YOLOv5) -> None:
    fresh = DetectionLoss(DetectionParts(network.model))
    with torch.inference_mode():
        fresh(outputs(1), boxes([2]))
    raw = outputs(1, requires_grad=True)
    fresh(raw, boxes([2])).sum().backward()
    assert raw["boxes"].grad is not None


def test_its_prediction_is_what_the_network_gives_in_evaluation_mode(network: YOLOv5, loss: DetectionLoss) -> None:
    image = torch.rand(2, 3, HEIGHT, WIDTH)
    with torch.no_grad():
        expected = network.eval()(image)
        raw = network.raw(image)
    network.train()
    torch.testing.assert_close(loss.prediction(raw, None), expected, rtol=1e-4, atol=1e-3)
    assert not loss.prediction(outputs(1, requires_grad=True), None).requires_grad


def test_all_three_terms_are_judged_and_weighted_with_the_packages_gains(network: YOLOv5) -> None:
    loss = DetectionLoss(network)
    assert loss.judged == TERMS
    assert loss.weights == {"box": 7.5, "cls": 0.5, "dfl": 1.5}
    raw, target = outputs(2, 7), boxes([3, 1], 7)
    terms = loss.terms(raw, target)
    only_box = DetectionLoss(network, weights={"cls": 0.0, "dfl": 0.0})
    torch.testing.assert_close(only_box(raw, target), 7.5 * terms["box"])
    assert len(loss.state_dict()) == 0  # the network is not part of its loss
    assert not list(loss.parameters())


def test_class_weights_of_the_model_are_used(network: YOLOv5) -> None:
    raw, target = outputs(2, 8), boxes([3, 1], 8)
    network.model.class_weights = torch.tensor([0.5, 1.0, 1.5])
    try:
        weighted = DetectionLoss(DetectionParts(network.model)).terms(raw, target)
        for image in range(2):
            torch.testing.assert_close(0.5 * weighted["cls"][image], theirs(network, raw, target, image)[1])
    finally:
        del network.model.class_weights
    plain = DetectionLoss(DetectionParts(network.model)).terms(raw, target)
    assert not torch.allclose(plain["cls"], weighted["cls"])


def test_what_cannot_be_a_prediction_says_what_to_do(network: YOLOv5, loss: DetectionLoss) -> None:
    with pytest.raises(TypeError, match=r"inferer=monai_amat\.engines\.RawOutputsInferer\(\)"):
        loss(torch.zeros(2, 7, 126), boxes([1, 1]))
    with pytest.raises(TypeError, match=r"got \['boxes'\]"):
        loss({"boxes": torch.zeros(2, 64, 126)}, boxes([1, 1]))
    with pytest.raises(TypeError, match="got list"):
        loss([torch.zeros(2, 3, 8, 8, 8)], boxes([1, 1]))
    with pytest.raises(ValueError, match=r"got 2 in samples \[1\]"):
        DetectionLoss(YOLOv5(2, "n"))(outputs(2), torch.tensor([[[0.0, 1, 1, 9, 9]], [[2.0, 1, 1, 9, 9]]]))
    with pytest.raises(TypeError, match=r"needs a monai_amat\.tasks\.detection\.YOLOv5.*got Linear"):
        DetectionLoss(torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match=r"weights must name terms .* got \['objectness'\]"):
        DetectionLoss(network, weights={"objectness": 1.0})
