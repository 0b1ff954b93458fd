"""Probes: which there are, how they follow from the evaluation's attack, and what is said of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from monai_amat.attacks import (
    AutoProjectedGradientDescent,
    BoundaryPGD,
    FullStart,
    InnerStart,
    ProjectedGradientDescent,
    Restarts,
)
from monai_amat.engines import network_fingerprint
from monai_amat.losses import JensenShannon, SphericalLoss
from monai_amat.robustness import Probe, standard_probes
from monai_amat.tasks.landmarks import HeatmapBCE, HeatmapOffsetLoss
from monai_amat.tasks.segmentation import DiceCELoss, SmoothDiceIndex

ATTACK = ProjectedGradientDescent(steps=100, rel_step=0.05, norm="inf", clip_range=(0.0, 1.0), amp=torch.bfloat16)


def test_the_standard_set() -> None:
    probes = standard_probes(ATTACK, huge_radius=200.0)
    assert list(probes) == [
        *("pgd-20", "pgd-100", "pgd-200", "best-iterate", "best-of-3", "best-of-5", "apgd", "square", "random"),
        *("huge-radius", "clean"),
    ]
    assert probes["pgd-100"] == Probe(ATTACK)
    assert probes["best-iterate"] == Probe(replace(ATTACK, best_iterate=True))
    assert probes["best-of-5"] == Probe(Restarts(replace(ATTACK, best_iterate=True), 5))
    assert probes["random"] == Probe(replace(ATTACK, steps=0))
    assert probes["huge-radius"] == Probe(ATTACK, noise_level=200.0)
    assert probes["clean"].noise_level == 0.0


def test_more_steps_are_smaller_steps_over_the_same_way() -> None:
    """α = 5 in the paper's evaluation, whatever the number of steps."""
    probes = standard_probes(ATTACK, huge_radius=200.0, steps=[7, 20, 200])
    attacks: list[Any] = [probes[name].attack for name in ("pgd-7", "pgd-20", "pgd-100", "pgd-200")]
    assert [attack.steps for attack in attacks] == [7, 20, 100, 200]
    assert [attack.steps * attack.rel_step for attack in attacks] == pytest.approx([5.0] * 4)
    # All else is the evaluation's.
    assert {replace(attack, steps=1, rel_step=1.0) for attack in attacks} == {replace(ATTACK, steps=1, rel_step=1.0)}


def test_another_network_and_another_loss_join_where_they_are_given() -> None:
    source, loss = nn.Linear(1, 1), DiceCELoss(weights={"ce": 0.0})
    probes = standard_probes(
        ATTACK, huge_radius=1.0, steps=[], restarts=[], source=source, attack_loss=loss, auto_steps=0, queries=0
    )
    assert list(probes) == [
        *("pgd-100", "best-iterate", "other-loss", "transfer", "random", "huge-radius", "clean"),
    ]
    assert probes["transfer"] == Probe(ATTACK, source=source)
    assert probes["other-loss"] == Probe(ATTACK, attack_loss=loss)


def test_stronger_attacks_have_the_settings_of_the_attack_and_losses_of_their_own() -> None:
    losses, smooth = {"jsd": JensenShannon(), "spherical": SphericalLoss()}, SmoothDiceIndex()
    probes = standard_probes(
        ATTACK, huge_radius=1.0, losses=losses, metric_loss=smooth, auto_steps=30, queries=70, steps=[], restarts=[]
    )
    auto = AutoProjectedGradientDescent(steps=30, norm="inf", clip_range=(0.0, 1.0), amp=torch.bfloat16)
    named: dict[str, Any] = dict(probes)
    assert str(named["apgd"].attack) == str(auto)
    assert named["apgd"].attack_loss is None
    assert named["apgd-jsd"].attack_loss is losses["jsd"]
    assert named["apgd-spherical"].attack_loss is losses["spherical"]
    assert str(named["large-radius-first"].attack.attack) == str(auto)
    assert named["large-radius-first"].attack_loss is smooth
    assert named["square"].attack.queries == 70
    assert named["square"].attack.clip_range == (0.0, 1.0)
    assert str(probes["square"]) == "random search (Linf) of 70 queries, no gradient"
    assert str(probes["apgd-jsd"]).startswith("30 steps of Auto-PGD (Linf), best iterate; raising JensenShannon")
    assert str(probes["large-radius-first"]).startswith("30 steps of Auto-PGD (Linf) at 2, 1.5, 1 times ε; raising")


