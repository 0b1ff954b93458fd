"""The landmark bundle as files: the paper's defaults, overlays that change what they say, noise that scales, export."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from monai.bundle import ConfigParser, ckpt_export

from monai_amat.engines import OwnStatistics, SeparateForwards
from monai_amat.losses import HeatmapBCE, HeatmapDice
from monai_amat.networks import MultiTaskUNet, load_weights

if TYPE_CHECKING:
    from tests.bundles.conftest import BundleRunner

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:monai")


def parser(cephalometric: BundleRunner, *names: str, **values: Any) -> ConfigParser:
    made = ConfigParser(cephalometric.merged(*names))
    made.update(values)
    return made


def test_defaults_are_the_papers(cephalometric: BundleRunner) -> None:
    """facts.md, sections 4 and 5, and the numbers of the authors' code for cephalograms."""
    train = cephalometric.merged("amat")
    assert (train["image_size"], train["batch_size"], train["max_epochs"]) == ([200, 160], 8, 500)
    assert (train["landmarks"], train["relative_radius"], train["width"]) == (19, 0.05, 1.0)
    assert (train["optimizer"]["_target_"], train["learning_rate"]) == ("torch.optim.Adam", 1e-3)
    assert train["optimizer"]["weight_decay"] == 1e-4
    assert (train["lr_scheduler"]["_target_"], train["lr_scheduler"]["factor"]) == (
        "torch.optim.lr_scheduler.ConstantLR",
        1.0,
    )
    made = parser(cephalometric, "amat")
    assert (made.get_parsed_content("delta"), made.get_parsed_content("max_margin")) == (1.0, 5.0)
    attack = made.get_parsed_content("attack")
    assert (attack.steps, attack.rel_step, attack.clip_range) == (20, pytest.approx(5 / 20), (-1.0, 1.0))
    assert cephalometric.merged("calibrate")["statistic"]["k"] == 2.0
    robustness = parser(cephalometric, "robustness")
    assert robustness.get_parsed_content("noise_levels") == [0, 0.5, 1, 1.5, 2, 2.5, 3]
    attack = robustness.get_parsed_content("evaluation_attack")
    assert (attack.steps, attack.rel_step, attack.best_iterate) == (100, pytest.approx(5 / 100), False)
    loss = made.get_parsed_content("loss")
    assert isinstance(loss.heatmap, HeatmapDice)
    assert loss.judged == ("heatmap", "offset_y", "offset_x")
    assert loss.weights == {"heatmap": 0.5}


def test_grey_values_become_minus_one_to_one(cephalometric: BundleRunner) -> None:
    """(x/255 - 0.5)/0.5, after whatever augmentation does at the rim: black, not grey."""
    with cephalometric.workflow() as workflow:
        dataset = workflow.parser.get_parsed_content("train#dataset")
        values = torch.stack([dataset[i]["image"] for i in range(8)])
    assert values.shape == (8, 3, 50, 40)
    assert values.dtype == torch.float32
    assert values.equal(values[:, :1].expand_as(values))
    assert -1 <= float(values.min()) < -0.9
    assert 0.5 < float(values.max()) <= 1


# ------------------------------------------------------------------------------- overlays

