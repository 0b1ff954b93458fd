"""Attack strength: what each probe reaches, its paired difference from the reference, and the worst of all."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader

from monai_amat.attacks import ProjectedGradientDescent, Restarts
from monai_amat.data.indexed import IndexedDataset
from monai_amat.losses.base import PerSampleLoss
from monai_amat.robustness import AttackStrength, Probe, RobustnessCurve, standard_probes
from monai_amat.robustness import strength as strength_module
from monai_amat.robustness.resampling import resampled_groups
from monai_amat.robustness.strength import WORST, worst_rows
from monai_amat.tasks.segmentation import DiceCELoss, DiceIndexMetric

MakeCurve = Callable[..., RobustnessCurve]

# From the image itself, steps of half the radius: on a linear network two of them reach the worst noise there is.
DIRECT = ProjectedGradientDescent(steps=3, rel_step=0.5, random_start=None)

# ------------------------------------------------- a world where every figure can be worked out by hand


class Score(nn.Module):
    """A linear network: the image's component in one direction."""

    def __init__(self, *direction: float) -> None:
        super().__init__()
        self.direction = nn.Parameter(nn.functional.normalize(torch.tensor(direction), dim=0))

    def forward(self, image: Tensor) -> Tensor:
        return image.flatten(1) @ self.direction[:, None]


class Fall(PerSampleLoss):
    """The lower the score, the higher the loss."""

    def terms(self, pred: Any, target: Any) -> dict[str, Tensor]:
        return {"fall": -pred[:, 0]}


class Scores:
    """Mean score, or with `right` the share of scores above 0."""

    def __init__(self, *, right: bool = False, sign: int = 1) -> None:
        self.right = right
        self.sign = sign

    def columns(self, pred: Any, target: Any) -> dict[str, Tensor]:
        return {"score": self.sign * pred[:, 0]}

    def higher_is_better(self, figure: str | None = None) -> bool:
        return self.sign > 0

    def summary(self, rows: pd.DataFrame, weights: np.ndarray | None = None) -> dict[str, Any]:
        scores = rows["score"].to_numpy()
        counts = np.ones(len(rows)) if weights is None else weights
        defined = counts @ ~np.isnan(scores)
        values = (scores > 0).astype(np.float64) if self.right else np.nan_to_num(scores)
        with np.errstate(invalid="ignore"):
            return {"right" if self.right else "score": counts @ values / defined, "rows": defined}


SCORES = [1.0, 2.0, 3.0, 4.0, 5.0, 9.0]  # mean 4


@pytest.fixture
def make_linear(tmp_path: Path) -> Callable[..., AttackStrength]:
    """Builds a table over six images that score from 1 to 9; keywords replace its arguments."""
    items = [
        {"image": torch.tensor([[score, 0.0]]), "label": torch.zeros(1), "case": f"{i // 2}", "slice": i}
        for i, score in enumerate(SCORES)
    ]

    def make(**changes: Any) -> AttackStrength:
        arguments: dict[str, Any] = {
            "network": Score(1.0, 0.0),
            "data_loader": DataLoader(IndexedDataset(items, seed=1), batch_size=4),
            "loss": Fall(),
            "metric": Scores(),
            "probes": {
                "own": DIRECT,
                "slanted": Probe(DIRECT, source=Score(0.5, math.sqrt(0.75))),
                "square": Probe(DIRECT, source=Score(0.0, 1.0)),
                "huge": Probe(DIRECT, noise_level=50.0),
                "clean": Probe(DIRECT, noise_level=0.0),
            },
            "noise_levels": [2.0],
            "reference": "own",
            "output_dir": tmp_path / "strength",
            "progress": False,
        }
        return AttackStrength(**arguments | changes)

    return make


MakeLinear = Callable[..., AttackStrength]


def by_probe(table: pd.DataFrame, column: str, level: float | None = None) -> dict[str, Any]:
    rows = table if level is None else table[table["noise_level"] == level]
    return dict(zip(rows["probe"], rows[column].tolist(), strict=True))


