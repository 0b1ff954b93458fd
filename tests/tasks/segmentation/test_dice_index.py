"""ADI and TVDI as cumulative metrics, in one process and in two."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from monai.data import decollate_batch

from monai_amat.tasks.segmentation import AverageDiceIndex, TotalVoxelDiceIndex, average_dice, dice_counts, total_dice


def data(samples: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    return torch.randn(samples, 3, 6, 6, generator=draw), torch.randint(0, 3, (samples, 1, 6, 6), generator=draw)


def test_batches_add_up_and_reset_forgets() -> None:
    logits, labels = data()
    counts = dice_counts(logits, labels, 2)
    metrics = AverageDiceIndex(num_classes=3), TotalVoxelDiceIndex(num_classes=3)
    for metric, expected in zip(metrics, (average_dice(counts), total_dice(counts)), strict=True):
        metric(logits[:4], labels[:4])
        metric(logits[4:], labels[4:])
        assert metric.aggregate().item() == expected.mean.item()
        torch.testing.assert_close(metric.index().per_class, expected.per_class)
        assert metric.counts().tolist() == counts.tolist()
        metric.reset()
        metric(logits[:1], labels[:1])
        assert len(metric.counts()) == 1


def test_lists_of_samples_do_as_well() -> None:
    logits, labels = data()
    metric = AverageDiceIndex(num_classes=3, slices="every")
    metric(decollate_batch(logits), decollate_batch(labels))
    assert metric.aggregate().item() == average_dice(dice_counts(logits, labels, 2), slices="every").mean.item()


def test_without_a_sample_there_is_no_index() -> None:
    with pytest.raises(ValueError, match="AverageDiceIndex has seen no sample"):
        AverageDiceIndex(num_classes=3).aggregate()


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="leaves no foreground class"):
        TotalVoxelDiceIndex(num_classes=1)
    with pytest.raises(ValueError, match="'any' or 'every'"):
        AverageDiceIndex(num_classes=2, slices="all")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs the truth"):
        AverageDiceIndex(num_classes=2)(torch.zeros(1, 2, 4))


RANK = """
import sys
import torch
import torch.distributed as dist
from monai_amat.tasks.segmentation import AverageDiceIndex, TotalVoxelDiceIndex

rank, store = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
draw = torch.Generator().manual_seed(3)
logits, labels = torch.randn(7, 3, 6, 6, generator=draw), torch.randint(0, 3, (7, 1, 6, 6), generator=draw)
for shards in ([slice(0, 5), slice(5, 7)], [slice(0, 7), None]):  # uneven, and one rank without any sample
    for metric in (AverageDiceIndex(num_classes=3), TotalVoxelDiceIndex(num_classes=3)):
        shard = shards[rank]
        for i in range(*shard.indices(7)) if shard else ():
            metric(logits[i : i + 1], labels[i : i + 1])
        print(rank, type(metric).__name__, len(metric.counts()), repr(metric.aggregate().item()))
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_ranks_with_uneven_or_empty_shards_agree_with_one_process(tmp_path: Path) -> None:
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    root = Path(__file__).parents[3]
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(tmp_path / "store")],
            stdout=subprocess.PIPE,
            text=True,
            env={"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PATH": ""},
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=120)[0] for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    logits, labels = data()
    counts = dice_counts(logits, labels, 2)
    expected = [
        f"AverageDiceIndex 7 {average_dice(counts).mean.item()!r}",
        f"TotalVoxelDiceIndex 7 {total_dice(counts).mean.item()!r}",
    ] * 2
    for rank, output in enumerate(outputs):
        assert output.splitlines() == [f"{rank} {line}" for line in expected]
