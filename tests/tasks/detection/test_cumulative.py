"""Detection metrics on several ranks, with shards that are uneven, empty, or without any detection."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from monai_amat.tasks.detection import AverageIoU, MeanAveragePrecision

CLASSES = ("RBC", "WBC")

RANK = """
import os
import sys

import torch
import torch.distributed as dist

from monai_amat.tasks.detection import AverageIoU, MeanAveragePrecision

rank, store, data = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
found, true = torch.load(data)
for shards in ([slice(0, 5), slice(5, 7)], [slice(0, 7), None]):
    for metric in (AverageIoU(classes=("RBC", "WBC")), MeanAveragePrecision(classes=("RBC", "WBC"))):
        shard = shards[rank]
        for i in range(*shard.indices(7)) if shard else ():
            metric(found[i : i + 1], true[i : i + 1])
        print(rank, type(metric).__name__, len(metric.kept()[0]), repr(metric.aggregate().item()), flush=True)
dist.barrier()
os._exit(0)  # gloo's threads now and then keep an interpreter from ending
"""


def data() -> tuple[list[torch.Tensor], torch.Tensor]:
    """Seven images; in the last two, a rank of their own, nothing is found."""
    draw = torch.Generator().manual_seed(3)
    corners = 40 * torch.rand(7, 4, 2, generator=draw)
    boxes = torch.cat([corners, corners + 5 + 20 * torch.rand(7, 4, 2, generator=draw)], dim=2)
    labels = torch.randint(0, 2, (7, 4, 1), generator=draw).float()
    near = boxes + torch.randn(7, 4, 4, generator=draw).clamp(-2, 2)
    found = torch.cat([near, torch.rand(7, 4, 1, generator=draw), labels], dim=2)
    return [rows[: 0 if i > 4 else i] for i, rows in enumerate(found)], torch.cat([labels, boxes], dim=2)


@pytest.mark.slow
def test_two_ranks_with_uneven_or_empty_shards_agree_with_one_process(tmp_path: Path) -> None:
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    torch.save(data(), tmp_path / "data.pt")
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(tmp_path / "store"), str(tmp_path / "data.pt")],
            stdout=subprocess.PIPE,
            text=True,
            env={
                "PYTHONPATH": str(Path(__file__).parents[3]),
                "OMP_NUM_THREADS": "1",
                "GLOO_SOCKET_IFNAME": "lo",
                "PATH": "",
            },
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=120)[0] for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    expected = []
    for metric in (AverageIoU(classes=CLASSES), MeanAveragePrecision(classes=CLASSES)):
        metric(*data())
        assert 0.05 < metric.aggregate().item() < 0.95
        expected.append(f"{type(metric).__name__} 7 {metric.aggregate().item()!r}")
    for rank, output in enumerate(outputs):
        assert output.splitlines() == [f"{rank} {line}" for line in expected * 2]


def test_a_metric_says_how_many_images_it_has_seen() -> None:
    metric = MeanAveragePrecision(classes=CLASSES, max_detections=5)
    found, true = data()
    kept = metric(found[:3], true[:3])
    assert [tuple(part.shape) for part in kept] == [(3, 5)] * 3 + [(3, 2)]
    metric(found[3:], true[3:])
    assert len(metric) == 7
    assert [part.dtype for part in metric.kept()] == [part.dtype for part in kept]
