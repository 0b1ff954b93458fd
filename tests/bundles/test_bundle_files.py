"""The bundle as files: model-zoo form, the paper's defaults, overlays that change what they say, exports."""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import pydoc
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from packaging.version import Version

import monai_amat
from monai_amat.networks import load_weights, nnunet_2d

if TYPE_CHECKING:
    from tests.bundles.conftest import BundleRunner

SCHEMA = Path(__file__).with_name("meta_schema.json")

# Every combination that is documented to work, by what lies over train.json: in every bundle …
SHARED: list[tuple[str, ...]] = [
    (),
    ("sat",),
    ("amat",),
    ("amat", "amat_boundary"),
    ("amat", "amat_path"),
    ("amat", "amat_shuffled"),
    ("sat", "sat_uniform"),
    ("sat", "sat_ramp"),
    ("amat", "amat_running"),
    ("calibrate",),
    ("evaluate",),
    ("robustness",),
    ("robustness", "strength"),
    ("multi_gpu_train",),
    ("multi_gpu_train", "sat"),
    ("multi_gpu_train", "amat"),
    ("multi_gpu_train", "amat", "amat_boundary"),
    ("small",),
    ("amat", "small"),
]
# … and in one.
COMBINATIONS: list[tuple[str, tuple[str, ...]]] = [
    *((bundle, names) for bundle in ("bundle", "cephalometric") for names in SHARED),
    ("bundle", ("amat", "amat_relative")),
    ("bundle", ("amat", "amat_relative", "amat_balanced")),
    ("cephalometric", ("bce",)),
    ("cephalometric", ("amat", "amat_balanced")),
    ("cephalometric", ("sat", "separate_forwards")),
    ("cephalometric", ("amat", "own_statistics")),
    ("cephalometric", ("multi_gpu_train", "amat", "own_statistics")),
]


def combination(which: tuple[str, tuple[str, ...]]) -> str:
    return f"{which[0]}: {'+'.join(which[1])}"


pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:monai")


def metadata(bundle: BundleRunner) -> dict[str, Any]:
    return dict(json.loads(bundle.config("metadata").read_text(encoding="utf-8")))


# ---------------------------------------------------------------------- the model-zoo form


