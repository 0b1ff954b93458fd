"""Which runs a study consists of, what each is given, and what cannot be planned."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from monai_amat.study.arms import Arm, Bundle
from monai_amat.study.plan import StudyPlan
from monai_amat.study.steps import Step

CONFIGS: dict[str, Any] = {
    "train": {
        "width": 8,
        "network_def": {"width": "@width"},
        "initial_weights": None,
        "learning_rate": 0.1,
        "optimizer": {"lr": "@learning_rate"},
    },
    "sat": {"epsilon": 5.0, "attack_steps": 20},
    "amat": {"delta": 2.5, "attack_steps": 20, "thresholds": "$load(@thresholds_file)"},
    "linf": {"attack#norm": "inf"},  # lies on sat, and does not say so
    "calibrate": {"statistic": {"k": 0.0}},
    "robustness": {"robustness_dir": "$@output_dir + '/robustness'", "section": "test", "attack_at_test": 100},
    "strength": {"overlay_of": "robustness", "probes": {"steps": 200}, "source_checkpoint": None},
    "small": {"width": 4, "attack_steps": 10, "attack_at_test": 20, "shrink": 2, "optimizer": {"lr": "@learning_rate"}},
    "metadata": {"shrink": "a word of its own"},
}


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    (tmp_path / "configs").mkdir()
    for name, content in CONFIGS.items():
        (tmp_path / "configs" / f"{name}.json").write_text(json.dumps(content))
    return Bundle(tmp_path)


def plan(bundle: Bundle, *arms: str, **changes: Any) -> StudyPlan:
    given = {"seeds": [0], "dataset_dir": Path("/data"), "output_dir": Path("/out"), **changes}
    return StudyPlan(bundle=bundle, arms=[Arm.parse(spec, bundle) for spec in arms], **given)


def called(step: Step) -> str:
    return f"{step.record.relative_to('/out/arms').with_suffix('')}"


def needs(steps: list[Step]) -> dict[str, list[str]]:
    return {called(step): [called(other) for other in step.after] for step in steps}


def given(made: StudyPlan, *keys: str) -> dict[str, set[str]]:
    """Which of these values each step has, where it has any."""
    found = {called(step): set(keys) & step.values.keys() for step in made.steps()}
    return {name: have for name, have in found.items() if have}


# ------------------------------------------------------------------------------- what after what


def test_steps_come_after_what_they_need(bundle: Bundle) -> None:
    steps = plan(bundle, "std", "sat:5", "amat", seeds=[0, 7]).steps()
    expected: dict[str, list[str]] = {}
    for seed in (0, 7):
        expected |= {
            f"std/seed={seed}/train": [],
            f"std/seed={seed}/calibrate": [f"std/seed={seed}/train"],
            f"sat_5/seed={seed}/train": [],
            f"amat/seed={seed}/train": [f"std/seed={seed}/calibrate"],
        }
    for seed in (0, 7):
        expected |= {f"{arm}/seed={seed}/robustness": [f"{arm}/seed={seed}/train"] for arm in ("std", "sat_5", "amat")}
    assert needs(steps) == expected
    assert [called(step) for step in steps] == list(expected)


def test_every_seed_has_a_clean_network_and_thresholds_of_its_own(bundle: Bundle) -> None:
    for step in plan(bundle, "std", "amat:initial_weights=std", seeds=[3, 5]).steps():
        for path in step.paths.values():
            assert f"seed={step.values['seed']}" in str(path)
        assert step.name != "train" or "amat" not in str(step.output_dir) or len(step.paths) == 2


def test_arms_with_one_name_are_refused(bundle: Bundle) -> None:
    with pytest.raises(ValueError, match=r"two arms would share the label 'sat 5'; leave one out"):
        plan(bundle, "std", "sat:5", "sat:5")
    with pytest.raises(ValueError, match=r"two arms would share the folder 'sat_initial_weights=a_b\.pt'"):
        plan(bundle, "sat:initial_weights=a/b.pt", "sat:initial_weights=a_b.pt")


def test_arms_that_start_from_the_clean_network_train_it_first(bundle: Bundle) -> None:
    made = plan(bundle, "sat:epsilon=10,initial_weights=std", "amat:initial_weights=std", "sat:5", seeds=[3])
    steps = {called(step): step for step in made.steps()}
    sat, amat = "sat_epsilon=10_initial_weights=std/seed=3", "amat_initial_weights=std/seed=3"
    assert needs(list(steps.values())) == {
        "std/seed=3/train": [],
        "std/seed=3/calibrate": ["std/seed=3/train"],
        f"{sat}/train": ["std/seed=3/train"],
        f"{amat}/train": ["std/seed=3/train", "std/seed=3/calibrate"],
        "sat_5/seed=3/train": [],
        **{f"{arm}/robustness": [f"{arm}/train"] for arm in (sat, amat, "sat_5/seed=3")},
    }
    # Run with the file, remembered by the word: the record holds wherever the study lies.
    step = steps[f"{sat}/train"]
    words = step.command()
    assert words[words.index("--initial_weights") + 1] == "/out/arms/std/seed=3/models/model.pt"
    assert words.count("--initial_weights") == 1
    assert step.values["initial_weights"] == "std"
    moved = plan(
        bundle,
        "sat:epsilon=10,initial_weights=std",
        seeds=[3],
        output_dir=Path("/elsewhere"),
        dataset_dir=Path("/data"),
    )
    assert next(step for step in moved.steps() if "sat" in str(step.output_dir)).values == step.values
    # How it started is of its training.
    assert "initial_weights" not in steps[f"{sat}/robustness"].settings()
    assert "std" not in [arm.spec for arm in made.arms]


def test_no_calibration_where_only_weights_are_needed(bundle: Bundle) -> None:
    steps = plan(bundle, "sat:initial_weights=std").steps()
    assert [step.name for step in steps] == ["train", "train", "robustness"]


def test_training_may_start_from_any_file(bundle: Bundle) -> None:
    steps = plan(bundle, "sat:initial_weights=/mine/w.pt").steps()
    assert [called(step) for step in steps] == [
        f"sat_initial_weights=_mine_w.pt/seed=0/{name}" for name in ("train", "robustness")
    ]
    assert steps[0].settings()["initial_weights"] == "/mine/w.pt"
    assert not steps[0].after


# ------------------------------------------------------------------------------------- values


def test_a_value_goes_to_the_steps_whose_own_files_have_it(bundle: Bundle) -> None:
    """The overlay lies over all of them and has each value, or the part it would be added to."""
    values = {"attack_steps": 3, "attack_at_test": 5, "width": 2, "optimizer#momentum": 0.5}
    made = plan(bundle, "std", "sat", overlays=["small"], values=values)
    assert given(made, "attack_steps") == {"sat/seed=0/train": {"attack_steps"}}
    assert given(made, "attack_at_test") == {f"{arm}/seed=0/robustness": {"attack_at_test"} for arm in ("std", "sat")}
    assert len(given(made, "width")) == len(given(made, "optimizer#momentum")) == 4


def test_a_value_of_the_overlay_alone_goes_wherever_it_lies(bundle: Bundle) -> None:
    made = plan(bundle, "std", "sat", overlays=["small"], values={"shrink": 3})
    assert len(given(made, "shrink")) == 4
    with pytest.raises(ValueError, match="nothing to set at shrink"):
        plan(bundle, "std", values={"shrink": 3})


def test_what_a_step_is_given_does_not_depend_on_the_other_arms(bundle: Bundle) -> None:
    """Or adding an arm to a study would make what is trained look like something else."""
    values = {"attack_steps": 3, "shrink": 3}
    alone = plan(bundle, "std", overlays=["small"], values=values).steps()
    beside = {called(step): step for step in plan(bundle, "std", "sat", overlays=["small"], values=values).steps()}
    assert {called(step): step.values for step in alone} == {
        called(step): beside[called(step)].values for step in alone
    }


def test_what_an_overlay_takes_away_is_not_set(bundle: Bundle) -> None:
    """MONAI cannot set a part of what is not there."""
    bundle.config("flat").write_text('{"optimizer": "$sgd()"}')
    made = plan(bundle, "std", overlays=["flat"], values={"width": 3})
    assert len(given(made, "width")) == 2
    assert bundle.concerns("optimizer#lr#base", ("train",), ())
    assert not bundle.concerns("optimizer#lr#base", ("train",), ("flat",))
    with pytest.raises(ValueError, match="nothing to set at optimizer#lr#base"):
        plan(bundle, "std", overlays=["flat"], values={"optimizer#lr#base": 1})


# --------------------------------------------------------------------------------- evaluations


def test_the_first_evaluation_goes_where_the_bundle_puts_it(bundle: Bundle) -> None:
    """So that a bundle which knows nothing of other evaluations, and finished studies, stay as they are."""
    made = plan(bundle, "std")
    step = made.steps()[-1]
    assert (step.name, step.configs, step.paths) == ("robustness", ["train", "robustness"], {})
    assert step.values == {"dataset_dir": "/data", "seed": 0}
    assert made.results_dir == Path("/out")
    assert made.curve_dir(made.arms[0], 0) == Path("/out/arms/std/seed=0/robustness")


def test_another_evaluation_has_a_place_of_its_own(bundle: Bundle) -> None:
    values = {"section": "validation"}
    made = plan(bundle, "std", "amat", evaluation="on_validation", values=values)
    first = plan(bundle, "std", "amat").steps()
    steps = made.steps()
    assert [(step.record, step.values) for step in steps[:3]] == [(step.record, step.values) for step in first[:3]]
    for step, arm in zip(steps[3:], ("std", "amat"), strict=True):
        folder = Path(f"/out/arms/{arm}/seed=0")
        assert step.record == folder / "on_validation.json"
        assert step.configs == ["train", "robustness"]
        assert step.settings()["robustness_dir"] == str(folder / "on_validation")
        assert step.settings()["output_dir"] == str(folder)  # where the weights are
        assert step.values == {"dataset_dir": "/data", "seed": 0, **values}
        assert [called(other) for other in step.after] == [f"{arm}/seed=0/train"]
    assert made.results_dir == Path("/out/on_validation")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        *((name, "is to be a folder's name") for name in ("", "..", "a/b", "a.json", "-a", "_a", "a b", "ä", "a" * 65)),
        *((name, "that name is taken") for name in ("train", "calibrate", "models", "logs", "strength", "thresholds")),
        *((name, "that name is taken") for name in ("arms", "phantom", "Train", "MODELS")),
    ],
)
def test_an_evaluation_is_a_safe_folders_name(bundle: Bundle, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(bundle, "std", evaluation=name)


def test_another_evaluation_needs_a_bundle_that_can_put_it_elsewhere(bundle: Bundle) -> None:
    bundle.config("robustness").write_text("{}")
    plan(bundle, "std")
    with pytest.raises(
        ValueError, match=r"configs/robustness\.json has no robustness_dir.*beside which evaluation 'other'"
    ):
        plan(bundle, "std", evaluation="other")


# ------------------------------------------------------------------------------------ strength


def strength(made: StudyPlan) -> dict[str, Step]:
    return {called(step): step for step in made.steps() if step.name == "strength"}


def test_strength_is_looked_at_on_the_first_seeds_networks(bundle: Bundle) -> None:
    made = plan(bundle, "std", "sat", seeds=[4, 0], overlays=["small"], strength=True, values={"section": "validation"})
    steps = strength(made)
    assert needs(list(steps.values())) == {
        "std/seed=4/strength": ["std/seed=4/train"],
        "sat/seed=4/strength": ["sat/seed=4/train", "std/seed=4/train"],
    }
    assert [step.name for step in made.steps()[-3:]] == ["robustness", "strength", "strength"]
    for step in steps.values():
        assert step.configs == ["train", "robustness", "strength", "small"]
        assert step.values == {"dataset_dir": "/data", "seed": 4, "section": "validation"}
    # Noise of the clean network is tried on the others.
    assert steps["std/seed=4/strength"].paths == {}
    source = Path("/out/arms/std/seed=4/models/model.pt")
    assert steps["sat/seed=4/strength"].paths == {"source_checkpoint": source}
    assert made.strength_dir(made.arms[1]) == Path("/out/arms/sat/seed=4/strength")


def test_no_noise_of_a_clean_network_that_is_not_there_or_does_not_fit(bundle: Bundle) -> None:
    assert [step.paths for step in strength(plan(bundle, "sat", strength=True)).values()] == [{}]
    steps = strength(plan(bundle, "std", "sat:width=16", "sat:learning_rate=1", strength=True))
    assert ["source_checkpoint" in step.paths for step in steps.values()] == [False, False, True]
    assert "source_checkpoint" in strength(plan(bundle, "amat", strength=True))["amat/seed=0/strength"].paths


def test_the_strength_of_another_evaluation_lies_beside_it(bundle: Bundle) -> None:
    made = plan(bundle, "std", evaluation="other", strength=True)
    (step,) = strength(made).values()
    folder = Path("/out/arms/std/seed=0")
    assert step.record == folder / "other" / "strength.json"
    assert step.settings()["output_dir"] == str(folder / "other")
    assert step.settings()["checkpoint"] == str(folder / "models" / "model.pt")
    assert made.strength_dir(made.arms[0]) == folder / "other" / "strength"


def test_strength_needs_a_config_file(bundle: Bundle) -> None:
    bundle.config("strength").unlink()
    with pytest.raises(ValueError, match=r"has no configs/strength\.json, which lists the attacks"):
        plan(bundle, "std", strength=True)


# ------------------------------------------------------------------------------------ refusals


def test_what_a_study_sets_itself_is_not_to_be_set(bundle: Bundle) -> None:
    for key in ("robustness_dir", "source_checkpoint", "checkpoint", "seed"):
        with pytest.raises(ValueError, match=f"{key} is not a value to set"):
            plan(bundle, "std", values={key: "x"})


def test_the_clean_network_cannot_start_from_itself(bundle: Bundle) -> None:
    with pytest.raises(ValueError, match="say which arms do, as amat:initial_weights=std"):
        plan(bundle, "std", "amat", values={"initial_weights": "std"})


def test_a_bundle_without_initial_weights_says_so(bundle: Bundle) -> None:
    bundle.config("train").write_text("{}")
    with pytest.raises(ValueError, match="sets initial_weights, which none of its configuration files has"):
        plan(bundle, "sat:initial_weights=std")


def test_a_plan_is_what_it_was_given(bundle: Bundle) -> None:
    """Nothing that it finds out makes two of them differ."""
    first, second = plan(bundle, "std", values={"width": 2}), plan(bundle, "std", values={"width": 2})
    first.steps()
    assert first == second
    assert dataclasses.replace(first, evaluation="other").steps()[-1].name == "other"
