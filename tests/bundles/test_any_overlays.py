"""What each overlay changes of what it lies on, in any bundle: that alone, and everything it is for."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.bundles.conftest import BundleRunner

# Over which others it lies; what it may change of them, a level deep where it changes a part; and what it may add.
Overlay = tuple[tuple[str, ...], set[str], set[str]]

MARGINS = ("delta", "max_margin", "margins", "adaptive_margins", "rule", "margin_handler", "margin_stats")
JUDGEMENT = ("thresholds_file", "thresholds", "threshold_shift", "acceptance")
ATTACKED = ("checkpoint", "section", "test_cases", "evaluation_steps", "evaluation_attack")
CURVE = (
    *(*ATTACKED, "attack_loss", "robustness_dir", "noise_levels", "metric_label", "noise_label", "further_figures"),
    *("report", "curve", "examples"),
)
STRENGTH = (
    *("overlay_of", "strength_samples", "strength_noise_levels", "strength_steps", "huge_radius", "source_checkpoint"),
    *("source_network", "strength_loss", "probes", "strength"),
)
EVALUATE = ("validate#prepare_batch", "validate#handlers", "initialize", "run")

EVERYWHERE: dict[str, Overlay] = {
    "sat": (
        (),
        {
            *("train#prepare_batch", "initialize"),
            *("resume_settings#arm", "resume_settings#attack", "resume_settings#epsilon"),
        },
        {"epsilon", "attack_steps", "attack", "adversarial_output"},
    ),
    "amat": (
        (),
        {
            *("train#prepare_batch", "initialize", "resume_objects#margins"),
            *("resume_settings#arm", "resume_settings#attack", "resume_settings#rule", "resume_settings#thresholds"),
        },
        {"attack_steps", "attack", *MARGINS, *JUDGEMENT},
    ),
    "calibrate": ((), {"run"}, {"checkpoint", "thresholds_file", "statistic", "calibrate"}),
    **dict.fromkeys(
        ("sat_uniform", "sat_ramp"),
        (("sat",), {"train#prepare_batch", "initialize", "resume_settings#arm"}, {"overlay_of", "radius"}),
    ),
    "amat_shuffled": (("amat",), {"initialize", "resume_settings#shuffled"}, {"overlay_of", "shuffle"}),
    "amat_boundary": (("amat",), {"attack", "rule"}, {"overlay_of"}),
    "amat_running": (
        ("amat",),
        {"thresholds", "resume_settings#thresholds"},
        {"overlay_of", "warmup"},
    ),
}
SEGMENTATION: dict[str, Overlay] = {
    **EVERYWHERE,
    "evaluate": ((), {"validate#slices", "validate#evaluator", *EVALUATE}, {*ATTACKED, "epsilon", "evaluation_dir"}),
    "robustness": ((), {"validate#slices", "run"}, {*CURVE, "test_slices"}),
    "strength": (("robustness",), {"validate#slices", "run"}, {*STRENGTH}),
    "amat_path": (
        ("amat",),
        {"thresholds", "acceptance", "rule", "resume_settings#thresholds"},
        {"overlay_of", "dice_threshold"},
    ),
    "amat_relative": (("amat",), {"acceptance", "resume_settings#tolerance"}, {"overlay_of", "tolerance"}),
    "amat_balanced": (
        ("amat", "amat_relative"),
        {"margins", "rule", "tolerance", "overlay_of", "resume_settings#start_margin"},
        {"start_margin", "decay"},
    ),
}
OVERLAYS: dict[str, dict[str, Overlay]] = {
    "hippocampus": SEGMENTATION,
    "heart": SEGMENTATION,
    "prostate": SEGMENTATION,
    "cephalometric": {
        **EVERYWHERE,
        "bce": ((), {"heatmap"}, set()),
        "separate_forwards": ((), {"train#inferer"}, set()),
        "own_statistics": ((), {"train#inferer", "initial_network", "resume_objects#noisy_statistics"}, set()),
        "evaluate": (
            (),
            {"validate#images", "validate#evaluator", "validate#key_metric", *EVALUATE},
            {*ATTACKED, "epsilon", "evaluation_dir", "attack_heatmap", "attack_loss"},
        ),
        "robustness": ((), {"validate#images", "run"}, {*CURVE, "attack_heatmap"}),
        "strength": (
            ("robustness",),
            {"validate#images", "run"},
            {*STRENGTH, "strength_heatmap", "heatmap_loss", "standard_probes"},
        ),
        "amat_path": (("amat",), {"rule"}, {"overlay_of"}),
        "amat_balanced": (("amat",), {"rule"}, {"overlay_of", "decay"}),
    },
    "bccd": {
        **EVERYWHERE,
        "evaluate": ((), {"validate#images", *EVALUATE}, {*ATTACKED, "epsilon", "evaluation_dir", "raw_outputs"}),
        "robustness": ((), {"validate#images", "run"}, {*CURVE, "raw_outputs"}),
        "strength": (("robustness",), {"validate#images", "run"}, {*STRENGTH}),
        "amat_path": (("amat",), {"rule"}, {"overlay_of"}),
    },
}


def test_every_overlay_is_listed(any_bundle: BundleRunner) -> None:
    files = {file.stem for file in (any_bundle.root / "configs").glob("*.json")}
    assert files - {"train", "inference", "metadata", "small", "multi_gpu_train"} == set(OVERLAYS[any_bundle.name])


@pytest.mark.parametrize(
    ("any_bundle", "name"),
    [(bundle, name) for bundle, overlays in OVERLAYS.items() for name in overlays],
    indirect=["any_bundle"],
)
def test_an_overlay_changes_what_it_is_for_and_nothing_else(any_bundle: BundleRunner, name: str) -> None:
    under, changed, added = OVERLAYS[any_bundle.name][name]
    assert any_bundle.changed(under, (*under, name)) == (changed, added)
    assert json.loads(any_bundle.config(name).read_text()).get("overlay_of") == (under[-1] if under else None)


@pytest.mark.parametrize("name", ["sat", "amat"])
def test_an_arm_adds_to_what_is_initialised(any_bundle: BundleRunner, name: str) -> None:
    before = any_bundle.merged("multi_gpu_train")["initialize"]
    after = any_bundle.merged("multi_gpu_train", name)["initialize"]
    assert after[: len(before)] == before
    added = after[len(before) :]
    assert added
    assert all("attach(@train#trainer)" in text for text in added)


# What small.json may change, and of what it may add where nothing asks for it.
SMALL_VOLUMES = (
    {
        *("amp", "base_features", "batch_size", "val_batch_size", "num_workers", "max_epochs", "val_interval"),
        *("iterations_per_epoch", "learning_rate", "optimizer", "train#random_transforms"),
        *("attack_steps", "evaluation_steps", "test_slices"),
    },
    {"attack_steps", "evaluation_steps", "test_slices"},
)
SIZES: dict[str, tuple[set[str], set[str]]] = {
    "hippocampus": SMALL_VOLUMES,
    "heart": SMALL_VOLUMES,
    "prostate": SMALL_VOLUMES,
    "cephalometric": (
        {
            *("amp", "image_size", "width", "batch_size", "num_workers", "max_epochs", "learning_rate", "lr_scheduler"),
            "attack_steps",
        },
        {"attack_steps"},
    ),
    "bccd": (
        {
            *("amp", "size", "image_size", "batch_size", "val_batch_size", "num_workers", "max_epochs"),
            *("warmup_epochs", "attack_steps", "learning_rate", "optimizer"),
        },
        {"attack_steps"},
    ),
}


@pytest.mark.parametrize(
    "arm",
    [(), ("sat",), ("amat",), ("amat", "amat_boundary"), ("calibrate",), ("robustness",), ("robustness", "strength")],
    ids=lambda arm: "+".join(arm) or "train",
)
def test_small_changes_size_only(any_bundle: BundleRunner, arm: tuple[str, ...]) -> None:
    """Loss, network family, rule, thresholds, metric and noise a pixel are those of full size."""
    changed, added = any_bundle.changed(arm, (*arm, "small"))
    assert changed <= SIZES[any_bundle.name][0]
    assert added <= SIZES[any_bundle.name][1]


def test_several_gpus_share_the_batch_and_only_the_first_reports(any_bundle: BundleRunner) -> None:
    changed, added = any_bundle.changed((), ("multi_gpu_train",))
    # Elsewhere an epoch is a pass over all images, on however many GPUs.
    share = {"train#sampler"} if OVERLAYS[any_bundle.name] is SEGMENTATION else set()
    assert changed - share == {
        *("device", "network", "initialize", "train#dataloader", "train#handlers"),
        *("validate#dataloader", "validate#sampler", "validate#handlers"),
    }
    assert share <= changed
    assert added == {"backend", "batch_size_per_gpu", "finalize"}
    single, several = any_bundle.merged(), any_bundle.merged("multi_gpu_train")
    reporters = {"StatsHandler", "TensorBoardStatsHandler", "monai_amat.handlers.ProgressHandler"}
    for part in ("train", "validate"):
        handlers = several[part]["handlers"]
        silent = [handler["_target_"] for handler in handlers if "_disabled_" in handler]
        assert set(silent) == {handler["_target_"] for handler in handlers} & reporters
        plain = [{key: value for key, value in handler.items() if key != "_disabled_"} for handler in handlers]
        assert plain == single[part]["handlers"]
