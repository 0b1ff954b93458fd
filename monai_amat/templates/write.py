"""Bundles as files: the common templates, a task's over them, and the values of a data set filled in."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import monai_amat
from monai_amat.files import write_text_whole
from monai_amat.templates.check import LIES_ON
from monai_amat.templates.merge import ABOUT, fill, fill_text, merge, render
from monai_amat.templates.settings import SegmentationSettings
from monai_amat.templates.values import segmentation_values

__all__ = ["BUNDLES", "bundle_files", "segmentation_files", "write_bundle", "write_bundles"]

BUNDLES = ("hippocampus", "heart", "prostate", "cephalometric", "bccd")
"""The data sets of the paper, each with a bundle of its own."""


def write_bundles(folder: str | Path) -> list[Path]:
    """Write the five bundles of the paper, over older ones where there are any.

    Files that are in one of the bundles' folders and that no template makes stay.

    Args:
        folder: where the bundles' folders `<name>_amat` go.

    Returns:
        the five folders.
    """
    roots = [Path(folder).expanduser() / f"{name}_amat" for name in BUNDLES]
    for name, root in zip(BUNDLES, roots, strict=True):
        for file, text in bundle_files(name).items():
            write_text_whole(root / file, text)
    return roots


def bundle_files(name: str) -> dict[str, str]:
    """The text of every file of one of the paper's bundles, by its path in the bundle.

    Args:
        name: one of `BUNDLES`.

    Raises:
        ValueError: for another name.

    Example:
        >>> train = json.loads(bundle_files("heart")["configs/train.json"])
        >>> train["patch_size"], train["batch_size"]
        ([320, 256], 40)
    """
    if name not in BUNDLES:
        raise ValueError(f"got the bundle {name!r}, expected one of {', '.join(BUNDLES)}")
    text = (resources.files("monai_amat.templates") / "paper" / f"{name}.json").read_text(encoding="utf-8")
    content = json.loads(text)
    task = content.pop("template")
    if task == "segmentation":
        return segmentation_files(SegmentationSettings.parse(text, f"{name}.json"))
    return _files(task, content)


def segmentation_files(settings: SegmentationSettings) -> dict[str, str]:
    """The text of every file of a segmentation bundle, by its path in the bundle."""
    return _files("segmentation", segmentation_values(settings))


def write_bundle(settings: SegmentationSettings, folder: str | Path) -> Path:
    """Write a ready segmentation bundle.

    Args:
        settings: what it is for.
        folder: the bundle's folder, new or empty; where it holds this very bundle nothing happens.

    Returns:
        the folder.

    Raises:
        FileExistsError: when one of the files exists with other content; nothing is written then.

    Example:
        >>> import tempfile
        >>> from monai_amat.templates.settings import paper_settings
        >>> root = write_bundle(paper_settings("heart"), Path(tempfile.mkdtemp()) / "heart_amat")
        >>> json.loads((root / "configs" / "train.json").read_text())["patch_size"]
        [320, 256]
    """
    root = Path(folder).expanduser()
    files = segmentation_files(settings)
    for name, text in files.items():
        file = root / name
        if file.exists() and file.read_bytes() != text.encode("utf-8"):
            raise FileExistsError(
                f"{file} differs from what this version writes; choose another folder, or remove the bundle's folder"
            )
    for name, text in files.items():
        if not (root / name).exists():
            write_text_whole(root / name, text)
    return root


def _files(task: str, values: Mapping[str, Any]) -> dict[str, str]:
    templates = resources.files("monai_amat.templates")
    common, own = _read(templates / "common"), _read(templates / task)
    parts = _parts(own.pop("docs/parts.md"))
    configs = {
        name: merge(*(json.loads(texts.get(name, "{}")) for texts in (common, own)))
        for name in sorted(common.keys() | own.keys())
        if name.endswith(".json")
    }
    parts["files_table"] = _table(configs)
    _enter_files(configs)
    values = {**values, "package_version": monai_amat.__version__}
    found = {name: render(fill(config, values, f"{task}/{name}")) + "\n" for name, config in configs.items()}
    for name, text in {**common, **own}.items():
        if name not in configs:
            whole = fill_text(text, {**_each(values), **parts}, f"{task}/{name}")
            found[name] = re.sub(r"\n{3,}", "\n\n", fill_text(whole, values, f"{task}/{name}"))
    return dict(sorted(found.items()))


def _parts(text: str) -> dict[str, str]:
    """A task's parts of the common document, each below a line `<!-- name -->`."""
    _, *found = re.split(r"^<!-- (\w+) -->\n", text, flags=re.MULTILINE)
    return {name: part.removesuffix("\n") for name, part in zip(found[::2], found[1::2], strict=True)}


def _each(values: Mapping[str, Any]) -> dict[str, str]:
    """Placeholders that stand for themselves, for the first of two passes."""
    return {name: f"{{{{{name}}}}}" for name in values}


def _enter_files(configs: Mapping[str, dict[str, Any]]) -> None:
    """Let each file enter in the merged configuration what it lies on, so that a run can check it."""
    for file, config in configs.items():
        name = file.rpartition("/")[2].removesuffix(".json")
        if name == "train":
            config[LIES_ON] = {name: None}
        elif name not in ("inference", "metadata"):
            config[f"+{LIES_ON}"] = {name: config.get("overlay_of", "train")}


def _table(configs: Mapping[str, dict[str, Any]]) -> str:
    """A row per configuration file, from what it says of itself under `"//"`, which is taken out."""
    rows = []
    for file, config in sorted(configs.items(), key=lambda item: (not item[0].endswith("/train.json"), item[0])):
        about = config.pop(ABOUT, None)
        if about is not None:
            below = f"on top of `{config['overlay_of']}.json`; " if "overlay_of" in config else ""
            rows.append(f"| `{file.rpartition('/')[2]}` | {below}{about} |")
    return "\n".join(rows)


def _read(folder: Traversable, place: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for entry in folder.iterdir():
        if entry.is_dir():
            found |= _read(entry, f"{place}{entry.name}/")
        else:
            found[f"{place}{entry.name}"] = entry.read_text(encoding="utf-8")
    return found
