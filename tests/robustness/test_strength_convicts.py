"""Which networks the strength of an attack convicts of masked gradients, and which it acquits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.inferers import SlidingWindowInferer
from torch import nn
from torch.utils.data import DataLoader

from monai_amat.attacks import FullStart, ProjectedGradientDescent, Restarts, Square
from monai_amat.robustness import AttackStrength, Probe
from monai_amat.robustness.strength_verdict import BELIEVABLE, MASKED
from monai_amat.tasks.segmentation import DiceCELoss, DiceIndexMetric
from tests.robustness.defended import Behind, dataset, trained

PGD = ProjectedGradientDescent(steps=12, rel_step=0.4)


def strength(network: nn.Module, folder: Path, inferer: Any = None) -> dict[str, Any]:
    """What `strength.json` says of twelve steps of PGD on the training loss at ε = 1."""
    with torch.random.fork_rng():
        torch.manual_seed(3)  # some of the networks draw random numbers
        AttackStrength(
            network=network,
            data_loader=DataLoader(dataset(8), batch_size=8),
            loss=DiceCELoss(),
            metric=DiceIndexMetric(num_classes=3),
            probes={
                "pgd-12": PGD,
                "best-of-2": Restarts(ProjectedGradientDescent(steps=12, rel_step=0.4, best_iterate=True), 2),
                "square": Square(queries=100),
                "random": ProjectedGradientDescent(steps=0, random_start=FullStart()),
                "clean": Probe(PGD, noise_level=0.0),
            },
            noise_levels=[1.0],
            reference="pgd-12",
            output_dir=folder,
            progress=False,
            inferer=inferer,
        ).run()
    return dict(json.loads((folder / "strength.json").read_text()))


@pytest.mark.parametrize(
    ("kind", "reasons"),
    [
        ("rounded", ["no usable gradient", "square, which uses no gradient", "active test"]),
        ("quantised", ["no usable gradient", "square, which uses no gradient", "active test"]),
        ("scaled", ["the softmax is saturated"]),
        ("one_hot", ["no usable gradient", "square, which uses no gradient"]),
        ("jpeg", ["no usable gradient", "square, which uses no gradient", "active test"]),
        ("noisy", ["two forwards of the same images differ"]),
        ("dropping", ["two forwards of the same images differ"]),
        ("detached", ["square, which uses no gradient", "active test"]),
    ],
)
def test_masked_gradients_are_found_out(kind: str, reasons: list[str], tmp_path: Path) -> None:
    said = strength(Behind(trained(), kind), tmp_path)
    verdict = said["verdict"][0]
    assert verdict.startswith(f"pgd-12: {MASKED}")
    for reason in reasons:
        assert reason in verdict, verdict
    assert said["checks"]["network"]["probabilities"] is (kind == "one_hot")


@pytest.mark.parametrize("kind", ["plain", "adversarially trained", "bf16", "BatchNorm", "sliding windows"])
def test_sound_networks_are_acquitted(kind: str, tmp_path: Path) -> None:
    network = {
        "adversarially trained": lambda: trained(radius=1.0),
        "bf16": lambda: Behind(trained(), "in_bf16"),
        "BatchNorm": lambda: trained(norm=True),
    }.get(kind, trained)()
    inferer = SlidingWindowInferer((12, 12), 4, overlap=0.25) if kind == "sliding windows" else None
    said = strength(network, tmp_path, inferer)
    assert said["verdict"][0].startswith(f"pgd-12: {BELIEVABLE}"), said["verdict"]
    active = said["checks"]["active"]
    assert active == {"images": 2, "found": 1.0, "found_at_random": active["found_at_random"], "skipped": ""}
    assert active["found_at_random"] < 0.1
    assert not said["checks"]["network"]["random"]
