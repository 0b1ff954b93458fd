"""The bundle of blood cells as files: model-zoo form, the paper's defaults, overlays that fit, exports."""

from __future__ import annotations

import copy
import functools
import inspect
import json
import math
import pydoc
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import monai.apps.utils
import pytest
import torch
from monai.bundle import (
    ConfigComponent,
    ConfigParser,
    ConfigWorkflow,
    ckpt_export,
    verify_metadata,
    verify_net_in_out,
)

import monai_amat
from monai_amat.data import write_cells_phantom
from monai_amat.networks import YOLOv5, save_weights

ROOT = Path(__file__).resolve().parents[2] / "bundles" / "bccd_amat"
BESIDE = ROOT.with_name("hippocampus_amat")
SCHEMA = Path(__file__).with_name("meta_schema.json")
COMBINATIONS: list[tuple[str, ...]] = [
    (),
    ("sat",),
    ("amat",),
    ("amat", "amat_boundary"),
    ("amat", "amat_path"),
    ("amat", "amat_running"),
    ("amat", "amat_shuffled"),
    ("sat", "sat_uniform"),
    ("sat", "sat_ramp"),
    ("calibrate",),
    ("evaluate",),
    ("robustness",),
    ("robustness", "strength"),
    ("multi_gpu_train", "amat"),
    ("amat", "small"),
]

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:monai")


def config(name: str) -> Path:
    return ROOT / "configs" / f"{name}.json"


def merged(*names: str) -> dict[str, Any]:
    return dict(copy.deepcopy(ConfigParser.load_config_files([str(config(name)) for name in ("train", *names)])))


def parser(*names: str, **changes: Any) -> ConfigParser:
    found = ConfigParser(merged(*names))
    found.update(changes)
    return found


def test_there_are_the_same_files_as_in_the_first_bundle() -> None:
    def files(root: Path) -> set[str]:
        return {path.relative_to(root).as_posix() for path in root.rglob("*.*") if path.is_file()}

    # Both stand on a relative acceptance, which was found wanting there.
    assert files(BESIDE) - files(ROOT) == {"configs/amat_relative.json", "configs/amat_balanced.json"}
    assert files(ROOT) <= files(BESIDE)
    assert (ROOT / "LICENSE").read_text() == (BESIDE / "LICENSE").read_text()


def test_metadata_follow_the_specification_without_a_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError(f"a download was tried: {args}")

    monkeypatch.setattr(monai.apps.utils, "_download_with_progress", refuse)
    verify_metadata(meta_file=str(config("metadata")), filepath=SCHEMA)


def test_versions_are_those_that_are_tested() -> None:
    content = json.loads(config("metadata").read_text())
    pinned = dict(re.findall(r"^([\w-]+)==(\S+)", (ROOT.parents[1] / "constraints.txt").read_text(), re.MULTILINE))
    pinned["monai-amat"] = monai_amat.__version__
    named = {"monai": "monai_version", "torch": "pytorch_version", "numpy": "numpy_version"}
    assert {package: content[key] for package, key in named.items()} == {package: pinned[package] for package in named}
    needed = content["required_packages_version"]
    assert needed == {package: pinned[package] for package in needed}
    assert "ultralytics" in needed