def test_all_files_of_a_model_zoo_bundle_are_there(any_bundle: BundleRunner) -> None:
    wanted = ("train", "evaluate", "inference", "multi_gpu_train", "metadata")
    files = [*(f"configs/{name}.json" for name in wanted), "configs/logging.conf", "docs/README.md", "LICENSE"]
    assert [file for file in files if not (any_bundle.root / file).is_file()] == []


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
    content = metadata(bundle)
    change(content)
    (tmp_path / "metadata.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="Failed validating"):
        verify_metadata(meta_file=str(tmp_path / "metadata.json"), filepath=SCHEMA)


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


@pytest.mark.parametrize(
    ("which", "wrong", "message", "lighter"),
    [
        ("bundle", {"num_classes": 4}, "output channel number `4` doesn't match", {}),
        ("cephalometric", {"landmarks": 20}, "output channel number `60` doesn't match", {"width": 0.125}),
    ],
)
def test_the_network_takes_and_gives_what_the_metadata_say(
    request: pytest.FixtureRequest, which: str, wrong: dict[str, Any], message: str, lighter: dict[str, Any]
) -> None:
    made: BundleRunner = request.getfixturevalue(which)
    meta, train, inference = (str(made.config(name)) for name in ("metadata", "train", "inference"))
    verify_net_in_out("network_def", meta_file=meta, config_file=train, device="cpu")
    verify_net_in_out("network_def", meta_file=meta, config_file=inference, device="cpu", **lighter)
    with pytest.raises(ValueError, match=message):
        verify_net_in_out("network_def", meta_file=meta, config_file=train, device="cpu", **lighter, **wrong)
    formats = metadata(made)["network_data_format"]
    image, pred = formats["inputs"]["image"], formats["outputs"]["pred"]
    parser = ConfigParser()
    parser.read_config(train)
    parser.update(lighter)
    with torch.no_grad():
        network = parser.get_parsed_content("network_def").eval()
        output = network(torch.zeros(2, image["num_channels"], *image["spatial_shape"]))
    assert list(output.shape) == [2, pred["num_channels"], *pred["spatial_shape"]]
    for tensor in (image, pred):
        assert list(tensor["channel_def"]) == [str(channel) for channel in range(tensor["num_channels"])]
    # These are logits: they may take any value.
    assert pred["value_range"] == []


@pytest.mark.parametrize(
    "which", [which for which in COMBINATIONS if "multi_gpu_train" not in which[1]], ids=combination
)
def test_training_configurations_have_the_properties_that_monai_asks_for(
    request: pytest.FixtureRequest, which: tuple[str, tuple[str, ...]], tmp_path: Path
) -> None:
    made: BundleRunner = request.getfixturevalue(which[0])
    trained: Path = request.getfixturevalue({"bundle": "std", "cephalometric": "cephalometric_std"}[which[0]])
    files = {"thresholds_file": str(trained / "thresholds.json"), "checkpoint": str(trained / "models" / "model.pt")}
    with made.workflow(*which[1], output_dir=str(tmp_path), **files) as workflow:
        assert workflow.check_properties() == []


@pytest.mark.parametrize(
    ("which", "trained", "images", "shape"),
    [
        ("bundle", "std", "imagesTr", {"patch_size": [32, 32], "base_features": 4}),
        (
            "cephalometric",
            "cephalometric_std",
            "RawImage/Test1Data",
            {"image_size": [50, 40], "width": 1 / 32, "spacing": 0.1},
        ),
    ],
    ids=["bundle", "cephalometric"],
)
def test_inference_has_the_properties_that_monai_asks_for(
    request: pytest.FixtureRequest, which: str, trained: str, images: str, shape: dict[str, Any], tmp_path: Path
) -> None:
    made: BundleRunner = request.getfixturevalue(which)
    weights: Path = request.getfixturevalue(trained)
    workflow = ConfigWorkflow(
        str(made.config("inference")),
        workflow_type="infer",
        logging_file=False,
        dataset_dir=str(made.dataset_dir / images),
        checkpoint=str(weights / "models" / "model.pt"),
        output_dir=str(tmp_path),
        **shape,
    )
    workflow.initialize()
    assert workflow.check_properties() == []


# ------------------------------------------------------------------------------- contents


def components(config: Any, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(config, dict):
        if "_target_" in config:
            yield place, config
        for key, value in config.items():
            yield from components(value, f"{place}#{key}")
    elif isinstance(config, list):
        for number, value in enumerate(config):
            yield from components(value, f"{place}#{number}")


def texts(config: Any) -> Iterator[str]:
    if isinstance(config, dict):
        for value in config.values():
            yield from texts(value)
    elif isinstance(config, list):
        for value in config:
            yield from texts(value)
    elif isinstance(config, str):
        yield config


@functools.cache
def parameters(target_name: str) -> tuple[set[str], set[str]]:
    """Names that a target can be given, through ``**kwargs`` to its bases too, and names it must be given."""
    target: Any = pydoc.locate(ConfigComponent({"_target_": target_name}).resolve_module_name())
    assert callable(target), f"there is no {target_name}"
    known: set[str] = set()
    needed: set[str] | None = None
    for part in inspect.getmro(target) if inspect.isclass(target) else (target,):
        if inspect.isclass(part) and "__init__" not in vars(part):
            continue
        own = inspect.signature(part.__init__ if inspect.isclass(part) else part).parameters.values()
        variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        named = [parameter for parameter in own if parameter.name != "self" and parameter.kind not in variable]
        known |= {parameter.name for parameter in named}
        if needed is None:
            needed = {parameter.name for parameter in named if parameter.default is inspect.Parameter.empty}
        if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in own):
            break
    return known, needed or set()


@pytest.mark.parametrize(
    "which", [*COMBINATIONS, ("bundle", ("inference",)), ("cephalometric", ("inference",))], ids=combination
)
def test_every_target_exists_and_takes_what_it_is_given(
    request: pytest.FixtureRequest, which: tuple[str, tuple[str, ...]]
) -> None:
    made: BundleRunner = request.getfixturevalue(which[0])
    names = which[1]
    alone = ConfigParser.load_config_file(made.config("inference"))
    found = list(components(alone if names == ("inference",) else made.merged(*names)))
    assert len(found) > 10
    for place, component in found:
        target = component["_target_"]
        known, needed = parameters(target)
        given = {key for key in component if not (key.startswith("_") and key.endswith("_"))}
        assert given <= known, f"{place}: {target} takes no {sorted(given - known)}"
        if component.get("_mode_") != "callable":
            assert needed <= given, f"{place}: {target} needs {sorted(needed - given)}"


@pytest.mark.parametrize(
    "name", ["train", "inference", "sat", "amat", "calibrate", "evaluate", "robustness", "strength"]
)
def test_every_name_in_an_expression_exists(any_bundle: BundleRunner, name: str) -> None:
    found = 0
    for text in texts(json.loads(any_bundle.config(name).read_text())):
        if not text.startswith("$"):
            continue
        for path in re.findall(r"\b(?:monai_amat|monai|torch)(?:\.[a-zA-Z_]\w*)+", text):
            found += 1
            first, *rest = path.split(".")
            value: Any = importlib.import_module(first)
            for part in rest:
                value = getattr(value, part) if hasattr(value, part) else importlib.import_module(f"{first}.{part}")
    assert found or name == "sat"


def test_defaults_are_the_papers(bundle: BundleRunner) -> None:
    """facts.md, section 4, and the numbers of the authors' code for the hippocampus."""
    train = bundle.merged("amat")
    assert (train["patch_size"], train["batch_size"], train["base_features"]) == ([56, 40], 366, 32)
    assert (train["max_epochs"], train["iterations_per_epoch"], train["num_classes"]) == (100, 50, 3)
    assert (train["delta"], train["max_margin"], train["attack_steps"]) == (2.5, 15.0, 20)
    assert (train["optimizer"]["_target_"], train["learning_rate"]) == ("torch.optim.SGD", 0.01)
    assert (train["optimizer"]["momentum"], train["optimizer"]["nesterov"]) == (0.99, True)
    assert (train["optimizer"]["weight_decay"], train["lr_scheduler"]["power"]) == (3e-5, 0.9)
    clipping = [part for part in train["train"]["handlers"] if "GradientClipHandler" in str(part)]
    assert clipping[0]["max_norm"] == 12.0
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


# ------------------------------------------------------------------------------- overlays

# What each overlay may change of train.json (a level deep where it changes a part), and what it may add.
OVERLAYS: dict[str, tuple[set[str], set[str]]] = {
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
            *("validate#slices", "validate#prepare_batch", "validate#handlers", "validate#evaluator"),
            *("initialize", "run"),
        },
        {"checkpoint", "section", "test_cases", "epsilon", "evaluation_steps", "evaluation_attack"},
    ),
    "robustness": (
        {"validate#slices", "run"},
        {
            *("checkpoint", "robustness_dir", "section", "test_cases", "test_slices", "noise_levels"),
            *("evaluation_steps", "evaluation_attack", "metric_label", "noise_label", "metric", "curve", "examples"),
            "further_figures",
        },
    ),
}

