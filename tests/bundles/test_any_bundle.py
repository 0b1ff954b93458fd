"""What holds of any bundle as files: the model-zoo form, and configurations in which everything named is there.

metadata.json is test_any_metadata.py's, what overlays change test_any_overlays.py's.
"""

from __future__ import annotations

import ast
import functools
import inspect
import json
import pydoc
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from monai.bundle import ConfigComponent, ConfigParser, ckpt_export

from monai_amat.engines import save_weights

if TYPE_CHECKING:
    from tests.bundles.conftest import BundleRunner

# Written from one template, in values apart (test_segmentation_files.py).
SEGMENTATION = ("hippocampus", "heart", "prostate")
BUNDLES = (*SEGMENTATION, "cephalometric", "bccd")

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
# … and in some.
COMBINATIONS: list[tuple[str, tuple[str, ...]]] = [
    *((bundle, names) for bundle in BUNDLES for names in SHARED),
    *((bundle, ("amat", "amat_relative")) for bundle in SEGMENTATION),
    *((bundle, ("amat", "amat_relative", "amat_balanced")) for bundle in SEGMENTATION),
    ("cephalometric", ("bce",)),
    ("cephalometric", ("amat", "amat_balanced")),
    ("cephalometric", ("sat", "separate_forwards")),
    ("cephalometric", ("amat", "own_statistics")),
    ("cephalometric", ("multi_gpu_train", "amat", "own_statistics")),
]
# One of the template's bundles is enough for most: the others have its configurations with other values.
FEW = [("amat",), ("evaluate",), ("robustness", "strength")]


def in_words(value: str | tuple[str, ...]) -> str:
    return value if isinstance(value, str) else "+".join(value) or "train"


pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:monai")


# ---------------------------------------------------------------------- the model-zoo form


def test_all_files_of_a_model_zoo_bundle_are_there(any_bundle: BundleRunner) -> None:
    wanted = ("train", "evaluate", "inference", "multi_gpu_train", "metadata")
    files = [*(f"configs/{name}.json" for name in wanted), "configs/logging.conf", "docs/README.md", "LICENSE"]
    assert [file for file in files if not (any_bundle.root / file).is_file()] == []
    licence = (any_bundle.root.parents[1] / "LICENSE").read_text(encoding="utf-8")
    assert (any_bundle.root / "LICENSE").read_text(encoding="utf-8") == licence


def test_the_documents_name_every_configuration(any_bundle: BundleRunner) -> None:
    text = (any_bundle.root / "docs" / "README.md").read_text(encoding="utf-8")
    names = {path.name for path in (any_bundle.root / "configs").glob("*.json")} - {"metadata.json"}
    assert [name for name in sorted(names) if f"`{name}`" not in text] == []


