"""MRE and SDR in MONAI's evaluator."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from monai.engines import SupervisedEvaluator
from monai.handlers import MetricsSaver
from torch import Tensor, nn

from monai_amat.engines import PrepareBatchTargets
from monai_amat.tasks.landmarks import (
    MeanRadialErrorHandler,
    RadialErrorMetric,
    RadialErrors,
    SuccessfulDetectionRateHandler,
    radial_error,
)
from monai_amat.tasks.landmarks.transforms.maps import landmark_maps

SIZE = (40, 30)


def batches() -> list[dict[str, Any]]:
    """Maps off the truth by 0 to 6 pixels; one landmark is missing."""
    draw = torch.Generator().manual_seed(2)
    found = []
    for size in (3, 2):
        truth = 6 + 18 * torch.rand(size, 2, 2, generator=draw)
        points = truth + 4 * torch.rand(size, 2, 2, generator=draw)
        maps = torch.stack([landmark_maps(each, SIZE, 2.0) for each in points])
        truth[0, 1] = math.nan
        found.append({
            "image": torch.cat([20 * maps[:, :2] - 10, maps[:, 2:]], dim=1),
            "maps": maps,
            "landmarks": truth,
            "spacing": torch.tensor([[1.0, 0.5]]).repeat(size, 1),
            "points": points,
        })  # fmt: skip
    return found


def evaluate(**options: Any) -> SupervisedEvaluator:
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=batches(),
        network=nn.Identity(),
        prepare_batch=PrepareBatchTargets(),
        key_val_metric={"val_mre": MeanRadialErrorHandler(landmarks=2)},
        additional_metrics={
            "val_sdr": SuccessfulDetectionRateHandler(landmarks=2),
            "val_sdr_4": SuccessfulDetectionRateHandler(landmarks=2, threshold=4.0, save_details=False),
        },
        metric_cmp_fn=lambda current, best: current < best,
        **options,
    )
    evaluator.run()
    return evaluator


def expected() -> Tensor:
    return torch.cat([radial_error(batch["points"], batch["landmarks"], batch["spacing"]) for batch in batches()])


@pytest.mark.parametrize("decollate", [True, False])
def test_scalars_and_details(decollate: bool) -> None:
    state = evaluate(decollate=decollate).state
    errors = expected()
    there = errors[~errors.isnan()]
    assert len(there) == 8
    assert set(state.metrics) == {"val_mre", "val_sdr", "val_sdr_4"}
    assert state.metrics["val_mre"] == pytest.approx(there.mean().item(), abs=1e-4)
    assert state.metrics["val_sdr"] == pytest.approx(100 * (there < 2).double().mean().item())
    assert state.metrics["val_sdr_4"] == pytest.approx(100 * (there < 4).double().mean().item())
    assert 0 < state.metrics["val_sdr"] < state.metrics["val_sdr_4"]
    assert set(state.metric_details) == {"val_mre", "val_sdr"}
    torch.testing.assert_close(state.metric_details["val_mre"], errors, rtol=0, atol=1e-4, equal_nan=True)
    assert state.metric_details["val_sdr"].isnan().equal(errors.isnan())


def test_agrees_with_the_robustness_metric() -> None:
    import pandas as pd

    metric = RadialErrors(landmarks=2)
    parts = [pd.DataFrame(metric.columns(batch["image"], batch)) for batch in batches()]
    summary = metric.summary(pd.concat(parts, ignore_index=True))
    metrics = evaluate().state.metrics
    assert metrics["val_mre"] == pytest.approx(summary["mre"])
    assert (metrics["val_sdr"], metrics["val_sdr_4"]) == pytest.approx((summary["sdr_2"], summary["sdr_4"]))


def test_the_best_epoch_is_that_of_the_smallest_error() -> None:
    evaluator = evaluate()
    first = evaluator.state.best_metric
    # Predictions lie below and to the right of the truth, by up to 4 pixels.
    for epoch, shift, best_epoch in ((2, -3.0, 1), (3, 2.0, 3)):
        evaluator.data_loader = [{**batch, "landmarks": batch["landmarks"] + shift} for batch in batches()]
        evaluator.run(global_epoch=epoch)
        assert evaluator.state.best_metric_epoch == best_epoch
    assert evaluator.state.best_metric < first


def test_metrics_saver_writes_a_line_a_sample(tmp_path: Path) -> None:
    saver = MetricsSaver(save_dir=str(tmp_path), metrics="val_mre", metric_details="val_mre")
    evaluate(val_handlers=[saver])
    assert len((tmp_path / "val_mre_raw.csv").read_text().splitlines()) == 1 + 5


def test_reset_forgets() -> None:
    metric, batch = RadialErrorMetric(landmarks=2), batches()[0]
    metric(batch["image"], batch)
    assert metric(batch["image"], batch).shape == (3, 2, 2)
    assert len(metric.errors().error) == 6
    metric.reset()
    with pytest.raises(ValueError, match="has seen no sample"):
        metric.aggregate()


def test_the_truth_is_needed() -> None:
    with pytest.raises(ValueError, match="needs the truth"):
        RadialErrorMetric(landmarks=1)(torch.zeros(1, 3, 40, 40))


def test_details_need_an_engine() -> None:
    handler, batch = MeanRadialErrorHandler(landmarks=2), batches()[0]
    handler.update([batch["image"], batch])
    with pytest.raises(RuntimeError, match=r"attach\(engine, name\)"):
        handler.compute()
    handler.attach(Engine(lambda engine, batch: None), "mre")
    assert handler.compute() > 0


@pytest.mark.parametrize("threshold", [0.0, -1.0, math.nan])
def test_bad_threshold(threshold: float) -> None:
    with pytest.raises(ValueError, match="thresholds"):
        SuccessfulDetectionRateHandler(landmarks=2, threshold=threshold)
