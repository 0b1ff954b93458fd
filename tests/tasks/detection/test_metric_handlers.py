"""Average IoU and mAP in MONAI's evaluator."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from monai.engines import SupervisedEvaluator
from monai.handlers import MetricsSaver
from torch import Tensor, nn

from monai_amat.tasks.detection import AverageIoU, AverageIoUHandler, MeanAveragePrecision, MeanAveragePrecisionHandler

CLASSES = ("RBC", "WBC", "Platelets")
Drawn = Callable[[int], Any]


def decode(pred: Tensor) -> list[Tensor]:
    """Passes for a network's decoding: rows without score are padding."""
    return [rows[rows[:, 4] > 0] for rows in pred]


def batches(drawn: Drawn) -> tuple[list[dict[str, Tensor]], list[Tensor], Tensor]:
    """Two batches whose "images" are what the network gives, padded to one length."""
    found, true = drawn(0)
    most = max(len(rows) for rows in found)
    images = torch.stack([torch.cat([rows, torch.zeros(most - len(rows), 6)]) for rows in found])
    parts = [{"image": images[part], "label": true[part]} for part in (slice(0, 4), slice(4, 6))]
    return parts, found, true


def evaluate(drawn: Drawn, **options: Any) -> SupervisedEvaluator:
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=batches(drawn)[0],
        network=nn.Identity(),
        key_val_metric={"val_map": MeanAveragePrecisionHandler(classes=CLASSES, decode=decode)},
        additional_metrics={
            "val_iou": AverageIoUHandler(classes=CLASSES, decode=decode),
            "val_iou_found": AverageIoUHandler(classes=CLASSES, decode=decode, over="detected", save_details=False),
        },
        **options,
    )
    evaluator.run()
    return evaluator


@pytest.mark.parametrize("decollate", [True, False])
def test_scalars_and_class_values(drawn: Drawn, decollate: bool) -> None:
    state = evaluate(drawn, decollate=decollate).state
    _, found, true = batches(drawn)
    precision = MeanAveragePrecision(classes=CLASSES)
    true_iou, found_iou = (AverageIoU(classes=CLASSES, over=over) for over in ("true", "detected"))
    for metric in (precision, true_iou, found_iou):
        metric(found, true)
    index = precision.index()
    expected = {"val_map": index.map.item(), "val_map50": index.map50.item()}
    expected |= {f"val_map_{name}": index.per_class[c].item() for c, name in enumerate(CLASSES)}
    expected |= {f"val_map50_{name}": index.per_class50[c].item() for c, name in enumerate(CLASSES)}
    expected |= {"val_iou": true_iou.index().mean.item(), "val_iou_found": found_iou.index().mean.item()}
    expected |= {f"val_iou_{name}": true_iou.index().per_class[c].item() for c, name in enumerate(CLASSES)}
    assert state.metrics == pytest.approx(expected, nan_ok=True)
    assert state.best_metric == expected["val_map"]
    details = state.metric_details["val_iou"]
    assert details.shape == (6, 3)
    alone = AverageIoU(classes=CLASSES)
    alone(found[3:4], true[3:4])
    assert details[3].tolist() == pytest.approx(alone.index().per_class.tolist(), nan_ok=True)


@pytest.mark.filterwarnings("ignore:Mean of empty slice:RuntimeWarning")  # MONAI's, over an image without objects
def test_metrics_saver_writes_a_line_an_image(drawn: Drawn, tmp_path: Path) -> None:
    saver = MetricsSaver(save_dir=str(tmp_path), metrics="*", metric_details="val_iou")
    evaluate(drawn, val_handlers=[saver])
    assert len((tmp_path / "val_iou_raw.csv").read_text().splitlines()) == 1 + 6
    assert "val_map50" in (tmp_path / "metrics.csv").read_text()


def test_a_second_run_starts_anew(drawn: Drawn) -> None:
    evaluator = evaluate(drawn)
    first = dict(evaluator.state.metrics)
    evaluator.run()
    assert evaluator.state.metrics == pytest.approx(first, nan_ok=True)


def test_class_values_need_an_engine(drawn: Drawn) -> None:
    _, found, true = batches(drawn)
    for handler in (AverageIoUHandler(classes=CLASSES), MeanAveragePrecisionHandler(classes=CLASSES)):
        handler.update([found, true])
        with pytest.raises(RuntimeError, match=r"attach\(engine, name\)"):
            handler.compute()
        handler.attach(Engine(lambda engine, batch: None), "figure")
        assert handler.compute() > 0
