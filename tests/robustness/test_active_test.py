"""The active test and the look at a network: points in the ball, heads that separate, attacks that find and do not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from monai_amat.attacks import AutoProjectedGradientDescent, Member, ProjectedGradientDescent, WorstOf
from monai_amat.engines import BatchObjective
from monai_amat.robustness.active_test import ActiveTest, separate
from monai_amat.robustness.network_checks import NetworkCheck
from monai_amat.tasks.segmentation import DiceCELoss, HardDice
from tests.robustness.defended import Behind, blobs, trained


def objective(network: nn.Module, count: int = 3) -> tuple[BatchObjective, Tensor]:
    images, labels = blobs(count, seed=1)
    return BatchObjective(network=network, loss=DiceCELoss(), target=labels), images


@pytest.mark.parametrize("norm", [2, "inf"])
def test_points_lie_where_they_should(norm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    def note(features: Tensor) -> None:
        seen.append(features)

    monkeypatch.setattr("monai_amat.robustness.active_test.separate", note)
    image = torch.randn(1, 1, 4, 4)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))  # its last layer's inputs are the pixels themselves
    test = ActiveTest(ProjectedGradientDescent(norm=norm), points=30)
    test(BatchObjective(network=network, loss=DiceCELoss(), target=torch.zeros(1)), image, 2.0, seeds=[5])
    sizes = test.norm.size(seen[0] - image.flatten())
    assert len(sizes) == 32
    assert sizes[0] == 0
    assert (sizes[1:-1] <= 0.95 * 2 * (1 + 1e-5)).all()
    assert sizes[1:-1].mean() > 1.6
    assert sizes[-1].item() == pytest.approx(2.0)
    assert len({round(size, 5) for size in sizes[1:].tolist()}) > 20
    assert "do not separate" in test.skipped
    assert test.report() == {"images": 0, "found": None, "found_at_random": None, "skipped": test.skipped}


def test_a_head_separates_all_points_where_features_are_many() -> None:
    features = torch.randn(40, 100, generator=torch.Generator().manual_seed(0)) * 1e3 + 5e3
    head = separate(features)
    assert head is not None
    values = torch.stack([head(point) for point in features])
    torch.testing.assert_close(values[:-1], torch.full((39,), -1.0), rtol=0, atol=1e-2)
    assert values[-1].item() == pytest.approx(1.0, abs=1e-2)
    # Two features cannot hold forty points apart.
    assert separate(features[:, :2]) is None


@pytest.mark.parametrize(
    ("attack", "kind", "finds"),
    [
        (ProjectedGradientDescent(steps=12, rel_step=0.4), None, True),
        (ProjectedGradientDescent(steps=12, rel_step=0.4, norm="inf"), None, True),
        (AutoProjectedGradientDescent(steps=12), None, True),
        (
            WorstOf(
                attacks={"a": Member(AutoProjectedGradientDescent(steps=12), DiceCELoss())},
                metric=HardDice(num_classes=3),
            ),
            None,
            True,
        ),
        (AutoProjectedGradientDescent(steps=12), "rounded", False),
        (AutoProjectedGradientDescent(steps=12), "detached", False),
        (ProjectedGradientDescent(steps=0), None, False),
    ],
)
def test_sound_attacks_find_the_planted_points_and_others_do_not(attack: Any, kind: str | None, finds: bool) -> None:
    whole, images = objective(trained() if kind is None else Behind(trained(), kind))
    test = ActiveTest(attack, points=40, samples=2)
    result = test(whole, images, 1.0 if str(attack.norm) == "L2" else 0.1)
    assert test.found == [finds] * 2
    assert max(test.found_at_random) < 0.1
    assert torch.equal(result.noisy, images)


def test_it_stops_at_its_number_of_images_and_leaves_the_network_as_it_was() -> None:
    network = trained()
    hooks = sum(len(module._forward_pre_hooks) for module in network.modules())
    whole, images = objective(network)
    test = ActiveTest(ProjectedGradientDescent(steps=2), points=3, samples=1)
    test(whole, images, 1.0)
    test(whole, images, 1.0)
    assert len(test.found) == 1
    assert sum(len(module._forward_pre_hooks) for module in network.modules()) == hooks
    without = ActiveTest(ProjectedGradientDescent(steps=2))
    without(BatchObjective(network=nn.Identity(), loss=DiceCELoss(), target=torch.zeros(1)), images, 1.0)
    assert "no layer with weights" in without.skipped
    for check in (without, NetworkCheck()):
        with pytest.raises(TypeError, match="through a BatchObjective, got function"):
            check(lambda noisy, rows: noisy.sum(1), torch.zeros(1, 2), 1.0)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("in_bf16", {"random": False, "probabilities": False}),
        ("scaled", {"random": False, "probabilities": False}),
        ("one_hot", {"random": False, "probabilities": True}),
        ("noisy", {"random": True, "probabilities": False}),
    ],
)
def test_a_look_at_the_network(kind: str, expected: dict[str, bool]) -> None:
    whole, images = objective(Behind(trained(), kind))
    check = NetworkCheck()
    assert torch.equal(check(whole, images, 1.0).noisy, images)
    report = check.report()
    assert {name: report[name] for name in expected} == expected
    assert (report["saturated"] > 0.9) is (kind == "scaled")
