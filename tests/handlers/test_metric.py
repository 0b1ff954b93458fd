"""Any metric in MONAI's engines: the figures of the curve, in one process and in two."""

from __future__ import annotations

import math
import operator
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from monai.engines import SupervisedEvaluator
from monai.handlers import MetricsSaver
from monai.transforms import AsDiscreted, Compose
from torch import Tensor, nn

from monai_amat.engines import PrepareBatchTargets
from monai_amat.handlers import Metric, MetricHandler
from monai_amat.tasks.detection import DetectionMetric
from monai_amat.tasks.landmarks import RadialErrorMetric
from monai_amat.tasks.landmarks.transforms.maps import landmark_maps
from monai_amat.tasks.segmentation import DiceIndexMetric

CLASSES = ("RBC", "WBC")


def slices() -> list[dict[str, Tensor]]:
    draw = torch.Generator().manual_seed(5)
    return [
        {
            "image": torch.randn(size, 3, 4, 4, generator=draw),
            "label": torch.randint(0, 3, (size, 1, 4, 4), generator=draw),
        }
        for size in (3, 2)
    ]


def radiographs() -> list[dict[str, Any]]:
    """Maps off the truth by 0 to 4 pixels along each axis; one landmark is missing."""
    draw = torch.Generator().manual_seed(2)
    found = []
    for size in (3, 2):
        truth = 6 + 18 * torch.rand(size, 2, 2, generator=draw)
        points = truth + 4 * torch.rand(size, 2, 2, generator=draw)
        maps = torch.stack([landmark_maps(each, (40, 30), 2.0) for each in points])
        truth[0, 1] = math.nan
        image = torch.cat([20 * maps[:, :2] - 10, maps[:, 2:]], dim=1)
        target = {"maps": maps, "landmarks": truth, "spacing": torch.tensor([[1.0, 0.5]]).repeat(size, 1)}
        found.append({"image": image, **target})
    return found


def smears() -> list[dict[str, Tensor]]:
    """Two batches whose "images" are the detections, padded by rows of score 0; in the last image there are none."""
    draw = torch.Generator().manual_seed(3)
    corners = 40 * torch.rand(5, 4, 2, generator=draw)
    boxes = torch.cat([corners, corners + 5 + 20 * torch.rand(5, 4, 2, generator=draw)], dim=2)
    labels = torch.randint(0, 2, (5, 4, 1), generator=draw).float()
    near = boxes + torch.randn(5, 4, 4, generator=draw).clamp(-2, 2)
    found = torch.cat([near, torch.rand(5, 4, 1, generator=draw), labels], dim=2)
    found[4, :, 4] = 0
    true = torch.cat([labels, boxes], dim=2)
    return [{"image": found[part], "label": true[part]} for part in (slice(0, 3), slice(3, 5))]


def decode(pred: Tensor) -> list[Tensor]:
    return [rows[rows[:, 4] > 0] for rows in pred]


class Plain:
    """A task: its batches, its metric, and how MONAI's evaluator is set up for it."""

    def __init__(self, metric: Metric, batches: Callable[[], list[dict[str, Any]]], **options: Any) -> None:
        self.metric = metric
        self.batches = batches
        self.options = options

    def evaluate(self, handler: MetricHandler, **options: Any) -> SupervisedEvaluator:
        evaluator = SupervisedEvaluator(
            device=torch.device("cpu"),
            val_data_loader=self.batches(),
            network=nn.Identity(),
            key_val_metric={"val": handler},
            **self.options | options,
        )
        evaluator.run()
        return evaluator

    def rows(self) -> pd.DataFrame:
        frames = [
            pd.DataFrame(self.metric.columns(batch["image"], batch.get("label", batch))) for batch in self.batches()
        ]
        return pd.concat(frames, ignore_index=True)


DICE = Plain(DiceIndexMetric(num_classes=3), slices)
RADIAL = Plain(
    RadialErrorMetric(landmarks=2), radiographs, prepare_batch=PrepareBatchTargets(), metric_cmp_fn=operator.lt
)
BOXES = Plain(DetectionMetric(classes=CLASSES, decode=decode), smears)
TASKS = pytest.mark.parametrize("task", [DICE, RADIAL, BOXES], ids=["dice", "radial", "boxes"])


@pytest.mark.parametrize("decollate", [True, False])
@TASKS
def test_figures_are_those_of_the_curve_to_the_last_bit(task: Plain, decollate: bool) -> None:
    summary = task.metric.summary(task.rows())
    headline, *others = summary
    further = {f"also_{name}": name for name in others}
    state = task.evaluate(MetricHandler(task.metric, further=further, save_details=False), decollate=decollate).state
    expected = {"val": summary[headline], **{label: summary[name] for label, name in further.items()}}
    assert state.metrics == pytest.approx(expected, rel=0, abs=0, nan_ok=True)
    assert state.best_metric == summary[headline]