# The same over the overlay that they say they lie on.
VARIANTS: dict[str, tuple[set[str], set[str]]] = {
    "sat_uniform": (
        {"train#prepare_batch", "initialize", "resume_settings#arm"},
        {"overlay_of", "radius"},
    ),
    "sat_ramp": (
        {"train#prepare_batch", "initialize", "resume_settings#arm"},
        {"overlay_of", "radius"},
    ),
    "amat_relative": ({"acceptance", "resume_settings#tolerance"}, {"overlay_of", "tolerance"}),
    "amat_balanced": (
        {"margins", "rule", "tolerance", "resume_settings#start_margin"},
        {"overlay_of", "start_margin", "decay"},
    ),
    "amat_shuffled": ({"initialize", "resume_settings#shuffled"}, {"overlay_of", "shuffle"}),
    "amat_boundary": ({"attack", "rule"}, {"overlay_of"}),
    "amat_path": (
        {"thresholds", "acceptance", "rule", "resume_settings#thresholds"},
        {"overlay_of", "dice_threshold"},
    ),
    "amat_running": (
        {"thresholds", "margin_handler", "resume_objects#thresholds", "resume_settings#thresholds"},
        {"overlay_of", "warmup"},
    ),
}


# And over robustness.json.
MEASUREMENTS: dict[str, tuple[set[str], set[str]]] = {
    "strength": (
        {"validate#slices", "run"},
        {
            *("overlay_of", "strength_samples", "strength_noise_levels", "strength_steps", "huge_radius"),
            *("source_checkpoint", "source_network", "strength_loss", "probes", "strength"),
        },
    )
}


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_changes_what_it_is_for_and_nothing_else(bundle: BundleRunner, name: str) -> None:
    assert bundle.changed((), (name,)) == OVERLAYS[name]


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_changes_what_it_is_for_and_nothing_else(bundle: BundleRunner, name: str) -> None:
    below = json.loads(bundle.config(name).read_text())["overlay_of"]
    assert below == ("amat_relative" if name == "amat_balanced" else name.partition("_")[0])
    under = ("amat", below) if below == "amat_relative" else (below,)
    changed, added = bundle.changed(under, (*under, name))
    assert (changed - {"overlay_of"}, added | {"overlay_of"}) == VARIANTS[name]


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_a_measurement_changes_what_it_is_for_and_nothing_else(bundle: BundleRunner, name: str) -> None:
    assert bundle.changed(("robustness",), ("robustness", name)) == MEASUREMENTS[name]
    assert json.loads(bundle.config(name).read_text())["overlay_of"] == "robustness"