def test_the_documented_exports_take_a_network_of_small_json_as_well(any_bundle: BundleRunner, tmp_path: Path) -> None:
    """TorchScript by the command of the document, `torch.export` by its lines of Python."""
    text = (any_bundle.root / "docs" / "README.md").read_text(encoding="utf-8")
    found = re.search(r"^python -m monai\.bundle ckpt_export ((?:.*\\\n)*.*)$", text, re.MULTILINE)
    assert found is not None
    words = found[1].replace("\\\n", " ").split()
    values: dict[str, Any] = dict(zip((word[2:] for word in words[::2]), words[1::2], strict=True))
    values |= {"config_file": [str(any_bundle.config(name)) for name in ("train", "small")]}
    values |= {"ckpt_file": str(tmp_path / "model.pt"), "filepath": str(tmp_path / "model.ts")}
    network = any_bundle.full("small").get_parsed_content("network_def").eval()
    save_weights(network, tmp_path / "model.pt")
    image = torch.rand(1, any_bundle.full().get("in_channels", 3), 128, 128)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and what bundles are made of
        expected = network(image)
        ckpt_export(**{**values, "bundle_root": str(any_bundle.root), "use_trace": True})
        exported = torch.jit.load(tmp_path / "model.ts").eval()
        torch.testing.assert_close(exported(image), expected, rtol=1e-4, atol=1e-3)

        code = re.search(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        if any_bundle.name == "bccd":
            assert code is None
            return
        assert code is not None
        shape = re.search(r"torch\.zeros\((\(.*?\))\)", code[1])
        assert shape is not None
        assert ast.literal_eval(shape[1])[1] == image.shape[1]
        lines = code[1].replace(shape[1], str(tuple(image.shape)))
        for name, path in (
            ("configs/train.json", values["config_file"]),
            ("runs/amat/models/model.pt", values["ckpt_file"]),
        ):
            assert f'"{name}"' in lines
            lines = lines.replace(f'"{name}"', repr(path))
        exec(lines.replace('"model.pt2"', repr(str(tmp_path / "model.pt2"))), {})
        program = torch.export.load(tmp_path / "model.pt2").module()
        torch.testing.assert_close(program(image), expected, rtol=1e-4, atol=1e-3)


# ------------------------------------------------------------------------ MONAI's properties


@pytest.fixture(scope="module")
def made() -> dict[str, dict[str, str]]:
    """What `untrained` made, by bundle: each is asked for many times."""
    return {}


@pytest.fixture
def untrained(
    any_bundle: BundleRunner, made: dict[str, dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """Checkpoint and thresholds, as values."""
    if any_bundle.name not in made:
        made[any_bundle.name] = any_bundle.untrained(tmp_path_factory.mktemp("untrained"))
    return made[any_bundle.name]


@pytest.mark.parametrize(
    ("any_bundle", "names"),
    [
        (bundle, names)
        for bundle, names in COMBINATIONS
        if "multi_gpu_train" not in names and (bundle not in ("heart", "prostate") or names in FEW)
    ],
    indirect=["any_bundle"],
    ids=in_words,
)
def test_training_configurations_have_the_properties_that_monai_asks_for(
    any_bundle: BundleRunner, names: tuple[str, ...], untrained: dict[str, str], tmp_path: Path
) -> None:
    values: dict[str, Any] = {**untrained, "output_dir": str(tmp_path), "num_workers": 0}
    with any_bundle.workflow_of("train", *names, **values) as workflow:
        assert workflow.check_properties() == []


# Where a data set of each has its images, and what else these need.
IMAGES: dict[str, tuple[str, dict[str, Any]]] = {
    **dict.fromkeys(SEGMENTATION, ("imagesTr", {})),
    "cephalometric": ("RawImage/Test1Data", {"spacing": 0.1}),
    "bccd": ("JPEGImages", {}),
}


def test_inference_has_the_properties_that_monai_asks_for(
    any_bundle: BundleRunner, untrained: dict[str, str], tmp_path: Path
) -> None:
    folder, values = IMAGES[any_bundle.name]
    values = {**values, **untrained, "dataset_dir": str(any_bundle.dataset_dir / folder), "output_dir": str(tmp_path)}
    with any_bundle.workflow_of("inference", kind="infer", **values) as workflow:
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
    """Names that a target can be given, through `**kwargs` to its bases too, and names it must be given."""
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
    ("any_bundle", "names"),
    [*COMBINATIONS, *((bundle, ("inference",)) for bundle in BUNDLES)],
    indirect=["any_bundle"],
    ids=in_words,
)
def test_every_target_exists_and_takes_what_it_is_given(any_bundle: BundleRunner, names: tuple[str, ...]) -> None:
    alone = ConfigParser.load_config_file(any_bundle.config("inference"))
    found = list(components(alone if names == ("inference",) else any_bundle.merged(*names)))
    assert len(found) > 10
    for place, component in found:
        target = component["_target_"]
        known, needed = parameters(target)
        given = {key for key in component if not (key.startswith("_") and key.endswith("_"))}
        assert given <= known, f"{place}: {target} takes no {sorted(given - known)}"
        if component.get("_mode_") != "callable":
            assert needed <= given, f"{place}: {target} needs {sorted(needed - given)}"


def test_every_name_in_an_expression_exists(any_bundle: BundleRunner) -> None:
    speaking = set()
    for file in sorted((any_bundle.root / "configs").glob("*.json")):
        for text in texts(json.loads(file.read_text(encoding="utf-8"))):
            if not text.startswith("$"):
                continue
            for name in re.findall(r"\b(?:monai_amat|monai|torch)(?:\.[a-zA-Z_]\w*)+", text):
                speaking.add(file.stem)
                assert pydoc.locate(name) is not None, f"{file.name}: there is no {name} in {text}"
    assert speaking >= {"train", "inference", "amat", "calibrate", "evaluate", "robustness", "strength"}