def test_noise_made_elsewhere_is_as_weak_as_the_angle_between_the_networks(make_linear: MakeLinear) -> None:
    """On a linear network ε lowers the score by ε·cos(angle): 2, 1 and 0 for angles of 0, 60 and 90 degrees."""
    table = make_linear().run()
    assert table["probe"].tolist() == ["own", "slanted", "square", WORST, "huge", "clean"]
    assert table["noise_level"].tolist() == [2.0] * 4 + [50.0, 0.0]
    assert set(table["metric"]) == {"score"}
    assert by_probe(table, "value") == pytest.approx(
        {"own": 2.0, "slanted": 3.0, "square": 4.0, WORST: 2.0, "huge": -46.0, "clean": 4.0}, abs=1e-4
    )
    assert by_probe(table, "loss") == pytest.approx({k: -v for k, v in by_probe(table, "value").items()})
    at_level = table.set_index("probe").loc[["own", "slanted", "square", WORST]]
    assert at_level["difference"].tolist() == pytest.approx([0.0, 1.0, 2.0, 0.0], abs=1e-4)
    assert at_level["loss_difference"].tolist() == pytest.approx([0.0, -1.0, -2.0, 0.0], abs=1e-4)


def test_differences_are_taken_sample_by_sample(make_linear: MakeLinear) -> None:
    """Scores differ widely between groups, but every sample falls by the same: no doubt about the difference."""
    row = make_linear().run().set_index("probe").loc["slanted"]
    assert row["high"] - row["low"] > 2.0
    assert [row["difference_low"], row["difference_high"]] == pytest.approx([1.0, 1.0], abs=1e-4)
    assert [row["loss_difference_low"], row["loss_difference_high"]] == pytest.approx([-1.0, -1.0], abs=1e-4)


def test_probes_with_a_noise_level_of_their_own_are_compared_with_nothing(make_linear: MakeLinear) -> None:
    table = make_linear(noise_levels=[2.0, 1.0]).run()
    assert table["noise_level"].tolist() == [1.0] * 4 + [2.0] * 4 + [50.0, 0.0]
    own = table[table["probe"].isin(["huge", "clean"])]
    columns = [f"{prefix}difference{suffix}" for prefix in ("", "loss_") for suffix in ("", "_low", "_high")]
    assert own[columns].isna().all(axis=None)
    assert own["value"].notna().all()


def test_steps_that_a_network_without_a_gradient_cannot_take_are_counted(make_linear: MakeLinear) -> None:
    """Three steps of each sample, and of all probes together as many."""
    table = make_linear(probes={"own": DIRECT, "flat": Probe(DIRECT, source=Score(0.0, 0.0))}).run()
    assert by_probe(table, "stalled") == {"own": 0.0, "flat": 3.0, WORST: 3.0}
    assert by_probe(table, "value")["flat"] == pytest.approx(4.0)


def test_a_huge_radius_leaves_nothing_right(make_linear: MakeLinear) -> None:
    """Scores of at most 9 are all negative after noise of 10; noise of 2 leaves the four above it."""
    probes = {"own": DIRECT, "twice": ProjectedGradientDescent(steps=6), "huge": Probe(DIRECT, noise_level=10.0)}
    metric = Scores(right=True)
    table = make_linear(probes=probes, metric=metric, noise_levels=[2.001]).run().set_index("probe")
    assert table.loc["huge", "value"] == 0.0
    assert table.loc["own", "value"] == pytest.approx(4 / 6)
    text = (make_linear().output_dir / "strength.md").read_text()
    assert "- At noise 10 (huge) right is 0.000 [0.000, 0.000]." in text