# What each overlay may change of train.json (a level deep where it changes a part), and what it may add.
OVERLAYS: dict[str, tuple[set[str], set[str]]] = {
    "bce": ({"heatmap"}, set()),
    "separate_forwards": ({"train#inferer"}, set()),
    "own_statistics": ({"train#inferer", "initial_network", "resume_objects#noisy_statistics"}, set()),
    "sat": (
        {
            *("train#prepare_batch", "initialize"),
            *("resume_settings#arm", "resume_settings#attack", "resume_settings#epsilon"),
        },
        {"epsilon", "attack_steps", "attack", "adversarial_output"},
    ),
    "amat": (
        {
            *("train#prepare_batch", "initialize", "resume_objects#margins"),
            *("resume_settings#arm", "resume_settings#attack", "resume_settings#rule", "resume_settings#thresholds"),
        },
        {
            *("delta", "max_margin", "attack_steps", "thresholds_file", "attack", "margins", "thresholds"),
            *("threshold_shift", "acceptance", "rule", "margin_handler", "margin_stats"),
        },
    ),
    "calibrate": ({"run"}, {"checkpoint", "thresholds_file", "statistic", "calibrate"}),
    "evaluate": (
        {
            *("validate#images", "validate#prepare_batch", "validate#handlers", "validate#evaluator"),
            *("validate#additional_metrics", "initialize", "run"),
        },
        {
            *("checkpoint", "section", "test_cases", "epsilon", "evaluation_steps", "evaluation_attack"),
            *("attack_heatmap", "attack_loss"),
        },
    ),
    "robustness": (
        {"validate#images", "run"},
        {
            *("checkpoint", "robustness_dir", "section", "test_cases", "noise_levels", "evaluation_steps"),
            *("evaluation_attack", "attack_heatmap", "attack_loss", "metric_label", "noise_label"),
            *("further_figures", "metric", "curve", "examples"),
        },
    ),
}

# The same over the overlay that they say they lie on.
VARIANTS: dict[str, tuple[set[str], set[str]]] = {
    "sat_uniform": ({"train#prepare_batch", "initialize", "resume_settings#arm"}, {"overlay_of", "radius"}),
    "sat_ramp": ({"train#prepare_batch", "initialize", "resume_settings#arm"}, {"overlay_of", "radius"}),
    "amat_balanced": ({"rule"}, {"overlay_of", "decay"}),
    "amat_shuffled": ({"initialize", "resume_settings#shuffled"}, {"overlay_of", "shuffle"}),
    "amat_boundary": ({"attack", "rule"}, {"overlay_of"}),
    "amat_path": ({"rule"}, {"overlay_of"}),
    "amat_running": (
        {"thresholds", "margin_handler", "resume_objects#thresholds", "resume_settings#thresholds"},
        {"overlay_of", "warmup"},
    ),
    "strength": (
        {"validate#images", "run"},
        {
            *("overlay_of", "strength_samples", "strength_noise_levels", "strength_steps", "huge_radius"),
            *("source_checkpoint", "source_network", "strength_heatmap", "strength_loss", "heatmap_loss"),
            *("standard_probes", "probes", "strength"),
        },
    ),
}


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_changes_what_it_is_for_and_nothing_else(cephalometric: BundleRunner, name: str) -> None:
    assert cephalometric.changed((), (name,)) == OVERLAYS[name]


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_changes_what_it_is_for_and_nothing_else(cephalometric: BundleRunner, name: str) -> None:
    below = json.loads(cephalometric.config(name).read_text())["overlay_of"]
    assert below == ("robustness" if name == "strength" else name.partition("_")[0])
    assert cephalometric.changed((below,), (below, name)) == VARIANTS[name]


@pytest.mark.parametrize("arm", [(), ("sat",), ("amat",), ("calibrate",), ("robustness",), ("robustness", "strength")])
def test_small_changes_size_only(cephalometric: BundleRunner, arm: tuple[str, ...]) -> None:
    """Loss, network family, rule, thresholds, metric and noise a pixel are those of full size."""
    changed, added = cephalometric.changed(arm, (*arm, "small"))
    assert changed <= {
        *("amp", "image_size", "width", "num_workers", "max_epochs", "learning_rate", "lr_scheduler", "attack_steps"),
    }
    assert added <= {"attack_steps"}


