"""Arms as they are written on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monai_amat.study.arms import Arm, Bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    contents: dict[str, Any] = {
        "train": {"learning_rate": 0.1, "optimizer": {"lr": "@learning_rate"}},
        "sat": {"epsilon": 5.0, "attack": {"steps": 20}},
        "amat": {"delta": 2.5, "rule": {"step": "@delta"}, "thresholds": "$load(@thresholds_file)"},
        "amat_boundary": {"overlay_of": "amat", "rule": {"step": "@delta"}},
        "amat_boundary_wide": {"overlay_of": "amat_boundary", "delta": 5.0},
        "amat_running": {"overlay_of": "amat", "thresholds": {"warmup": 3}},
        "linf": {"attack#norm": "inf"},
    }
    (tmp_path / "configs").mkdir()
    for name, content in contents.items():
        (tmp_path / "configs" / f"{name}.json").write_text(json.dumps(content))
    return Bundle(tmp_path)


@pytest.mark.parametrize(
    ("spec", "overlays", "values", "label", "folder"),
    [
        ("std", (), {}, "STD", "std"),
        ("std:learning_rate=0.2", (), {"learning_rate": "0.2"}, "STD (learning_rate=0.2)", "std_learning_rate=0.2"),
        ("std+linf", ("linf",), {}, "STD + linf", "std+linf"),
        ("sat", ("sat",), {}, "SAT", "sat"),
        ("sat:5", ("sat",), {"epsilon": "5"}, "SAT 5", "sat_5"),
        ("sat:.5", ("sat",), {"epsilon": ".5"}, "SAT .5", "sat_.5"),
        ("sat:2.5e-1", ("sat",), {"epsilon": "2.5e-1"}, "SAT 2.5e-1", "sat_2.5e-1"),
        ("sat+linf:5", ("sat", "linf"), {"epsilon": "5"}, "SAT + linf 5", "sat+linf_5"),
        (
            "amat:delta=1,rule#step=2",
            ("amat",),
            {"delta": "1", "rule#step": "2"},
            "AMAT (delta=1, rule#step=2)",
            "amat_delta=1_rule_step=2",
        ),
        ("amat_boundary", ("amat", "amat_boundary"), {}, "AMAT boundary", "amat_boundary"),
        ("amat_boundary_wide", ("amat", "amat_boundary", "amat_boundary_wide"), {}, "AMAT boundary wide", None),
        ("amat+amat_boundary", ("amat", "amat_boundary"), {}, "AMAT + boundary", "amat+amat_boundary"),
        ("amat_boundary+amat", ("amat", "amat_boundary"), {}, None, None),
    ],
)
def test_an_arm_is_read(
    bundle: Bundle, spec: str, overlays: tuple[str, ...], values: dict[str, str], label: str | None, folder: str | None
) -> None:
    arm = Arm.parse(spec, bundle)
    assert (arm.overlays, dict(arm.values)) == (overlays, values)
    assert label in (None, arm.label)
    assert folder in (None, arm.folder)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("wild", r"has no configs/wild\.json; there are amat, amat_boundary, amat_boundary_wide, amat_running, linf"),
        ("", r"has no configs/\.json"),
        ("sat+", r"has no configs/\.json"),
        ("std+", r"has no configs/\.json"),
        ("sat+std", r"has no configs/std\.json"),
        ("sat:five", "arm 'sat:five': 'five' is neither a number"),
        ("sat:1.2.3", "arm 'sat:1.2.3': '1.2.3' is neither a number"),
        ("sat:-5", "arm 'sat:-5': '-5' is neither a number"),
        ("sat:nan", "'nan' is neither a number"),
        ("sat:=5", "'=5' is neither a number"),
        # Values that nothing would read: a typing error, or a number for an arm that has no ε.
        ("std:5", "arm 'std:5' sets epsilon, which none of its configuration files has"),
        ("amat:5", "arm 'amat:5' sets epsilon, which none of its configuration files has"),
        ("amat:detla=1", "arm 'amat:detla=1' sets detla, which"),
        ("sat:attak#steps=3", "sets attak#steps, which"),
    ],
)
def test_an_arm_that_cannot_be_read_is_refused(bundle: Bundle, spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Arm.parse(spec, bundle)


def test_a_setting_may_be_added_to_a_part_that_is_there(bundle: Bundle) -> None:
    assert dict(Arm.parse("sat:attack#norm=inf", bundle).values) == {"attack#norm": "inf"}


@given(epsilon=st.floats(0, 1e6, allow_nan=False))
def test_any_noise_level_is_read(epsilon: float, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.getbasetemp() / "any"
    (root / "configs").mkdir(parents=True, exist_ok=True)
    (root / "configs" / "train.json").write_text("{}")
    (root / "configs" / "sat.json").write_text('{"epsilon": 1}')
    arm = Arm.parse(f"sat:{epsilon}", Bundle(root))
    assert float(dict(arm.values)["epsilon"]) == epsilon


def test_thresholds_are_needed_where_a_config_reads_them(bundle: Bundle) -> None:
    needed = {
        spec: Arm.parse(spec, bundle).needs_thresholds(bundle) for spec in ("std", "sat", "amat", "amat_boundary")
    }
    assert needed == {"std": False, "sat": False, "amat": True, "amat_boundary": True}


def test_folders_are_no_deeper_than_one(bundle: Bundle) -> None:
    folder = Arm.parse("amat:delta=../../x", bundle).folder
    assert "/" not in folder
    assert Path(folder).name == folder


def test_a_folder_that_is_no_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"is not a bundle: configs/train\.json is missing"):
        Bundle(tmp_path)


def test_the_hippocampus_bundle_has_the_papers_arms(hippocampus: Path) -> None:
    bundle = Bundle(hippocampus)
    specs = ("std", "sat:1", "sat:10", "amat", "amat_boundary", "amat_path", "amat_running")
    arms = [Arm.parse(spec, bundle) for spec in specs]
    labels = ["STD", "SAT 1", "SAT 10", "AMAT", "AMAT boundary", "AMAT path", "AMAT running"]
    assert [arm.label for arm in arms] == labels
    assert len({arm.folder for arm in arms}) == len(arms)
    assert [arm.needs_thresholds(bundle) for arm in arms] == [False, False, False, True, True, False, False]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("width", True),
        ("classes", True),
        ("network_def#width", True),
        ("base", True),
        ("class", False),
        ("seed", False),
    ],
)
def test_what_the_network_is_made_of_is_found_through_references(key: str, expected: bool, tmp_path: Path) -> None:
    definition = {"_target_": "X", "width": "@width", "outputs": "$len(@classes) + 1"}
    content = {"network_def": definition, "width": "$2 * @base", "base": 4, "classes": ["a"], "class": 0, "seed": 0}
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "train.json").write_text(json.dumps(content))
    assert Bundle(tmp_path).shapes_network(key) is expected
