"""Two processes under DistributedDataParallel (gloo) against one process that sees the same batches."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from torch import Tensor, nn
from torch import distributed as dist

import monai_amat
from monai_amat.attacks import BoundaryPGD, InnerStart, ProjectedGradientDescent
from monai_amat.data.indexed import IndexedDataset
from monai_amat.data.sampler import SeededSampler
from monai_amat.engines import FrozenInferer, PrepareBatchAdversarial, PrepareBatchNoisy, frozen, unwrap
from monai_amat.handlers import (
    AdaptiveMarginHandler,
    AdversarialOutputHandler,
    EpochSeedHandler,
    MarginStatsHandler,
    NonFiniteGuardHandler,
    ResumeHandler,
    ThresholdHandler,
)
from monai_amat.losses import PerSampleLoss
from monai_amat.margins import (
    AdaptiveMargins,
    BoundaryRule,
    MarginRule,
    PaperRule,
    PathRule,
    RunningThresholds,
    SampleMargins,
)
from monai_amat.tasks.segmentation import DiceCELoss
from tests.watching import watched

pytestmark = pytest.mark.slow  # starts processes

WORLD, SAMPLES, BATCH = 2, 10, 4
LOSS = DiceCELoss(smooth=1.0)


class Net(nn.Module):
    def __init__(self, norm: str = "instance") -> None:
        super().__init__()
        torch.manual_seed(1)
        middle = nn.InstanceNorm2d(4, affine=True) if norm == "instance" else nn.BatchNorm2d(4)
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), middle, nn.LeakyReLU(), nn.Conv2d(4, 2, 1)).double()
        self.forwards = 0

    def forward(self, image: Tensor) -> Tensor:
        self.forwards += 1
        return self.body(image)


class Level(PerSampleLoss):
    """The loss of a sample is its one pixel, and infinite beyond 50."""

    def terms(self, pred: Any, target: Any) -> dict[str, Tensor]:
        return {"level": pred[:, 0] + torch.where(pred[:, 0] > 50, torch.inf, 0.0)}


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, image: Tensor) -> Tensor:
        return image * self.factor


def items() -> list[dict[str, Tensor]]:
    source = torch.Generator().manual_seed(3)
    return [
        {
            "image": torch.randn(1, 8, 8, generator=source).double(),
            "label": torch.randint(0, 2, (1, 8, 8), generator=source).double(),
        }
        for _ in range(SAMPLES)
    ]


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def parallel(network: nn.Module) -> nn.Module:
    return nn.parallel.DistributedDataParallel(network) if dist.is_initialized() else network


def train(rule: MarginRule, attack: Any, *, xi: float | None = None, stats: Path | None = None) -> dict[str, Any]:
    """Two epochs of AMAT; the last batch is short. Without ξ it runs along."""
    network = parallel(Net())
    dataset = IndexedDataset(Dataset(items()), seed=4)
    loader = DataLoader(dataset, batch_size=BATCH // world(), sampler=SeededSampler(SAMPLES, seed=6))
    margins, running = SampleMargins(SAMPLES, 1.0), RunningThresholds(momentum=0.5, warmup=1, k=0.5)
    prepare = PrepareBatchAdversarial(
        network=network,
        loss=LOSS,
        attack=attack,
        radius=AdaptiveMargins(margins, acceptance=watched({"total": xi} if xi else None, running), rule=rule),
    )
    handler = AdaptiveMarginHandler(prepare)
    summary = MarginStatsHandler(handler, path=stats)
    visited: list[list[int]] = []
    trainer = SupervisedTrainer(
        "cpu",
        2,
        loader,
        network,
        torch.optim.SGD(network.parameters(), 0.1, momentum=0.9),
        LOSS,
        prepare_batch=prepare,
        train_handlers=[EpochSeedHandler(seed=8), handler, summary],
    )

    def note(engine: Any) -> None:
        assert handler.visits is not None
        visited.append(handler.visits.ids.tolist())

    trainer.add_event_handler("ITERATION_COMPLETED", note)
    trainer.run()
    inner: Any = unwrap(network)
    return {
        "margins": margins.values,
        "weights": inner.state_dict(),
        "forwards": inner.forwards,
        "running": running.state_dict(),
        "row": summary.row,
        "visited": visited,
    }


def uneven(rank: int) -> dict[str, Any]:
    """Batches of different sizes on the two ranks, and a step that only one rank spoils."""
    pixels = {0: [[0.0, 9.0, 0.0], [0.0], [0.0]], 1: [[0.0], [0.0, 60.0], [9.0, 0.0]]}[rank]
    ids = {0: [[0, 1, 2], [0], [0]], 1: [[2], [3, 4], [0, 5]]}[rank]
    network = parallel(Scale())
    margins, running, guard = SampleMargins(6, 1.0), RunningThresholds(warmup=1), NonFiniteGuardHandler()
    prepare = PrepareBatchAdversarial(
        network=network,
        loss=Level(),
        attack=ProjectedGradientDescent(steps=4, rel_step=0.5, random_start=None),
        radius=AdaptiveMargins(margins, acceptance=watched({"total": 3.0}, running), rule=PaperRule(step=1.0)),
    )
    handler = AdaptiveMarginHandler(prepare)
    loader = [
        {"image": torch.tensor(row)[:, None], "label": torch.zeros(len(row), 1), "sample_id": torch.tensor(number)}
        for row, number in zip(pixels, ids, strict=True)
    ]
    trainer = SupervisedTrainer(
        "cpu",
        1,
        loader,
        network,
        torch.optim.SGD(network.parameters(), 0.0),
        Level(),
        prepare_batch=prepare,
        train_handlers=[handler, guard],
    )
    steps: list[list[float]] = []
    trainer.add_event_handler("ITERATION_COMPLETED", lambda _: steps.append(margins.values.tolist()))
    trainer.run()
    return {"steps": steps, "running": running.values, "skipped": guard.total}


def calibrate(rank: int, path: Path, parts: Iterable[int]) -> dict[str, Any]:
    """ξ from the samples of the given parts (of two, unevenly cut)."""
    chosen = [item for part in parts for item in ([items()[:7], items()[7:]][part])]
    handler = ThresholdHandler(LOSS, path)
    SupervisedEvaluator(
        torch.device("cpu"),
        DataLoader(Dataset(chosen), batch_size=3),
        parallel(Net("batch")),
        mode="train",
        inferer=FrozenInferer(),
        val_handlers=[handler],
    ).run()
    assert handler.thresholds is not None
    return {"values": handler.thresholds.values, "samples": handler.thresholds.provenance["samples"]}


def alone(rank: int) -> dict[str, Any]:
    """What rank 0 does while rank 1 does nothing: an attack must not wait for others, also with BatchNorm."""
    network = nn.parallel.DistributedDataParallel(Net("batch"))
    batch = {name: torch.stack([item[name] for item in items()[:3]]) for name in ("image", "label")}
    result: dict[str, Any] = {}
    if rank == 0:
        settings: dict[str, Any] = {"loss": LOSS, "attack": ProjectedGradientDescent(steps=2)}
        result["train"] = PrepareBatchAdversarial(network=network, radius=1.0, **settings)(batch)[0]
        result["eval"] = PrepareBatchNoisy(network=network, epsilon=1.0, **settings)(batch)[0]
        with frozen(network) as still:
            result["inner"] = still is network.module
    return result


def partitioned(rank: int, given: bool) -> str:
    """What AMAT says of processes that each have a part of the data, all parts with IDs from 0."""
    network = parallel(Net())
    dataset = IndexedDataset(Dataset(items()[rank * 5 : rank * 5 + 5]))
    margins = SampleMargins(5, 1.0, fingerprint=dataset.fingerprint if given else "")
    prepare = PrepareBatchAdversarial(
        network=network,
        loss=LOSS,
        attack=ProjectedGradientDescent(steps=1),
        radius=AdaptiveMargins(margins, acceptance=watched({"total": 1.0}, RunningThresholds()), rule=PAPER["rule"]),
    )
    trainer = SupervisedTrainer(
        "cpu",
        1,
        DataLoader(dataset, batch_size=2),
        network,
        torch.optim.SGD(network.parameters(), 0.1),
        LOSS,
        prepare_batch=prepare,
        train_handlers=[AdaptiveMarginHandler(prepare)],
    )
    try:
        trainer.run()
    except RuntimeError as error:
        return str(error)
    return ""


def resumed(rank: int, folder: Path, epochs: list[int], adaptive: bool) -> dict[str, Any]:
    """A network with BatchNorm, trained in as many goes as there are numbers of epochs."""
    for last in epochs:
        network = parallel(Net("batch"))
        dataset = IndexedDataset(Dataset(items()), seed=4)
        loader = DataLoader(dataset, batch_size=BATCH // world(), sampler=SeededSampler(SAMPLES, seed=6))
        margins = AdaptiveMargins(
            SampleMargins(SAMPLES, 1.0), acceptance=watched({"total": 1.25}, RunningThresholds()), rule=PAPER["rule"]
        )
        prepare = PrepareBatchAdversarial(
            network=network, loss=LOSS, attack=PAPER["attack"], radius=margins if adaptive else 1.0
        )
        optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
        output = AdaptiveMarginHandler(prepare) if adaptive else AdversarialOutputHandler(prepare)
        seeds, resume = EpochSeedHandler(seed=8), ResumeHandler(folder, {"margins": margins} if adaptive else None)
        SupervisedTrainer(
            "cpu", last, loader, network, optimizer, LOSS, prepare_batch=prepare, train_handlers=[seeds, output, resume]
        ).run()
    return {"network": unwrap(network).state_dict(), "margins": margins.values}


PAPER: dict[str, Any] = {
    "rule": PaperRule(step=1.0),
    "attack": ProjectedGradientDescent(steps=3, rel_step=0.5, random_start=InnerStart(1.0)),
}
PATH: dict[str, Any] = {"rule": PathRule(step=1.0, decay=0.5), "attack": ProjectedGradientDescent(steps=3), "xi": 1.14}
BOUNDARY: dict[str, Any] = {
    "rule": BoundaryRule(step=1.0, floor=0.25),
    "attack": BoundaryPGD(floor=0.25, steps=3, rel_step=0.5, halvings=4),
    "xi": 1.14,
}


def work(rank: int, folder: Path) -> None:
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'meeting'}",
        rank=rank,
        world_size=WORLD,
        timeout=timedelta(seconds=600),
    )
    stats = folder / f"margins_{rank}.csv"
    result = {
        "paper": train(**PAPER, stats=stats),
        "path": train(**PATH),
        "boundary": train(**BOUNDARY),
        "uneven": uneven(rank),
        "calibrate": calibrate(rank, folder / f"xi_{rank}.json", [rank]),
        "alone": alone(rank),
        "partitioned": [partitioned(rank, given) for given in (True, False)],
        **{
            f"{name} {'amat' if adaptive else 'sat'}": resumed(rank, folder / f"{name}_{adaptive}", epochs, adaptive)
            for name, epochs in (("whole", [3]), ("resumed", [1, 3]))
            for adaptive in (False, True)
        },
    }
    dist.barrier()
    torch.save(result, folder / f"rank_{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where both ranks have left what they found."""
    folder = tmp_path_factory.mktemp("ranks")
    package = Path(monai_amat.__file__).parent.parent  # the same as here, installed or not
    path = os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": path}
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(folder)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(WORLD)
    ]
    try:
        outputs = [rank.communicate(timeout=900)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(outputs)
    return folder


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Any]]:
    return [torch.load(folder / f"rank_{rank}.pt", weights_only=False) for rank in range(WORLD)]