def test_random_noise_is_a_floor(make_linear: MakeLinear) -> None:
    """Its component along any direction is at most its length, so that no sample falls further than under attack."""
    attack = ProjectedGradientDescent(steps=10, rel_step=0.5)
    strength = make_linear(probes=standard_probes(attack, huge_radius=50.0, steps=[5]), reference="pgd-10")
    table: Any = strength.run().set_index("probe")
    rows = {name: pd.read_csv(strength.output_dir / name / "robustness.csv") for name in ("random", "pgd-10")}
    assert (rows["random"]["loss"] <= rows["pgd-10"]["loss"] + 1e-4).all()
    np.testing.assert_allclose(rows["random"]["noise_norm"], 2.0, rtol=0.5)
    assert table.loc["random", "loss_difference_high"] < 0
    assert table.loc["random", "gradient_evaluations"] == 0
    costs = {
        "pgd-5": 5,
        "pgd-10": 10,
        "best-iterate": 10,
        "best-of-3": 30,
        "best-of-5": 50,
        "apgd": 100,
        "square": 0,
        "random": 0,
    }
    assert table["gradient_evaluations"].to_dict() == {**costs, WORST: 205, "huge-radius": 10, "clean": 0}


def test_where_lower_is_better_the_worst_is_the_highest(make_linear: MakeLinear) -> None:
    strength = make_linear(metric=Scores(sign=-1))
    table = strength.run()
    values = by_probe(table, "value", 2.0)
    assert values[WORST] == pytest.approx(max(values.values()))
    assert json.loads((strength.output_dir / "strength.json").read_text())["verdict"][0].startswith("own: believable")


