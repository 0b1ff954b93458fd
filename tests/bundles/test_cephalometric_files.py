"""The landmark bundle as files: the paper's defaults, noise that scales, what its own overlays are for, export."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from monai.bundle import ckpt_export

from monai_amat.engines import OwnStatisticsInferer, SeparateForwardsInferer, load_weights
from monai_amat.tasks.landmarks import HeatmapBCE, HeatmapDice, MultiTaskUNet

if TYPE_CHECKING:
    from tests.bundles.conftest import BundleRunner

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:monai")


def test_defaults_are_the_papers(cephalometric: BundleRunner) -> None:
    """The settings of the paper's section 3 and of the authors' code for cephalograms."""
    train = cephalometric.merged("amat")
    assert (train["image_size"], train["batch_size"], train["max_epochs"]) == ([200, 160], 8, 500)
    assert (train["landmarks"], train["relative_radius"], train["width"]) == (19, 0.05, 1.0)
    assert (train["optimizer"]["_target_"], train["learning_rate"]) == ("torch.optim.Adam", 1e-3)
    assert train["optimizer"]["weight_decay"] == 1e-4
    assert (train["lr_scheduler"]["_target_"], train["lr_scheduler"]["factor"]) == (
        "torch.optim.lr_scheduler.ConstantLR",
        1.0,
    )
    made = cephalometric.full("amat")
    assert (made.get_parsed_content("delta"), made.get_parsed_content("max_margin")) == (1.0, 5.0)
    attack = made.get_parsed_content("attack")
    assert (attack.steps, attack.rel_step, attack.clip_range) == (20, pytest.approx(5 / 20), (-1.0, 1.0))
    assert cephalometric.merged("calibrate")["statistic"]["k"] == 2.0
    robustness = cephalometric.full("robustness")
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


# --------------------------------------------------------------- what overlays and values do


def test_noise_is_the_same_a_pixel_at_any_size(cephalometric: BundleRunner) -> None:
    """An L2 norm over a quarter of the pixels is half as long: every default of small.json is half of the paper's."""
    for names, keys in (
        (("sat",), ["epsilon"]),
        (("amat",), ["delta", "max_margin"]),
        (("robustness", "strength"), ["noise_levels", "strength_noise_levels", "huge_radius"]),
    ):
        large, small = cephalometric.full(*names), cephalometric.full(*names, "small")
        for key in keys:
            full = torch.tensor(large.get_parsed_content(key))
            torch.testing.assert_close(torch.tensor(small.get_parsed_content(key)), full / 2)
    label = cephalometric.full("robustness", "small").get_parsed_content("noise_label")
    assert "100×80" in label
    assert label.endswith("200×160: ε × 2")
    assert cephalometric.full("robustness").get_parsed_content("noise_label").endswith("200×160 image, −1…1)")


def test_a_number_given_by_hand_is_taken_as_it_is(cephalometric: BundleRunner) -> None:
    assert cephalometric.full("sat", "small", epsilon=1.5).get_parsed_content("attack").steps == 10
    assert cephalometric.full("sat", "small", epsilon=1.5).get_parsed_content("epsilon") == 1.5


def test_the_heat_map_term_is_one_object(cephalometric: BundleRunner) -> None:
    """Training's changes with bce.json; that of the attack does not, so that all arms meet the same one."""
    made = cephalometric.full("bce", "robustness")
    assert isinstance(made.get_parsed_content("loss").heatmap, HeatmapBCE)
    assert isinstance(made.get_parsed_content("attack_loss").heatmap, HeatmapDice)
    probes = cephalometric.full("robustness", "strength").get_parsed_content("probes")
    assert list(probes) == [
        *("pgd-20", "pgd-100", "pgd-200", "best-iterate", "best-of-3", "best-of-5", "other-loss", "apgd"),
        *("apgd-likelihood", "large-radius-first", "square", "random", "huge-radius", "clean", "heat-map-loss"),
    ]
    assert isinstance(probes["other-loss"].attack_loss.heatmap, HeatmapBCE)
    assert probes["heat-map-loss"].attack_loss.weights == {"heatmap": 0.5, "offset_y": 0.0, "offset_x": 0.0}


@pytest.mark.parametrize(
    ("names", "expected"),
    [(("separate_forwards",), SeparateForwardsInferer), (("own_statistics",), OwnStatisticsInferer), ((), None)],
)
def test_the_training_forward_is_one_object(
    cephalometric: BundleRunner, names: tuple[str, ...], expected: Any, tmp_path: Path
) -> None:
    with cephalometric.workflow("sat", *names, output_dir=str(tmp_path)) as workflow:
        trainer = workflow.parser.get_parsed_content("train#trainer")
        assert type(trainer.inferer).__name__ == (expected.__name__ if expected else "SimpleInferer")
        assert workflow.parser.get_parsed_content("resume_settings#forward") is trainer.inferer
        if expected is OwnStatisticsInferer:
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
