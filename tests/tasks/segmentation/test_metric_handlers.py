"""ADI and TVDI in MONAI's evaluator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from monai.engines import SupervisedEvaluator
from monai.handlers import MetricsSaver
from monai.transforms import AsDiscreted, Compose
from torch import nn

from monai_amat.tasks.segmentation import (
    AverageDiceIndexHandler,
    TotalVoxelDiceIndexHandler,
    average_dice,
    dice_counts,
    total_dice,
)


def batches() -> list[dict[str, torch.Tensor]]:
    draw = torch.Generator().manual_seed(5)
    return [
        {
            "image": torch.randn(size, 3, 4, 4, generator=draw),
            "label": torch.randint(0, 3, (size, 1, 4, 4), generator=draw),
        }
        for size in (3, 2)
    ]


def evaluate(**options: Any) -> SupervisedEvaluator:
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=batches(),
        network=nn.Identity(),
        key_val_metric={"val_adi": AverageDiceIndexHandler(num_classes=3)},
        additional_metrics={
            "val_adi_every": AverageDiceIndexHandler(num_classes=3, slices="every", save_details=False),
            "val_tvdi": TotalVoxelDiceIndexHandler(num_classes=3),
        },
        **options,
    )
    evaluator.run()
    return evaluator


@pytest.mark.parametrize("decollate", [True, False])
def test_scalars_class_values_and_details(decollate: bool) -> None:
    state = evaluate(decollate=decollate).state
    counts = torch.cat([dice_counts(batch["image"], batch["label"], 2) for batch in batches()])
    adi, tvdi = average_dice(counts), total_dice(counts)
    assert state.metrics == {
        "val_adi": adi.mean.item(),
        "val_adi_1": adi.per_class[0].item(),
        "val_adi_2": adi.per_class[1].item(),
        "val_adi_every": average_dice(counts, slices="every").mean.item(),
        "val_tvdi": tvdi.mean.item(),
        "val_tvdi_1": tvdi.per_class[0].item(),
        "val_tvdi_2": tvdi.per_class[1].item(),
    }
    assert state.best_metric == adi.mean.item()
    assert set(state.metric_details) == {"val_adi", "val_tvdi"}
    assert state.metric_details["val_adi"].shape == (5, 2)


def test_the_usual_postprocessing_changes_nothing() -> None:
    to_onehot = Compose([AsDiscreted("pred", argmax=True, to_onehot=3), AsDiscreted("label", to_onehot=3)])
    assert evaluate(postprocessing=to_onehot).state.metrics == evaluate().state.metrics


def test_metrics_saver_writes_a_line_a_sample(tmp_path: Path) -> None:
    saver = MetricsSaver(save_dir=str(tmp_path), metrics="val_adi", metric_details="val_adi")
    evaluate(val_handlers=[saver])
    lines = (tmp_path / "val_adi_raw.csv").read_text().splitlines()
    assert len(lines) == 1 + 5


def test_details_need_an_engine() -> None:
    handler = AverageDiceIndexHandler(num_classes=3)
    batch = batches()[0]
    handler.update([batch["image"], batch["label"]])
    with pytest.raises(RuntimeError, match=r"attach\(engine, name\)"):
        handler.compute()
    handler.attach(Engine(lambda engine, batch: None), "adi")
    assert handler.compute() > 0
