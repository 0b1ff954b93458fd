from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.inferers import Inferer
from torch import Tensor, nn

from monai_amat.attacks import Evaluation
from monai_amat.engines import BatchObjective, measure
from monai_amat.losses import PerSampleLoss
from monai_amat.margins import Absolute, Measurement, MetricAtLeast, Relative
from monai_amat.tasks.segmentation import DiceCELoss


class TwoHeads(nn.Module):
    """Its output is a dictionary, and it takes one input by position and one by name."""

    def forward(self, image: Tensor, gain: Tensor, *, shift: Tensor) -> dict[str, Tensor]:
        value = image.mean(dim=1) * gain + shift
        return {"value": value, "double": 2 * value}


class TwoTerms(PerSampleLoss):
    def __init__(self) -> None:
        super().__init__(weights={"near": 1.0, "far": 0.5}, judged=("near", "far"))

    def terms(self, pred: Any, target: Any) -> dict[str, Tensor]:
        return {
            "near": (pred["value"] - target["value"]).square(),
            "far": (pred["double"] - target["others"][0]).abs(),
        }

    def prediction(self, pred: Any, target: Any) -> Any:
        return pred["value"]


IMAGE = torch.tensor([[1.0, 3.0], [2.0, 2.0], [5.0, 1.0], [0.0, 0.0]])
TARGET: dict[str, Any] = {"value": torch.tensor([0.0, 1.0, 2.0, 3.0]), "others": [torch.tensor([4.0, 3.0, 2.0, 1.0])]}
GAIN, SHIFT = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([0.0, 0.5, 1.0, 1.5])


def objective(**settings: Any) -> BatchObjective:
    return BatchObjective(
        network=TwoHeads(), loss=TwoTerms(), target=TARGET, args=(GAIN,), kwargs={"shift": SHIFT}, **settings
    )


def by_hand(row: int, image: Tensor = IMAGE) -> tuple[float, float]:
    value = float(image[row].mean() * GAIN[row] + SHIFT[row])
    return (value - float(TARGET["value"][row])) ** 2, abs(2 * value - float(TARGET["others"][0][row]))


@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [1, 3], [2]])
def test_rows_meet_their_own_targets_and_extra_inputs(rows: list[int]) -> None:
    chosen = torch.tensor(rows)
    evaluation = objective()(IMAGE[chosen], chosen)
    assert evaluation.accepted is None
    expected = [near + 0.5 * far for near, far in map(by_hand, rows)]
    assert evaluation.loss.tolist() == pytest.approx(expected)


def test_the_loss_is_differentiable_in_the_input() -> None:
    noisy = IMAGE.clone().requires_grad_(True)
    objective()(noisy, torch.arange(4)).loss.sum().backward()
    assert noisy.grad is not None
    assert bool((noisy.grad != 0).all())


def test_verdicts_are_by_term_and_cost_no_graph() -> None:
    near, far = zip(*(by_hand(row) for row in range(4)), strict=True)
    acceptance = Absolute({"near": sorted(near)[2], "far": sorted(far)[3]})
    result = objective(acceptance=acceptance)(IMAGE, torch.arange(4))
    assert isinstance(result, Evaluation)
    assert result.accepted is not None
    expected = [a < sorted(near)[2] and b < sorted(far)[3] for a, b in zip(near, far, strict=True)]
    assert result.accepted.tolist() == expected
    assert len(set(expected)) == 2


def test_the_verdict_may_be_on_the_total_and_on_what_metrics_see() -> None:
    rows = torch.tensor([0, 2])
    total = [near + 0.5 * far for near, far in map(by_hand, [0, 2])]
    result = objective(acceptance=Absolute({"total": max(total)}))(IMAGE[rows], rows)
    assert result.accepted is not None
    assert result.accepted.tolist() == [value < max(total) for value in total]
    seen: list[tuple[Tensor, Any]] = []

    def metric(pred: Tensor, target: Any) -> Tensor:
        seen.append((pred, target))
        return pred

    objective(acceptance=MetricAtLeast(metric, 0.0))(IMAGE[rows], rows)
    pred, target = seen[0]
    assert torch.equal(pred, (IMAGE.mean(dim=1) * GAIN + SHIFT)[rows])
    assert torch.equal(target["others"][0], TARGET["others"][0][rows])


def test_relative_verdicts_compare_a_row_with_its_own_clean_value() -> None:
    clean = objective().measure(IMAGE)
    moved = IMAGE + torch.tensor([[0.1], [-0.2], [0.3], [-0.4]])
    rows = torch.tensor([1, 2, 3])
    growth = torch.tensor(
        [
            by_hand(row, moved)[0] + 0.5 * by_hand(row, moved)[1] - by_hand(row)[0] - 0.5 * by_hand(row)[1]
            for row in (1, 2, 3)
        ]
    )
    tolerance = float(growth.median()) + 1e-3
    result = objective(acceptance=Relative(tolerance), clean=clean)(moved[rows], rows)
    assert result.accepted is not None
    assert result.accepted.tolist() == (growth < tolerance).tolist()
    assert 0 < int(result.accepted.sum()) < 3


def test_the_inferer_applies_the_network() -> None:
    class Twice(Inferer):
        def __call__(self, inputs: Tensor, network: Any, *args: Any, **kwargs: Any) -> Any:
            return network(2 * inputs, *args, **kwargs)

    assert torch.equal(
        objective(inferer=Twice())(IMAGE, torch.arange(4)).loss, objective()(2 * IMAGE, torch.arange(4)).loss
    )


def test_measuring_keeps_terms_total_and_what_metrics_see_without_a_graph() -> None:
    pred = {name: value.requires_grad_(True) for name, value in TwoHeads()(IMAGE, GAIN, shift=SHIFT).items()}
    measured = measure(TwoTerms(), pred, TARGET)
    assert isinstance(measured, Measurement)
    assert set(measured.terms) == {"near", "far", "total"}
    assert not any(value.requires_grad for value in measured.terms.values())
    assert measured.terms["total"].tolist() == pytest.approx([near + 0.5 * far for near, far in map(by_hand, range(4))])
    assert measured.target is TARGET
    assert torch.equal(measured.pred, pred["value"])


def test_measuring_takes_the_head_of_full_resolution() -> None:
    heads, target = torch.randn(2, 3, 2, 8, 8), torch.randint(0, 2, (2, 1, 8, 8))
    assert torch.equal(measure(DiceCELoss(), heads, target).pred, heads[:, 0])


def test_terms_that_are_not_per_sample_are_refused() -> None:
    class Reduced(TwoTerms):
        def terms(self, pred: Any, target: Any) -> dict[str, Tensor]:
            return {"near": pred["value"].mean(), "far": pred["value"]}

    with pytest.raises(ValueError, match=r"'near' must hold one value per sample, shape \(4,\), got shape \(\)"):
        measure(Reduced(), TwoHeads()(IMAGE, GAIN, shift=SHIFT), TARGET)