@pytest.mark.parametrize("name", ["sat", "amat"])
def test_an_arm_adds_to_what_is_initialised(any_bundle: BundleRunner, name: str) -> None:
    before = any_bundle.merged("multi_gpu_train")["initialize"]
    after = any_bundle.merged("multi_gpu_train", name)["initialize"]
    assert after[: len(before)] == before
    assert all("attach(@train#trainer)" in text for text in after[len(before) :])


def test_small_changes_size_only(bundle: BundleRunner) -> None:
    """Loss, network family, rule, thresholds and metric are those of full size."""
    for arm in (
        (),
        ("sat",),
        ("amat",),
        ("amat", "amat_boundary"),
        ("calibrate",),
        ("robustness",),
        ("robustness", "strength"),
    ):
        changed, added = bundle.changed(arm, (*arm, "small"))
        assert changed <= {
            *("amp", "base_features", "batch_size", "val_batch_size", "num_workers", "max_epochs", "val_interval"),
            *("iterations_per_epoch", "learning_rate", "optimizer", "train#random_transforms"),
            *("attack_steps", "evaluation_steps", "test_slices"),
        }
        assert added <= {"attack_steps", "evaluation_steps", "test_slices"}


def test_several_gpus_share_the_batch_and_only_the_first_reports(any_bundle: BundleRunner) -> None:
    changed, added = any_bundle.changed((), ("multi_gpu_train",))
    # An epoch of landmarks is a pass over all images, on however many GPUs.
    share = {"train#sampler"} if any_bundle.root.name == "hippocampus_amat" else set()
    assert changed - share == {
        *("device", "network", "initialize", "train#dataloader", "train#handlers"),
        *("validate#dataloader", "validate#sampler", "validate#handlers"),
    }
    assert share <= changed
    assert added == {"backend", "batch_size_per_gpu", "finalize"}
    single, several = any_bundle.merged(), any_bundle.merged("multi_gpu_train")
    reporters = {"StatsHandler", "TensorBoardStatsHandler", "ignite.handlers.ProgressBar"}
    for part in ("train", "validate"):
        handlers = several[part]["handlers"]
        silent = [handler["_target_"] for handler in handlers if "_disabled_" in handler]
        assert set(silent) == {handler["_target_"] for handler in handlers} & reporters
        plain = [{key: value for key, value in handler.items() if key != "_disabled_"} for handler in handlers]
        assert plain == single[part]["handlers"]


# -------------------------------------------------------------------------------- exports


def test_the_traced_export_is_the_network(bundle: BundleRunner, std: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.ts"
    settings: dict[str, Any] = {"patch_size": [32, 32], "base_features": 4}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is deprecated, and what bundles are made of
        ckpt_export(
            "network_def",
            filepath=str(file),
            ckpt_file=str(std / "models" / "model.pt"),
            meta_file=str(bundle.config("metadata")),
            config_file=[str(bundle.config("train")), str(bundle.config("inference"))],
            key_in_ckpt="model",
            use_trace=True,
            input_shape=[1, 1, 32, 32],
            **settings,
        )
        traced = torch.jit.load(str(file))
    trained = load_weights(
        nnunet_2d(in_channels=1, out_channels=3, patch_size=(32, 32), base_features=4), std / "models" / "model.pt"
    ).eval()
    image = torch.randn(3, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(traced(image), trained(image))
        assert traced(image).shape == (3, 3, 32, 32)
