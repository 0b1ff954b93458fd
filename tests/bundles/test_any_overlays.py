"""What overlays may change of what they lie on, in any bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from monai.bundle import ConfigParser

if TYPE_CHECKING:
    from tests.bundles.conftest import BundleRunner

# What makes a result comparable with that of full size: small.json leaves it alone.
METHOD = {
    *("loss", "heatmap", "attack_loss", "acceptance", "rule", "thresholds", "statistic", "margins", "metric"),
    *("attack", "evaluation_attack", "delta", "max_margin", "epsilon", "noise_levels", "noise_scale", "clip_range"),
    *("network_def", "section", "fold", "split"),
}
REPORTERS = {"StatsHandler", "TensorBoardStatsHandler", "monai_amat.handlers.ProgressHandler"}


def own(bundle: BundleRunner, name: str) -> dict[str, Any]:
    return dict(ConfigParser.load_config_file(str(bundle.config(name))))


def test_small_changes_size_and_neither_method_nor_noise_per_value(any_bundle: BundleRunner) -> None:
    changed = {key.split("::")[0] for key in own(any_bundle, "small")} - {"+lies_on"}
    assert changed & METHOD == set()
    # Everything that it sets is an id of training, calibration or evaluation.
    known = any_bundle.merged("amat", "calibrate", "robustness", "strength").keys() | {"train"}
    assert changed <= known


@pytest.mark.parametrize("name", ["sat", "amat"])
def test_an_arm_changes_the_batches_of_training_and_adds_its_handlers(any_bundle: BundleRunner, name: str) -> None:
    plain, arm = any_bundle.merged("multi_gpu_train"), any_bundle.merged("multi_gpu_train", name)
    changed = {key for key in plain if plain[key] != arm[key]}
    assert changed <= {"train", "resume_objects", "lies_on"}
    assert {key for key in plain["train"] if plain["train"][key] != arm["train"][key]} == {"prepare_batch", "handlers"}
    before, after = plain["train"]["handlers"], arm["train"]["handlers"]
    assert after[: len(before)] == before
    assert len(after) > len(before)


def test_several_gpus_share_the_batch_and_only_the_first_reports(any_bundle: BundleRunner) -> None:
    single, several = any_bundle.merged(), any_bundle.merged("multi_gpu_train")
    changed = {key for key in single if single[key] != several[key]}
    assert changed == {"device", "network", "train", "validate", "initialize", "lies_on"}
    assert several.keys() - single.keys() == {"backend", "batch_size_per_gpu", "finalize"}
    assert {key for key in single["train"] if single["train"][key] != several["train"][key]} <= {
        "dataloader",
        "sampler",
    }
    for part in ("train", "validate"):
        parts = [value for value in several[part].values() if isinstance(value, dict) and "_target_" in value]
        silent = {value["_target_"] for value in parts if value.get("_disabled_") == "@is_not_rank0"}
        assert silent == {value["_target_"] for value in parts} & REPORTERS


def test_attacks_on_a_trained_network_are_those_of_its_training(any_bundle: BundleRunner) -> None:
    """They stay in one range of values, and see data, loss and network as the curve does."""
    for names in (("sat",), ("amat",), ("amat", "amat_boundary"), ("evaluate",), ("robustness",)):
        content = any_bundle.merged(*names)
        attack = content.get("evaluation_attack") or content["attack"]
        assert attack["clip_range"] == "@clip_range"
    merged = any_bundle.merged("robustness", "strength")
    shared = ("network", "data_loader", "metric", "settings", "prepare_batch", "inferer", "extra_keys")
    assert all(merged["strength"].get(key) == merged["curve"].get(key) for key in shared)
    assert merged["strength"]["loss"] == merged["curve"]["attack_loss"]