def test_noise_is_the_same_a_pixel_at_any_size(cephalometric: BundleRunner) -> None:
    """An L2 norm over a quarter of the pixels is half as long: every default of small.json is half of the paper's."""
    for names, keys in (
        (("sat",), ["epsilon"]),
        (("amat",), ["delta", "max_margin"]),
        (("robustness", "strength"), ["noise_levels", "strength_noise_levels", "huge_radius"]),
    ):
        large, small = parser(cephalometric, *names), parser(cephalometric, *names, "small")
        for key in keys:
            full = torch.tensor(large.get_parsed_content(key))
            torch.testing.assert_close(torch.tensor(small.get_parsed_content(key)), full / 2)
    label = parser(cephalometric, "robustness", "small").get_parsed_content("noise_label")
    assert "100×80" in label
    assert label.endswith("200×160: ε × 2")
    assert parser(cephalometric, "robustness").get_parsed_content("noise_label").endswith("200×160 image, −1…1)")


def test_a_number_given_by_hand_is_taken_as_it_is(cephalometric: BundleRunner) -> None:
    assert parser(cephalometric, "sat", "small", epsilon=1.5).get_parsed_content("attack").steps == 10
    assert parser(cephalometric, "sat", "small", epsilon=1.5).get_parsed_content("epsilon") == 1.5


def test_the_heat_map_term_is_one_object(cephalometric: BundleRunner) -> None:
    """Training's changes with bce.json; that of the attack does not, so that all arms meet the same one."""
    made = parser(cephalometric, "bce", "robustness")
    assert isinstance(made.get_parsed_content("loss").heatmap, HeatmapBCE)
    assert isinstance(made.get_parsed_content("attack_loss").heatmap, HeatmapDice)
    probes = parser(cephalometric, "robustness", "strength").get_parsed_content("probes")
    assert list(probes) == [
        *("pgd-20", "pgd-100", "pgd-200", "best-iterate", "best-of-3", "best-of-5", "other-loss", "random"),
        *("huge-radius", "clean", "heat-map-loss"),
    ]
    assert isinstance(probes["other-loss"].attack_loss.heatmap, HeatmapBCE)
    assert probes["heat-map-loss"].attack_loss.weights == {"heatmap": 0.5, "offset_y": 0.0, "offset_x": 0.0}


@pytest.mark.parametrize(
    ("names", "expected"),
    [(("separate_forwards",), SeparateForwards), (("own_statistics",), OwnStatistics), ((), None)],
)
def test_the_training_forward_is_one_object(
    cephalometric: BundleRunner, names: tuple[str, ...], expected: Any, tmp_path: Path
) -> None:
    with cephalometric.workflow("sat", *names, output_dir=str(tmp_path)) as workflow:
        trainer = workflow.parser.get_parsed_content("train#trainer")
        assert type(trainer.inferer).__name__ == (expected.__name__ if expected else "SimpleInferer")
        assert workflow.parser.get_parsed_content("resume_settings#forward") == type(trainer.inferer).__name__
        if expected is OwnStatistics:
            # Made before any wrapper round the network, so that ranks share these buffers.
            buffers = dict(trainer.network.named_buffers())
            assert buffers["last_step.1.noisy_running_mean"].shape == buffers["last_step.1.running_mean"].shape


# -------------------------------------------------------------------------------- exports


def test_the_scripted_export_is_the_network_at_any_size(
    cephalometric: BundleRunner, cephalometric_std: Path, tmp_path: Path
) -> None:
    file, weights = tmp_path / "model.ts", cephalometric_std / "models" / "model.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scripting is deprecated, and what bundles are made of
        ckpt_export(
            "network_def",
            filepath=str(file),
            ckpt_file=str(weights),
            meta_file=str(cephalometric.config("metadata")),
            config_file=[str(cephalometric.config("train")), str(cephalometric.config("inference"))],
            key_in_ckpt="model",
            width=1 / 32,
        )
        scripted = torch.jit.load(str(file))
    trained = load_weights(MultiTaskUNet(width=1 / 32), weights).eval()
    for size in ((50, 40), (64, 33)):
        image = torch.randn(2, 3, *size)
        with torch.no_grad():
            torch.testing.assert_close(scripted(image), trained(image))
