"""What metadata.json says of any bundle: by MONAI's specification, of these versions, of this network."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import monai.apps.utils
import pytest
import torch
from monai.bundle import verify_metadata, verify_net_in_out
from packaging.version import Version

import monai_amat

if TYPE_CHECKING:
    from tests.bundles.conftest import BundleRunner

SCHEMA = Path(__file__).with_name("meta_schema.json")

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:monai")


def metadata(bundle: BundleRunner) -> dict[str, Any]:
    return dict(json.loads(bundle.config("metadata").read_text(encoding="utf-8")))


# ----------------------------------------------------------------------- the specification


def test_metadata_follow_the_specification_without_a_download(
    any_bundle: BundleRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError(f"a download was tried: {args}")

    monkeypatch.setattr(monai.apps.utils, "_download_with_progress", refuse)
    verify_metadata(meta_file=str(any_bundle.config("metadata")), filepath=SCHEMA)


def without(*path: str) -> Any:
    def change(content: dict[str, Any]) -> None:
        for key in path[:-1]:
            content = content[key]
        del content[path[-1]]

    return change


def with_value(value: Any, *path: str) -> Any:
    def change(content: dict[str, Any]) -> None:
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value

    return change


MANDATORY = (
    *("version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version"),
    *("task", "description", "authors", "copyright", "network_data_format"),
)
FORMAT = ("type", "format", "num_channels", "spatial_shape", "dtype", "value_range", "is_patch_data", "channel_def")
PRED = ("network_data_format", "outputs", "pred")


@pytest.mark.parametrize(
    "change",
    [
        *(without(key) for key in MANDATORY),
        *(without(*PRED, key) for key in FORMAT),
        without("network_data_format", "inputs"),
        with_value("three", *PRED, "num_channels"),
        with_value("float33", *PRED, "dtype"),
        with_value([0.0], *PRED, "value_range"),
        with_value({"background": "0"}, *PRED, "channel_def"),
        with_value("first", "version"),
        with_value("", "task"),
    ],
)
def test_metadata_that_do_not_follow_it_are_refused(bundle: BundleRunner, change: Any, tmp_path: Path) -> None:
    """Said of the schema, so that the metadata of one bundle stand for all."""
    content = metadata(bundle)
    change(content)
    (tmp_path / "metadata.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="Failed validating"):
        verify_metadata(meta_file=str(tmp_path / "metadata.json"), filepath=SCHEMA)


# ---------------------------------------------------------------------------- the versions


def test_versions_agree(any_bundle: BundleRunner) -> None:
    content = metadata(any_bundle)
    newest = max(content["changelog"], key=Version)
    assert content["version"] == newest == next(iter(content["changelog"]))
    assert content["required_packages_version"]["monai-amat"] == monai_amat.__version__
    pinned = dict(re.findall(r"^([\w-]+)==(\S+)", (any_bundle.root.parents[1] / "constraints.txt").read_text(), re.M))
    named = {"monai": "monai_version", "torch": "pytorch_version", "numpy": "numpy_version"}
    assert {package: content[key] for package, key in named.items()} == {package: pinned[package] for package in named}
    others = {name: version for name, version in content["required_packages_version"].items() if name != "monai-amat"}
    assert others == {name: pinned[name] for name in others}


# ----------------------------------------------------------------------------- the network

# What makes a network of fewer weights with the same form of output, a value that makes one of other channels, and how
# many these are.
NETWORKS: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "hippocampus": ({}, {"num_classes": 4}, 4),
    "heart": ({"base_features": 2}, {"num_classes": 3}, 3),
    "prostate": ({"base_features": 2}, {"num_classes": 4}, 4),
    "cephalometric": ({"width": 0.125}, {"landmarks": 20}, 60),
    "bccd": ({"size": "n"}, {"classes": ["RBC", "WBC"]}, 6),
}
# A forward of theirs takes seconds at full width, whose shapes test_segmentation_files.py compares with the paper's.
HEAVY = ("heart", "prostate")


def test_the_network_takes_and_gives_what_the_metadata_say(any_bundle: BundleRunner) -> None:
    lighter, wrong, channels = NETWORKS[any_bundle.name]
    meta, train, inference = (str(any_bundle.config(name)) for name in ("metadata", "train", "inference"))
    formats = metadata(any_bundle)["network_data_format"]
    image, pred = formats["inputs"]["image"], formats["outputs"]["pred"]
    as_written = lighter if any_bundle.name in HEAVY else {}
    verify_net_in_out("network_def", meta_file=meta, config_file=train, device="cpu", **as_written)
    verify_net_in_out("network_def", meta_file=meta, config_file=inference, device="cpu", **lighter)
    message = f"output channel number `{channels}` doesn't match: `{pred['num_channels']}`"
    with pytest.raises(ValueError, match=message):
        verify_net_in_out("network_def", meta_file=meta, config_file=train, device="cpu", **lighter, **wrong)
    network = any_bundle.full(**lighter).get_parsed_content("network_def").eval()
    with torch.no_grad():
        output = network(torch.zeros(2, image["num_channels"], *image["spatial_shape"]))
    assert list(output.shape) == [2, pred["num_channels"], *pred["spatial_shape"]]
    for tensor in (image, pred):
        assert list(tensor["channel_def"]) == [str(channel) for channel in range(tensor["num_channels"])]
    # These are logits, or boxes of any size beside scores: no range holds of all their channels.
    assert pred["value_range"] == []
