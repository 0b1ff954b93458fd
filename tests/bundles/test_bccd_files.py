"""The bundle of blood cells as files: the paper's defaults, noise that scales, attacks in range, export, licence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.bundles.conftest import BundleRunner

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:monai")


def test_there_are_the_same_files_as_in_the_first_bundle(bundle: BundleRunner, bccd: BundleRunner) -> None:
    def files(root: Path) -> set[str]:
        return {path.relative_to(root).as_posix() for path in root.rglob("*.*") if path.is_file()}

    # Both stand on a relative acceptance, which was found wanting there.
    assert files(bundle.root) - files(bccd.root) == {"configs/amat_relative.json", "configs/amat_balanced.json"}
    assert files(bccd.root) <= files(bundle.root)


def test_metadata_name_the_classes_and_what_makes_the_network(bccd: BundleRunner) -> None:
    content = json.loads(bccd.config("metadata").read_text())
    assert "ultralytics" in content["required_packages_version"]
    pred = content["network_data_format"]["outputs"]["pred"]
    assert list(pred["channel_def"].values())[4:] == bccd.merged()["classes"]
    # One place for each cell of the three grids.
    height, width = content["network_data_format"]["inputs"]["image"]["spatial_shape"]
    assert pred["spatial_shape"] == [sum(height // stride * (width // stride) for stride in (8, 16, 32))]


def test_defaults_are_the_papers(bccd: BundleRunner) -> None:
    """The settings of the paper's section 3 and of the authors' code for blood cells."""
    train = bccd.full("amat")
    assert (train["size"], train["image_size"], train["batch_size"], train["max_epochs"]) == ("s", [320, 320], 32, 300)
    values = [train.get_parsed_content(name) for name in ("delta", "max_margin", "noise_scale")]
    assert values == [2.5, 15.0, 1.0]
    attack = train.get_parsed_content("attack")
    assert (attack.steps, attack.rel_step, attack.clip_range) == (20, 5 / 20, (0.0, 1.0))
    assert bccd.full("sat").get_parsed_content("epsilon") == 5.0
    assert bccd.full("calibrate").get_parsed_content("statistic").k == 2.0
    robustness = bccd.full("robustness")
    assert robustness.get_parsed_content("noise_levels") == [0, 5, 10, 15]
    attack = robustness.get_parsed_content("evaluation_attack")
    assert (attack.steps, attack.rel_step, attack.clip_range) == (100, pytest.approx(5 / 100), (0.0, 1.0))
    assert train["optimizer"]["momentum"] == 0.937
    # Of a mean over the batch what YOLOv5 has of a sum over it.
    assert train.get_parsed_content("learning_rate") == pytest.approx(0.01 * 32)
    assert train.get_parsed_content("optimizer#weight_decay") * 32 == pytest.approx(5e-4)


def test_noise_follows_the_root_of_the_number_of_pixels(bccd: BundleRunner) -> None:
    small = {"image_size": [160, 160]}
    assert bccd.full("robustness", **small).get_parsed_content("noise_levels") == [0, 2.5, 5, 7.5]
    assert bccd.full("sat", **small).get_parsed_content("epsilon") == 2.5
    amat = bccd.full("amat", **small)
    assert [amat.get_parsed_content(name) for name in ("delta", "max_margin")] == [1.25, 7.5]
    strength = bccd.full("robustness", "strength", **small)
    assert strength.get_parsed_content("strength_noise_levels") == [2.5]
    label = bccd.full("robustness", **small).get_parsed_content("noise_label")
    assert label == "noise level ε (L2 over the 160×160 image, 0…1); 320×320: ε × 2"


def test_the_rate_warms_up_and_falls_to_a_tenth(bccd: BundleRunner) -> None:
    train = bccd.full(size="n", image_size=[64, 64], max_epochs=10)
    optimizer, schedule = (train.get_parsed_content(name) for name in ("optimizer", "lr_scheduler"))
    rates = []
    for _ in range(11):
        rates.append(optimizer.param_groups[0]["lr"] / 0.32)
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx(0.1)
    assert rates[3] == pytest.approx(1 - 0.9 * 3 / 10)
    assert rates[10] == pytest.approx(0.1)
    assert max(rates) == rates[3]


def test_the_documents_say_what_the_licence_of_ultralytics_means(bccd: BundleRunner) -> None:
    assert "AGPL-3.0" in (bccd.root / "docs" / "README.md").read_text()
