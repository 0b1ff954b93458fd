"""The hippocampus bundle as files: the paper's defaults, and an export that is the network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from monai.bundle import ConfigParser

from monai_amat.tasks.segmentation import nnunet_2d

if TYPE_CHECKING:
    from tests.bundles.conftest import BundleRunner

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:monai")


def test_defaults_are_the_papers(bundle: BundleRunner) -> None:
    """The settings of the paper's section 3 and of the authors' code for the hippocampus."""
    train = bundle.merged("amat")
    assert (train["patch_size"], train["batch_size"], train["base_features"]) == ([56, 40], 366, 32)
    assert (train["max_epochs"], train["iterations_per_epoch"], train["num_classes"]) == (100, 50, 3)
    assert (train["delta"], train["max_margin"], train["attack_steps"]) == (2.5, 15.0, 20)
    assert (train["optimizer"]["_target_"], train["learning_rate"]) == ("torch.optim.SGD", 0.01)
    assert (train["optimizer"]["momentum"], train["optimizer"]["nesterov"]) == (0.99, True)
    assert (train["optimizer"]["weight_decay"], train["lr_scheduler"]["power"]) == (3e-5, 0.9)
    assert train["clip_norm"] == 12.0
    parser = ConfigParser({**train, "imports": train["imports"]})
    # α = 4 in training, so 20 steps of 4/20; thresholds are the mean of the total loss.
    assert parser.get_parsed_content("attack").rel_step == pytest.approx(4 / 20)
    assert bundle.merged("calibrate")["statistic"]["k"] == 0.0
    robustness = ConfigParser(bundle.merged("robustness"))
    assert robustness["noise_levels"] == [0, 2, 4, 6, 8, 10]
    attack = robustness.get_parsed_content("evaluation_attack")
    assert (attack.steps, attack.rel_step, attack.best_iterate) == (100, pytest.approx(5 / 100), False)
    network = parser.get_parsed_content("network_def")
    ours = nnunet_2d(in_channels=1, out_channels=3, patch_size=(56, 40), features=[32, 64, 128, 256])
    assert {name: value.shape for name, value in network.state_dict().items()} == {
        name: value.shape for name, value in ours.state_dict().items()
    }