@pytest.mark.parametrize(("name", "settings"), [("paper", PAPER), ("path", PATH), ("boundary", BOUNDARY)])
def test_two_processes_do_what_one_does(ranks: list[dict[str, Any]], name: str, settings: dict[str, Any]) -> None:
    first, second = (rank[name] for rank in ranks)
    single = train(**settings)
    assert torch.equal(first["margins"], second["margins"])
    assert first["running"] == second["running"]
    torch.testing.assert_close(first["margins"], single["margins"], rtol=0, atol=1e-5)
    for weight, value in single["weights"].items():
        assert torch.equal(first["weights"][weight], second["weights"][weight])
        torch.testing.assert_close(first["weights"][weight], value, rtol=0, atol=1e-6)
    assert first["running"]["steps"] == single["running"]["steps"] == 6
    assert first["running"]["moments"]["total"] == pytest.approx(single["running"]["moments"]["total"], rel=1e-9)
    assert first["visited"] == second["visited"]
    assert [sorted(ids) for ids in first["visited"]] == [sorted(ids) for ids in single["visited"]]
    assert [len(ids) for ids in first["visited"]] == [4, 4, 2] * 2
    assert len(single["margins"].unique()) > 1, "margins must differ, or nothing was compared"


def test_boundary_attacks_of_unequal_length_wait_for_nobody(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["boundary"]["forwards"] != ranks[1]["boundary"]["forwards"]


def test_statistics_are_of_all_ranks_and_written_once(ranks: list[dict[str, Any]], folder: Path) -> None:
    single = train(**PAPER)
    for rank in ranks:
        assert rank["paper"]["row"] == pytest.approx(single["row"], rel=1e-5)
    assert single["row"]["visits"] == SAMPLES
    assert (folder / "margins_0.csv").exists()
    assert not (folder / "margins_1.csv").exists()


def test_batches_of_different_sizes_and_a_step_that_one_rank_spoils(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        # Step 1 holds sample 2 on both ranks. Rank 1 spoils step 2. In step 3 sample 0 is accepted on one rank only.
        assert rank["uneven"]["steps"] == [[2, 1, 2, 1, 1, 1], [2, 1, 2, 1, 1, 1], [2, 1, 2, 1, 1, 2]]
        assert rank["uneven"]["skipped"] == 1
    assert ranks[0]["uneven"]["running"] == ranks[1]["uneven"]["running"]
    weights, means = [0.99 * 0.01, 0.01], [9 / 4, 9 / 3]
    expected = sum(w * m for w, m in zip(weights, means, strict=True)) / sum(weights)
    assert ranks[0]["uneven"]["running"] == {"total": pytest.approx(expected)}


def test_thresholds_are_fitted_over_all_ranks_and_written_once(
    ranks: list[dict[str, Any]], folder: Path, tmp_path: Path
) -> None:
    single = calibrate(0, tmp_path / "xi.json", [0, 1])
    for rank in ranks:
        assert rank["calibrate"]["samples"] == SAMPLES
        assert rank["calibrate"]["values"] == pytest.approx(single["values"], rel=1e-12)
    assert (folder / "xi_0.json").exists()
    assert not (folder / "xi_1.json").exists()


def test_one_rank_may_attack_alone(ranks: list[dict[str, Any]]) -> None:
    found = ranks[0]["alone"]
    assert found["inner"]
    batch = {name: torch.stack([item[name] for item in items()[:3]]) for name in ("image", "label")}
    prepare = PrepareBatchAdversarial(
        network=Net("batch"), loss=LOSS, attack=ProjectedGradientDescent(steps=2), radius=1.0
    )
    torch.testing.assert_close(found["train"], prepare(batch)[0])
    assert found["eval"].shape == (3, 1, 8, 8)


def test_processes_whose_ids_name_different_samples_are_refused(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        for message in rank["partitioned"]:
            assert "process 0 has sample IDs that name 5 samples" in message
            assert "but process 1 has" in message
            assert "partition_dataset" in message


@pytest.mark.parametrize("arm", ["sat", "amat"])
def test_with_batchnorm_a_resumed_training_ends_as_a_whole_one(ranks: list[dict[str, Any]], arm: str) -> None:
    whole = ranks[0][f"whole {arm}"]
    for rank in ranks:
        for run in (rank[f"whole {arm}"], rank[f"resumed {arm}"]):
            assert torch.equal(run["margins"], whole["margins"])
            for name, value in whole["network"].items():
                assert torch.equal(run["network"][name], value), name
    assert len(whole["margins"].unique()) > 1 or arm == "sat"


if __name__ == "__main__":
    work(int(sys.argv[1]), Path(sys.argv[2]))
