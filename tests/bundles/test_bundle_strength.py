"""The overlay that asks whether the bundle's attack is strong enough: what it compares, and a run of it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
import torch
from monai.bundle import ConfigParser

from monai_amat.engines import load_weights, network_fingerprint, save_weights
from monai_amat.tasks.segmentation import nnunet_2d

if TYPE_CHECKING:
    from tests.bundles.conftest import BundleRunner

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:monai")


def network() -> torch.nn.Module:
    return nnunet_2d(in_channels=1, out_channels=3, patch_size=(32, 32), base_features=4)


def merged(bundle: BundleRunner, *names: str) -> dict[str, Any]:
    files = [str(bundle.config(name)) for name in ("train", *names)]
    return dict(copy.deepcopy(ConfigParser.load_config_files(files)))


def test_the_attack_is_compared_with_itself_on_the_same_data_and_figures(bundle: BundleRunner) -> None:
    """The reference of strength.json is the attack of robustness.json, network, loss and metric are its own."""
    config = merged(bundle, "robustness", "strength")
    curve, strength = config["curve"], config["strength"]
    shared = ("network", "data_loader", "metric", "settings")
    assert {key: strength[key] for key in shared} == {key: curve[key] for key in shared}
    assert strength["loss"] == curve["attack_loss"]
    assert config["validate"]["data"] == merged(bundle, "robustness")["validate"]["data"].replace(
        "@test_slices", "@strength_samples"
    )
    parser = ConfigParser(config)
    probes, attack = (parser.get_parsed_content(name) for name in ("probes", "evaluation_attack"))
    assert parser.get_parsed_content("strength#reference") == "pgd-100"
    assert probes["pgd-100"].attack == attack
    assert list(probes) == [
        *("pgd-20", "pgd-100", "pgd-200", "best-iterate", "best-of-3", "best-of-5", "other-loss", "apgd"),
        *("apgd-masked-balanced", "apgd-masked", "apgd-jensen-shannon", "apgd-spherical", "large-radius-first"),
        *("square", "random", "huge-radius", "clean"),
    ]
    assert probes["other-loss"].attack_loss.weights == {"ce": 0.0}
    assert str(probes["large-radius-first"].attack_loss) == "SmoothDiceIndex(activation='softmax', temperature=0.5)"
    assert parser.get_parsed_content("source_network") is not parser.get_parsed_content("network_def")


def test_the_dice_term_alone_is_that_of_the_loss(bundle: BundleRunner) -> None:
    config = merged(bundle, "robustness", "strength")
    config["loss"] |= {"dice_over": "present", "smooth": 1.0}
    loss, alone = (ConfigParser(copy.deepcopy(config)).get_parsed_content(name) for name in ("loss", "strength_loss"))
    logits, labels = torch.randn(3, 3, 8, 8), torch.randint(0, 3, (3, 1, 8, 8))
    torch.testing.assert_close(alone(logits, labels), loss.terms(logits, labels)["dice"])


@pytest.mark.parametrize("transfer", [False, True])
def test_the_attack_is_measured_against_other_attacks(
    bundle: BundleRunner, std: Path, transfer: bool, tmp_path: Path
) -> None:
    """On slices of its own number, the reference being the attack of the curve; the source is another network."""
    torch.manual_seed(9)
    save_weights(source := network(), tmp_path / "source.pt")
    common = {"checkpoint": str(std / "models" / "model.pt"), "output_dir": str(tmp_path / "out")}
    bundle.run(
        *("robustness", "strength"),
        **common,
        strength_samples=4,
        strength_steps=[3],
        strength_auto_steps=2,
        strength_queries=3,
        strength_noise_levels=[2.0],
        huge_radius=60.0,
        **({"source_checkpoint": str(tmp_path / "source.pt")} if transfer else {}),
    )
    folder = tmp_path / "out" / "strength"
    table = pd.read_csv(folder / "strength.csv").set_index("probe")
    probes = ["pgd-2", "pgd-3", "best-iterate", "best-of-3", "best-of-5", "other-loss", "transfer", "apgd"]
    probes += ["apgd-masked-balanced", "apgd-masked", "apgd-jensen-shannon", "apgd-spherical", "large-radius-first"]
    probes += ["square", "random"]
    named = [name for name in probes if transfer or name != "transfer"]
    assert table.index.tolist() == [*named, "worst of all", "huge-radius", "clean"]
    assert set(table["samples"]) == {4}
    assert set(table["groups"]) == {2}
    assert table["noise_level"].tolist() == [2.0] * (len(named) + 1) + [60.0, 0.0]
    summary = json.loads((folder / "strength.json").read_text())
    assert summary["reference"] == "pgd-2"
    assert summary["network"] == network_fingerprint(load_weights(network(), std / "models" / "model.pt"))
    if transfer:
        assert summary["probes"]["transfer"]["source"] == network_fingerprint(source)
    assert all(line in (folder / "strength.md").read_text() for line in summary["verdict"])
    # What the curve of the same slices finds is what the reference finds.
    bundle.run("robustness", **common, test_slices=4)
    levels = json.loads((tmp_path / "out" / "robustness" / "summary.json").read_text())["levels"]
    for name, level in (("clean", "0"), ("pgd-2", "2")):
        assert table.loc[name, "value"] == pytest.approx(levels[level]["adi"]["value"], abs=1e-6)
        assert table.loc[name, "loss"] == pytest.approx(levels[level]["loss"], rel=1e-5)


@pytest.mark.parametrize("names", [("robustness",), ("robustness", "strength")], ids="+".join)
def test_where_fewer_slices_have_foreground_than_the_bundle_attacks_it_attacks_all_of_them(
    bundle: BundleRunner, std: Path, names: tuple[str, ...], tmp_path: Path
) -> None:
    """With the numbers of small.json and strength.json as they are, on every other slice of two small volumes."""
    asked = {"robustness": 60, "strength": 20}[names[-1]]
    small = {key: value for key, value in bundle.small.items() if key != "test_slices"}
    runner = type(bundle)(bundle.dataset_dir, small=small)
    changes: dict[str, Any] = {"output_dir": str(tmp_path), "noise_levels": [0.0], "slice_step": 2}
    if names[-1] == "strength":
        changes |= {"strength_auto_steps": 2, "strength_queries": 3}
        changes |= {"strength_steps": [3], "strength_noise_levels": [2.0]}
    with pytest.warns(UserWarning, match=rf"expected {asked} slices with foreground, got \d+") as seen:
        runner.run(*names, checkpoint=str(std / "models" / "model.pt"), **changes)
    told = next(str(warning.message) for warning in seen if "slices with foreground" in str(warning.message))
    have = int(told.split(";")[0].rpartition(" ")[2])
    if names[-1] == "robustness":
        rows = pd.read_csv(tmp_path / "robustness" / "robustness.csv")
        assert rows.groupby("case").size().sum() == have < 60
        assert rows["case"].nunique() == 2
    else:
        assert set(pd.read_csv(tmp_path / "strength" / "strength.csv")["samples"]) == {have}
