from __future__ import annotations

import csv
import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.engines import SupervisedTrainer
from torch import Tensor, nn

from monai_amat.attacks import ProjectedGradientDescent
from monai_amat.engines import PrepareBatchAdversarial
from monai_amat.handlers.adaptive_margin import AdaptiveMarginHandler
from monai_amat.handlers.margin_stats import MarginStatsHandler
from monai_amat.losses import PerSampleLoss
from monai_amat.margins import Absolute, AdaptiveMargins, MarginRule, PaperRule, PathRule, SampleMargins


class Level(PerSampleLoss):
    """The loss of a sample is its one pixel, so that noise of size E raises it by E."""

    def terms(self, pred: Any, target: Any) -> dict[str, Tensor]:
        return {"level": pred[:, 0] + torch.where(pred[:, 0] > 50, torch.inf, 0.0)}


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, image: Tensor) -> Tensor:
        return image * self.factor


def a_batch(pixels: list[float], ids: list[int]) -> dict[str, Tensor]:
    image = torch.tensor(pixels)[:, None]
    return {"image": image, "label": torch.zeros_like(image), "sample_id": torch.tensor(ids)}


# x + E < ξ = 3 accepts; pixels are clipped at 3.5. The fourth of five samples never comes.
LOADER = [a_batch([0.0, 2.75], [0, 1]), a_batch([5.5 - 2.0, 1.5], [2, 4])]
STATS: dict[str, Any] = {"groups": ["one", "both", "both", "one", "none"]}


class Run:
    def __init__(
        self, rule: MarginRule, *, epochs: int = 1, loader: list[Any] | None = None, first: bool = False, **stats: Any
    ) -> None:
        network = Scale()
        self.margins = SampleMargins(5, 1.0)
        prepare = PrepareBatchAdversarial(
            network=network,
            loss=Level(),
            attack=ProjectedGradientDescent(steps=4, rel_step=0.5, random_start=None, clip_range=(-9.0, 3.5)),
            radius=AdaptiveMargins(self.margins, acceptance=Absolute({"total": 3.0}), rule=rule),
        )
        self.handler = AdaptiveMarginHandler(prepare)
        self.stats = MarginStatsHandler(self.handler, **stats)
        self.engine = SupervisedTrainer(
            "cpu",
            epochs,
            LOADER if loader is None else loader,
            network,
            torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1),
            prepare.loss,
            prepare_batch=prepare,
            train_handlers=[self.stats, self.handler] if first else [self.handler, self.stats],
        )

    def run(self) -> Run:
        self.engine.run()
        return self


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("rule", [PaperRule(step=1.0), PathRule(step=1.0)])
def test_a_row_by_hand(rule: MarginRule) -> None:
    run = Run(rule, **STATS).run()
    # Sample 0: 0 + 1 accepted, E = 2. Sample 1: 2.75 clipped to noise .75, rejected, E = .875. Sample 2: 3.5 rejected
    # when clean, noise 0, E = .5. Sample 4: 1.5 + 1 accepted, E = 2. Sample 3 stays at 1.
    assert run.margins.values.tolist() == [2, 0.875, 0.5, 1, 2]
    row = run.stats.row
    assert run.engine.state.margin_stats is row
    expected = {
        "epoch": 1,
        "mean": 6.375 / 5,
        "max": 2,
        "q05": 0.5,
        "q25": 0.875,
        "q50": 1,
        "q75": 2,
        "q95": 2,
        "visits": 4,
        "accepted": 2 / 4,
        "clean_accepted": 3 / 4,
        "noise_norm": (1 + 0.75 + 0 + 1) / 4,
        "shrank": 2 / 4,
        "gradient_evaluations": 16,
        "evaluations_per_visit": 4,
        "stalled": 0,
        "mean[one]": 1.5,
        "mean[both]": 0.6875,
        "mean[none]": 2,
    }
    assert row == pytest.approx(expected)
    assert set(row) == set(expected)


def test_each_epoch_counts_its_own_visits() -> None:
    run = Run(PaperRule(step=1.0), epochs=2).run()
    assert (run.stats.row["epoch"], run.stats.row["visits"], run.stats.row["gradient_evaluations"]) == (2, 4, 16)
    # Epoch 2: sample 0 accepted at 2, sample 4 rejected at 1.5 + 2, clipped to 3.5 and refined to itself.
    assert run.stats.row["accepted"] == 1 / 4
    assert not any("[" in name for name in run.stats.row)


def test_an_epoch_without_usable_visits() -> None:
    run = Run(PaperRule(step=1.0), loader=[a_batch([3.0, 3.0], [0, 1])])
    run.handler.prepare_batch.loss = run.engine.loss_function = type(
        "Broken", (Level,), {"terms": lambda self, pred, target: {"level": pred[:, 0] * torch.nan}}
    )()
    row = run.run().stats.row
    assert row["visits"] == 0
    assert row["gradient_evaluations"] == 0
    assert all(math.isnan(row[name]) for name in ("accepted", "clean_accepted", "noise_norm", "shrank"))
    assert row["mean"] == 1


def test_the_table_has_a_row_an_epoch(tmp_path: Path) -> None:
    path = tmp_path / "new" / "margins.csv"
    run = Run(PaperRule(step=1.0), epochs=3, path=path, **STATS).run()
    rows = table(path)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert {name: float(value) for name, value in rows[-1].items()} == run.stats.row


def test_a_resumed_run_goes_on_in_the_table_and_does_later_rows_again(tmp_path: Path) -> None:
    path = tmp_path / "margins.csv"
    Run(PaperRule(step=1.0), epochs=3, path=path).run()
    old = table(path)
    resumed = Run(PaperRule(step=1.0), epochs=4, path=path)
    resumed.engine.state.epoch, resumed.engine.state.iteration = 1, 2  # as ResumeHandler leaves it after epoch 1
    resumed.run()
    rows = table(path)
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert rows[0] == old[0]
    assert rows[1] != old[1]  # these margins started anew, so the redone epoch is told apart


@pytest.mark.parametrize("content", ["name,value\na,1\n", "epoch,mean\nfirst,2\n"])
def test_a_file_of_another_kind_is_not_overwritten(tmp_path: Path, content: str) -> None:
    path = tmp_path / "margins.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"margins\.csv is not a table of margins"):
        Run(PaperRule(step=1.0), path=path).run()
    assert path.read_text() == content


def test_tensorboard_gets_every_column(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

    run = Run(PaperRule(step=1.0), epochs=2, log_dir=tmp_path / "events", **STATS).run()
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {f"margins/{name}" for name in run.stats.row if name != "epoch"}
    assert [entry.step for entry in events.Scalars("margins/mean")] == [1, 2]
    assert events.Scalars("margins/mean")[-1].value == pytest.approx(run.stats.row["mean"])
    assert events.Tags()["histograms"] == ["margins/values"]


def test_the_log_has_a_line_an_epoch(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="monai_amat.handlers.margin_stats"):
        Run(PaperRule(step=1.0)).run()
    (line,) = [record.getMessage() for record in caplog.records if record.name == "monai_amat.handlers.margin_stats"]
    assert line == "epoch 1: margins mean 1.27, median 1, 95 % 2; accepted 50 % of noisy and 75 % of clean"


def test_as_many_groups_as_margins() -> None:
    with pytest.raises(ValueError, match="5 margins need as many group names, got 2"):
        Run(PaperRule(step=1.0), groups=["a", "b"])


def test_the_handler_of_the_margins_comes_first() -> None:
    with pytest.raises(ValueError, match="attach AdaptiveMarginHandler first"):
        Run(PaperRule(step=1.0), first=True)