def test_starts_are_random_where_the_probe_lives_of_it() -> None:
    for start, of_restarts in ((None, FullStart()), (InnerStart(2.5), InnerStart(2.5))):
        attacks: dict[str, Any] = {
            name: probe.attack
            for name, probe in standard_probes(replace(ATTACK, random_start=start), huge_radius=1.0).items()
        }
        assert attacks["best-of-3"].attack.random_start == of_restarts
        assert attacks["best-iterate"].random_start == start
        # The floor is noise of full size.
        assert attacks["random"].random_start == FullStart()


def test_an_attack_that_keeps_its_best_iterate_needs_no_probe_for_it() -> None:
    probes: dict[str, Any] = dict(standard_probes(replace(ATTACK, best_iterate=True), huge_radius=1.0))
    assert "best-iterate" not in probes
    assert not probes["random"].attack.best_iterate


@pytest.mark.parametrize(
    ("attack", "settings", "message"),
    [
        (replace(ATTACK, steps=0), {}, "takes steps"),
        (ATTACK, {"huge_radius": 0.0}, "huge_radius must be positive and finite, got 0"),
        (ATTACK, {"huge_radius": float("inf")}, "huge_radius must be positive"),
        (ATTACK, {"steps": [20, 0]}, "steps must be at least 1, got 0"),
        (ATTACK, {"auto_steps": -1}, "auto_steps must be finite and not negative, got -1"),
        (ATTACK, {"queries": -1}, "queries must be finite and not negative, got -1"),
        (ATTACK, {"restarts": [1, 3]}, r"restarts must be at least 2.*got \[1\]"),
    ],
)
def test_numbers_out_of_range_are_refused(attack: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        standard_probes(attack, **{"huge_radius": 9.0, **settings})


SOURCE = nn.Linear(1, 1)


@pytest.mark.parametrize(
    ("probe", "expected"),
    [
        (Probe(ATTACK), "100 steps of 0.05·ε (Linf) from a random start, last iterate"),
        (
            Probe(Restarts(ProjectedGradientDescent(random_start=None, best_iterate=True), 2)),
            "strongest of 2 starts: 20 steps of 0.25·ε (L2) from the image itself, best iterate",
        ),
        (Probe(replace(ATTACK, steps=0)), "random noise (Linf) of the same size, no gradient"),
        (Probe(len), "builtin_function_or_method"),  # type: ignore[arg-type]
        (Probe(len, DiceCELoss()), "builtin_function_or_method; raising DiceCELoss"),  # type: ignore[arg-type]
        (
            Probe(ATTACK, DiceCELoss(weights={"ce": 0.0, "dice": 2}), noise_level=200.0),
            f"{Probe(ATTACK)}; raising DiceCELoss with ce × 0, dice × 2; always at noise 200",
        ),
        (
            Probe(ATTACK, HeatmapOffsetLoss(heatmap=HeatmapBCE())),
            f"{Probe(ATTACK)}; raising HeatmapOffsetLoss(heatmap=HeatmapBCE) with heatmap × 2",
        ),
        (
            Probe(ATTACK, source=SOURCE),
            f"{Probe(ATTACK)}; made on the network of weights {network_fingerprint(SOURCE)}",
        ),
        (Probe(ATTACK, noise_level=0.0), "clean images"),
    ],
)
def test_what_a_probe_is_in_words(probe: Probe, expected: str) -> None:
    assert str(probe) == expected


def test_a_boundary_attack_is_no_plain_descent_in_words() -> None:
    assert str(Probe(BoundaryPGD())) == "BoundaryPGD"


def test_without_a_huge_radius_it_follows_from_the_noise_levels() -> None:
    probe = standard_probes(ATTACK)["huge-radius"]
    assert str(probe).endswith("at 30 times the largest noise level")
    assert probe.at(6.0) == Probe(ATTACK, noise_level=180.0)
    with pytest.raises(ValueError, match="one noise level, got noise_level=1 and noise_factor=2; give one"):
        Probe(ATTACK, noise_level=1.0, noise_factor=2.0)