def test_files_say_what_was_tried_and_what_it_means(make_linear: MakeLinear, tmp_path: Path) -> None:
    strength = make_linear(reference="slanted", settings={"transforms": "plain"})
    table = strength.run()
    folder = tmp_path / "strength"
    assert sorted(path.name for path in folder.iterdir() if path.is_file()) == [
        *("strength.csv", "strength.json", "strength.md")
    ]
    pd.testing.assert_frame_equal(pd.read_csv(folder / "strength.csv"), table)
    summary = json.loads((folder / "strength.json").read_text())
    assert summary["verdict"][0] == (
        "slanted: understates the damage by at least 1.000 [1.000, 1.000] (score at noise 2, worst of all)."
    )
    assert summary["verdict"][2] == (
        "Active test: not run, the network has no layer with weights whose inputs could serve as features."
    )
    assert summary["verdict"][3] == (
        "The strongest probe, own, lowers score at noise 2 by 1.000 [1.000, 1.000] below slanted; the worst of all "
        "probes for each sample lowers it by 1.000 [1.000, 1.000]: slanted understates the damage by at "
        "least this much."
    )
    assert summary["verdict"][4].startswith("The strongest probe, own, raises the loss at noise 2 by 1.000")
    assert summary["reference"] == "slanted"
    assert summary["rows"][0]["difference"] == pytest.approx(-1.0, abs=1e-4)
    assert summary["rows"][-1]["difference"] is None
    assert set(summary["probes"]) == {"own", "slanted", "square", "huge", "clean"}
    assert summary["probes"]["own"]["attack"]["steps"] == 3
    assert summary["probes"]["slanted"]["source"] != summary["probes"]["square"]["source"]
    assert (summary["seed"], summary["settings"]) == (1, {"transforms": "plain"})
    assert summary["bootstrap"] == {"samples": 1000, "seed": 0, "level": 0.95, "group": "case"}
    assert summary["seconds"] == pytest.approx(table[table["probe"] != WORST]["seconds"].sum())
    assert str(tmp_path) not in json.dumps(summary)
    text = re.sub(" +", " ", (folder / "strength.md").read_text())
    for line in summary["verdict"]:
        assert f"- {line}\n" in text
    for row in table.to_dict("records"):
        assert f"| {row['noise_level']:g} | {row['probe']} | {row['value']:.3f} [" in text
        assert f" | {row['what']} |\n" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference": "pgd-100"}, "reference 'pgd-100' is none of the probes, which are own, slanted, square, huge"),
        ({"probes": {}}, "which are none"),
        ({"reference": "huge"}, "reference 'huge' has a noise level of its own"),
        ({"probes": {"own": DIRECT, "clean": Probe(DIRECT, noise_level=0.0)}}, "at least one probe beside 'own'"),
        ({"probes": {"own": DIRECT, "../up": DIRECT}}, "'../up' cannot be a probe's name"),
        ({"probes": {"own": DIRECT, WORST: DIRECT}}, "cannot be a probe's name"),
        ({"noise_levels": [0.0, 2.0]}, "at noise level 0 there is no attack"),
        ({"noise_levels": []}, "noise_levels must be different finite numbers"),
    ],
)
def test_what_cannot_be_compared_is_refused(make_linear: MakeLinear, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_linear(**changes)


# ------------------------------------------------------------------------------- a segmentation


@pytest.fixture
def make_strength(make_curve: MakeCurve, network: Any, tmp_path: Path) -> Callable[..., AttackStrength]:
    """Builds a table over ten slices of three volumes."""

    def make(**changes: Any) -> AttackStrength:
        attack = ProjectedGradientDescent(steps=3, rel_step=0.5)
        arguments: dict[str, Any] = {
            "network": network,
            "data_loader": make_curve().data_loader,
            "loss": DiceCELoss(),
            "metric": DiceIndexMetric(num_classes=3),
            "probes": {
                "pgd-3": attack,
                "best-of-2": Restarts(attack, 2),
                "other-loss": Probe(attack, attack_loss=DiceCELoss(weights={"ce": 0.0})),
                "huge-radius": Probe(attack, noise_level=40.0),
            },
            "noise_levels": [1.0],
            "reference": "pgd-3",
            "output_dir": tmp_path / "strength",
            "progress": False,
        }
        return AttackStrength(**arguments | changes)

    return make


def test_the_worst_of_all_and_the_intervals_come_from_the_probes_rows(
    make_strength: Callable[..., AttackStrength], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a computation one sample and one resample at a time, from the files of the probes."""
    monkeypatch.setitem(strength_module._BOOTSTRAP, "samples", 100)
    strength, metric = make_strength(), DiceIndexMetric(num_classes=3)
    table: Any = strength.run().set_index("probe")
    names = [name for name, probe in strength.probes.items() if probe.noise_level is None]
    rows = {name: pd.read_csv(strength.output_dir / name / "robustness.csv", dtype={"case": str}) for name in names}
    losses = np.array([[rows[name]["loss"][i] for name in names] for i in range(10)])
    figures = np.array([[metric.summary(rows[name].iloc[[i]])["adi"] for name in names] for i in range(10)])
    assert table.loc[WORST, "loss"] == pytest.approx(losses.max(axis=1).mean())
    assert table.loc[WORST, "value"] == pytest.approx(np.nanmean(figures.min(axis=1)))
    # No single probe is the worst everywhere, or this would show nothing.
    assert table.loc[WORST, "value"] < table.loc[names, "value"].min() - 1e-4
    assert table.loc[WORST, "loss"] > table.loc[names, "loss"].max()

    cases = sorted(rows["pgd-3"]["case"].unique())
    draws: dict[str, list[float]] = {"difference": [], "loss_difference": []}
    for counts in resampled_groups(3, 100, seed=0):
        drawn = [case for case, count in zip(cases, counts, strict=True) for _ in range(int(count))]
        probe, reference = (
            pd.concat([rows[name][rows[name]["case"] == case] for case in drawn]) for name in ("other-loss", "pgd-3")
        )
        draws["difference"].append(metric.summary(probe)["adi"] - metric.summary(reference)["adi"])
        draws["loss_difference"].append(probe["loss"].mean() - reference["loss"].mean())
    for figure, values in draws.items():
        bounds = [table.loc["other-loss", f"{figure}_{bound}"] for bound in ("low", "high")]
        assert bounds == pytest.approx(np.quantile(values, [0.025, 0.975]).tolist(), abs=1e-9)
        assert bounds[0] < table.loc["other-loss", figure] < bounds[1]


def test_a_stopped_run_goes_on_and_probes_may_be_added(
    make_strength: Callable[..., AttackStrength], network: Any, tmp_path: Path
) -> None:
    whole = make_strength(output_dir=tmp_path / "whole").run()
    full_cost = network.seen
    network.fail_after(full_cost + full_cost // 2)
    with pytest.raises(KeyboardInterrupt):
        make_strength().run()
    network.fail_after(None)
    assert not (tmp_path / "strength" / "strength.csv").exists()
    before = network.seen
    resumed = make_strength().run()
    assert 0 < network.seen - before < 0.75 * full_cost
    pd.testing.assert_frame_equal(resumed.drop(columns="seconds"), whole.drop(columns="seconds"), check_exact=True)
    before = network.seen
    probes = {**make_strength().probes, "pgd-2": Probe(ProjectedGradientDescent(steps=2, rel_step=0.75))}
    more = make_strength(probes=probes).run()
    assert network.seen - before == 10 * (2 + 1)
    assert set(more["probe"]) == {*whole["probe"], "pgd-2"}


def test_rows_of_another_probe_of_the_same_name_are_refused(make_strength: Callable[..., AttackStrength]) -> None:
    probes = {"pgd-3": ProjectedGradientDescent(steps=3, rel_step=0.5), "other": Probe(DIRECT)}
    make_strength(probes=probes).run()
    with pytest.raises(RuntimeError, match=r"without attack_loss, but this run has .*[Gg]ive another output_dir"):
        make_strength(probes={**probes, "other": Probe(DIRECT, attack_loss=DiceCELoss())}).run()


# ------------------------------------------------------------------------------- the worst rows


def frames(*probes: list[tuple[float, float]]) -> list[pd.DataFrame]:
    """A frame a probe of (score, loss) pairs, with the probe's number in a column."""
    return [
        pd.DataFrame({"score": [s for s, _ in rows], "loss": [x for _, x in rows], "probe": number})
        for number, rows in enumerate(probes)
    ]


def test_the_worst_rows_by_hand() -> None:
    """Lowest score wins; at a tie, or without a score, the higher loss; the loss is the highest anywhere."""
    nan = math.nan
    first = [(0.5, 1.0), (0.2, 1.0), (0.3, 1.0), (nan, 2.0), (nan, 9.0)]
    second = [(0.4, 0.5), (0.6, 3.0), (0.3, 2.0), (nan, 1.0), (0.9, 1.0)]
    worst = worst_rows(frames(first, second), Scores())
    assert worst["probe"].tolist() == [1, 0, 1, 0, 1]
    assert worst["loss"].tolist() == [1.0, 3.0, 2.0, 2.0, 9.0]
    lowest = worst_rows(frames(first, second), Scores(sign=-1))
    assert lowest["probe"].tolist() == [0, 1, 1, 0, 1]


@given(st.lists(st.lists(st.floats(0, 1, width=16), min_size=6, max_size=6), min_size=1, max_size=4), st.data())
def test_no_probe_is_worse_than_the_worst(losses: list[list[float]], data: st.DataObject) -> None:
    scores = data.draw(st.lists(st.lists(st.integers(0, 3), min_size=6, max_size=6), min_size=4, max_size=4))
    made = frames(*([*zip(map(float, s), x, strict=True)] for s, x in zip(scores, losses, strict=False)))
    worst = worst_rows(made, Scores())
    for frame in made:
        assert (worst["score"] <= frame["score"]).all()
        assert (worst["loss"] >= frame["loss"]).all()


def test_samples_are_judged_alone_however_many_there_are() -> None:
    scores = np.random.default_rng(0).random((2, 600))
    made = [pd.DataFrame({"score": row, "loss": 0.0}) for row in scores]
    assert worst_rows(made, Scores())["score"].tolist() == scores.min(axis=0).tolist()