@TASKS
def test_a_figure_by_name_brings_its_parts_and_each_samples_own(task: Plain, tmp_path: Path) -> None:
    summary = task.metric.summary(task.rows())
    name = list(summary)[2]  # tvdi, sdr_2.5, map
    saver = MetricsSaver(save_dir=str(tmp_path), metrics="*", metric_details="val")
    with np.errstate(invalid="ignore"):
        state = task.evaluate(MetricHandler(task.metric, name), val_handlers=[saver], metric_cmp_fn=operator.gt).state
    parts = [part for part in summary if part.startswith(f"{name}_")]
    assert len(parts) == 2
    assert state.metrics == pytest.approx(
        {"val": summary[name], **{f"val{part.removeprefix(name)}": summary[part] for part in parts}}, nan_ok=True
    )
    alone = [[task.metric.summary(task.rows().iloc[[i]])[part] for part in parts] for i in range(5)]
    np.testing.assert_array_equal(state.metric_details["val"].numpy(), alone)
    assert len((tmp_path / "val_raw.csv").read_text().splitlines()) == 1 + 5


def test_the_usual_postprocessing_changes_nothing() -> None:
    to_onehot = Compose([AsDiscreted("pred", argmax=True, to_onehot=3), AsDiscreted("label", to_onehot=3)])
    plain, discrete = (
        DICE.evaluate(MetricHandler(DICE.metric), **options).state.metrics
        for options in ({}, {"postprocessing": to_onehot})
    )
    assert discrete == plain


def test_a_second_run_starts_anew_and_the_best_epoch_is_that_of_the_smallest_error() -> None:
    evaluator = RADIAL.evaluate(MetricHandler(RADIAL.metric))
    first = evaluator.state.best_metric
    # Predictions lie below and to the right of the truth, by up to 4 pixels.
    for epoch, shift, best_epoch in ((2, -3.0, 1), (3, 2.0, 3)):
        evaluator.data_loader = [{**batch, "landmarks": batch["landmarks"] + shift} for batch in radiographs()]
        evaluator.run(global_epoch=epoch)
        assert evaluator.state.best_metric_epoch == best_epoch
    assert evaluator.state.best_metric < first


@pytest.mark.parametrize(("task", "compare"), [(RADIAL, operator.gt), (DICE, operator.lt)])
def test_a_key_metric_that_is_compared_the_wrong_way_is_refused(task: Plain, compare: Any) -> None:
    better = "higher" if task is DICE else "lower"
    with pytest.raises(ValueError, match=f"{better} is better for val, but .*metric_cmp_fn"):
        task.evaluate(MetricHandler(task.metric), metric_cmp_fn=compare)
    # The same metric's detection rate is better where it is higher.
    RADIAL.evaluate(MetricHandler(RADIAL.metric, "sdr_2"), metric_cmp_fn=operator.gt)


def test_what_cannot_be_computed_is_said() -> None:
    with pytest.raises(ValueError, match=r"has no figure 'dice'; choose one of adi, adi_every_class, tvdi"):
        DICE.evaluate(MetricHandler(DICE.metric, "dice"))
    with pytest.raises(ValueError, match="DiceIndexMetric has seen no sample"):
        MetricHandler(DICE.metric).compute()
    with pytest.raises(TypeError, match="got object without columns, summary, higher_is_better"):
        MetricHandler(object())  # type: ignore[arg-type]


def test_samples_of_different_sizes_in_one_batch() -> None:
    handler = MetricHandler(DICE.metric)
    pred = [torch.randn(3, 4, 4), torch.randn(3, 5, 6)]
    handler.update((pred, [torch.ones(1, 4, 4), torch.ones(1, 5, 6)]))
    assert handler.rows()[["tp_1", "fn_1"]].sum(axis=1).tolist() == [16, 30]


def test_processes_that_do_not_know_of_each_other_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torchrun starts them when the configuration does not set up torch.distributed."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match="evaluation was started as 2 processes without a process group"):
        DICE.evaluate(MetricHandler(DICE.metric))


RANK = """
import os
import sys

import torch.distributed as dist

sys.path.insert(0, sys.argv[3])
from test_metric import TASKS, MetricHandler

rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=rank, world_size=2)
for share in ([1, 1], [2, 0]):  # a batch each, and one rank without any sample
    for task in TASKS.args[1]:
        handler = MetricHandler(task.metric)
        batches = task.batches()
        for batch in batches[: share[0]] if rank == 0 else batches[2 - share[1] :]:
            handler.update((batch["image"], batch.get("label", batch)))
        print(rank, len(handler.rows()), repr(handler.compute()), flush=True)
dist.barrier()
os._exit(0)  # gloo's threads now and then keep an interpreter from ending
"""


@pytest.mark.slow
def test_two_ranks_with_uneven_or_empty_shares_agree_with_one_process(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RANK]
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    ranks = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "store"), str(Path(__file__).parent)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment | {"PATH": ""},
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=900)[0] for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    expected = []
    for task in (DICE, RADIAL, BOXES):
        value = next(iter(task.metric.summary(task.rows()).values()))
        assert 0.05 < value < 50
        expected.append(f"5 {value!r}")
    for rank, output in enumerate(outputs):
        assert output.splitlines() == [f"{rank} {line}" for line in expected * 2]