def test_the_network_takes_and_gives_what_the_metadata_say() -> None:
    meta = str(config("metadata"))
    for name in ("train", "inference"):
        verify_net_in_out("network_def", meta_file=meta, config_file=str(config(name)), device="cpu", size="n")
    with pytest.raises(ValueError, match="output channel number `6` doesn't match: `7`"):
        verify_net_in_out(
            "network_def",
            meta_file=meta,
            config_file=str(config("train")),
            device="cpu",
            size="n",
            classes=["RBC", "WBC"],
        )
    formats = json.loads(config("metadata").read_text())["network_data_format"]
    image, pred = formats["inputs"]["image"], formats["outputs"]["pred"]
    with torch.no_grad():
        output = YOLOv5(3, "n").eval()(torch.zeros(1, 3, *image["spatial_shape"]))
    assert list(output.shape) == [1, pred["num_channels"], *pred["spatial_shape"]]
    assert list(pred["channel_def"].values())[4:] == merged()["classes"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Data, weights and thresholds, for configurations that ask for them."""
    folder = tmp_path_factory.mktemp("made")
    save_weights(YOLOv5(3, "n"), folder / "model.pt")
    terms = dict.fromkeys(("box", "cls", "dfl"), 1.0)
    (folder / "thresholds.json").write_text(json.dumps({"format": 1, "thresholds": terms, "provenance": {}}))
    return {
        "dataset_dir": str(write_cells_phantom(folder / "cells", images=6, size=(48, 64))),
        "checkpoint": str(folder / "model.pt"),
        "thresholds_file": str(folder / "thresholds.json"),
        "size": "n",
        "image_size": [64, 64],
        "num_workers": 0,
    }


@pytest.mark.parametrize("names", [names for names in COMBINATIONS if "multi_gpu_train" not in names], ids="+".join)
def test_configurations_have_the_properties_that_monai_asks_for(
    names: tuple[str, ...], made: dict[str, Any], tmp_path: Path
) -> None:
    files = [str(config(name)) for name in ("train", *names)]
    workflow = ConfigWorkflow(files, logging_file=False, bundle_root=str(ROOT), output_dir=str(tmp_path), **made)
    workflow.initialize()
    assert workflow.check_properties() == []


def components(content: Any, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(content, dict):
        if "_target_" in content:
            yield place, content
        for key, value in content.items():
            yield from components(value, f"{place}#{key}")
    elif isinstance(content, list):
        for number, value in enumerate(content):
            yield from components(value, f"{place}#{number}")


@functools.cache
def accepted(target_name: str) -> set[str] | None:
    """Names that a target can be given; None where it takes any."""
    target: Any = pydoc.locate(ConfigComponent({"_target_": target_name}).resolve_module_name())
    assert callable(target), f"there is no {target_name}"
    found = inspect.signature(target).parameters.values()
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in found):
        return None
    return {parameter.name for parameter in found}


@pytest.mark.parametrize("names", [*COMBINATIONS, ("inference",)], ids="+".join)
def test_every_target_exists_and_takes_what_it_is_given(names: tuple[str, ...]) -> None:
    alone = names == ("inference",)
    found = list(components(json.loads(config("inference").read_text()) if alone else merged(*names)))
    assert len(found) > 10
    for place, component in found:
        known = accepted(component["_target_"])
        given = {key for key in component if not (key.startswith("_") and key.endswith("_"))}
        assert known is None or given <= known, f"{place}: {component['_target_']} takes no {given - known}"


def test_defaults_are_the_papers() -> None:
    """facts.md, sections 3 and 4, and the numbers of the authors' code for blood cells."""
    train = parser("amat")
    assert (train["size"], train["image_size"], train["batch_size"], train["max_epochs"]) == ("s", [320, 320], 32, 300)
    values = [train.get_parsed_content(name) for name in ("delta", "max_margin", "noise_scale")]
    assert values == [2.5, 15.0, 1.0]
    attack = train.get_parsed_content("attack")
    assert (attack.steps, attack.rel_step, attack.clip_range) == (20, 5 / 20, (0.0, 1.0))
    assert parser("sat").get_parsed_content("epsilon") == 5.0
    assert parser("calibrate").get_parsed_content("statistic").k == 2.0
    robustness = parser("robustness")
    assert robustness.get_parsed_content("noise_levels") == [0, 5, 10, 15]
    attack = robustness.get_parsed_content("evaluation_attack")
    assert (attack.steps, attack.rel_step, attack.clip_range) == (100, pytest.approx(5 / 100), (0.0, 1.0))
    assert train["optimizer"]["momentum"] == 0.937
    # Of a mean over the batch what YOLOv5 has of a sum over it.
    assert train.get_parsed_content("learning_rate") == pytest.approx(0.01 * 32)
    assert train.get_parsed_content("optimizer#weight_decay") * 32 == pytest.approx(5e-4)


def test_noise_follows_the_root_of_the_number_of_pixels() -> None:
    small = {"image_size": [160, 160]}
    assert parser("robustness", **small).get_parsed_content("noise_levels") == [0, 2.5, 5, 7.5]
    assert parser("sat", **small).get_parsed_content("epsilon") == 2.5
    amat = parser("amat", **small)
    assert [amat.get_parsed_content(name) for name in ("delta", "max_margin")] == [1.25, 7.5]
    strength = parser("robustness", "strength", **small)
    assert strength.get_parsed_content("strength_noise_levels") == [2.5]
    label = parser("robustness", **small).get_parsed_content("noise_label")
    assert label == "noise level ε (L2 over the 160×160 image, 0…1); 320×320: ε × 2"


def test_the_rate_warms_up_and_falls_to_a_tenth() -> None:
    train = parser(size="n", image_size=[64, 64], max_epochs=10)
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


def test_every_attack_is_on_the_loss_that_is_trained_and_stays_in_range() -> None:
    for names in (("sat",), ("amat",), ("amat", "amat_boundary"), ("evaluate",), ("robustness",)):
        content = merged(*names)
        attack = content.get("evaluation_attack") or content["attack"]
        assert attack["clip_range"] == [0.0, 1.0]
    curve, strength = merged("robustness")["curve"], merged("robustness", "strength")["strength"]
    shared = ("network", "data_loader", "loss", "metric", "settings", "inferer", "extra_keys")
    assert {key: strength[key] for key in shared} == {key: curve[key] for key in shared}


def test_small_changes_size_only() -> None:
    for names in ((), ("sat",), ("amat",), ("calibrate",), ("robustness",), ("robustness", "strength")):
        before, after = merged(*names), merged(*names, "small")
        changed = {key for key in after if before.get(key) != after[key]}
        assert changed <= {
            *("amp", "size", "image_size", "batch_size", "val_batch_size", "num_workers", "max_epochs"),
            *("warmup_epochs", "attack_steps", "learning_rate", "optimizer"),
        }


def test_several_gpus_share_the_batch_and_only_the_first_reports() -> None:
    single, several = merged(), merged("multi_gpu_train")
    reporters = {"StatsHandler", "TensorBoardStatsHandler", "ignite.handlers.ProgressBar"}
    for part in ("train", "validate"):
        handlers = several[part]["handlers"]
        assert {handler["_target_"] for handler in handlers if "_disabled_" in handler} == (
            {handler["_target_"] for handler in handlers} & reporters
        )
        plain = [{key: value for key, value in handler.items() if key != "_disabled_"} for handler in handlers]
        assert plain == single[part]["handlers"]


def test_the_traced_export_is_the_network(made: dict[str, Any], tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is deprecated, and what bundles are made of
        ckpt_export(
            "network_def",
            filepath=str(tmp_path / "model.ts"),
            ckpt_file=made["checkpoint"],
            meta_file=str(config("metadata")),
            config_file=[str(config("train")), str(config("inference"))],
            key_in_ckpt="model",
            use_trace=True,
            input_shape=[1, 3, 64, 64],
            size="n",
        )
        traced = torch.jit.load(str(tmp_path / "model.ts")).eval()
    network = YOLOv5(3, "n").eval()
    network.load_state_dict(torch.load(made["checkpoint"], weights_only=True)["model"])
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(traced(image), network(image), rtol=1e-4, atol=1e-3)


def test_the_documents_say_what_the_licence_of_ultralytics_means_and_name_every_file() -> None:
    text = (ROOT / "docs" / "README.md").read_text()
    assert "AGPL-3.0" in text
    for path in (ROOT / "configs").glob("*.json"):
        assert f"`{path.name}`" in text or path.stem == "metadata"
    assert math.isclose(ConfigParser(merged("amat")).get_parsed_content("delta"), 2.5)
