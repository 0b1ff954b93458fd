"""What a bundle run checks before it starts: paths, setting names, types, and overlays that lie on nothing."""

from __future__ import annotations

import ast
import difflib
import itertools
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from monai.bundle import ConfigParser, ConfigWorkflow

__all__ = ["check_configuration", "check_run"]

_T = TypeVar("_T")

LIES_ON = "lies_on"
"""Id under which each configuration file of a run enters what it lies on."""

# Ids that MONAI adds to a configuration, or that a command line may give it.
_MONAI = {"_meta_", "_requirements_", "tracking_uri", "experiment_name", "run_name", "save_execute_config"}
_REFERENCE = re.compile(r"[@%](\w+)")
_PATHS = ("_dir", "_file", "_root", "checkpoint", "_weights")
_NO_HASH = (
    "MONAI replaces # by :: in every value, so a path with # cannot be used; rename the folder, or use a link without #"
)
_MAY_BE_ZERO = {"num_workers", "warmup", "warmup_epochs"}
_PAIRS = {"patch_size", "image_size", "eval_size", "poolings"}
_SIZES = {"epsilon", "delta", "max_margin", "start_margin", "huge_radius"}


def check_run() -> None:
    """Check the configuration of the `monai.bundle` run that calls this, before anything of it is built.

    The first entry of `initialize` in the configuration of a bundle. MONAI gives an expression no access to the
    configuration around it, so the workflow is looked up among the callers.

    Raises:
        ValueError: as `check_configuration` does.
    """
    workflow = _caller(ConfigWorkflow)
    parser = _caller(ConfigParser) if workflow is None else workflow.parser
    if parser is None:
        return
    folder = None if workflow is None else Path(workflow.config_root_path)
    _check_words(sys.argv)
    check_configuration(parser.get(), _files(folder))


def check_configuration(config: Mapping[str, Any], files: Mapping[str, Mapping[str, Any]] | None = None) -> None:
    """Check a merged configuration, with what the command line sets in it.

    Args:
        config: the configuration as MONAI holds it, nothing of it evaluated.
        files: the configuration files of the bundle by name, from which the known ids and the types of their values
            are read.

    Raises:
        ValueError: for an id that no file has and nothing refers to, a path that MONAI changes or cannot hold, a value
            of another type than the file's, a number out of range, or a file without those that it lies on.

    Example:
        >>> files = {"train": {"max_epochs": 10}}
        >>> check_configuration({"max_epochs": 3}, files)
        >>> check_configuration({"max_epochs": 10, "max_epoch": 3}, files)
        Traceback (most recent call last):
        ...
        ValueError: no configuration file has the id 'max_epoch', and nothing refers to it: the nearest is 'max_epochs'
    """
    known: dict[str, Any] = {}
    for file in (files or {}).values():
        known = {**file, **known}
    if known:
        _check_known(config, known)
    _check_files(config)
    for key, value in config.items():
        _check_path(key, value, config)
        _check_type(key, value, known.get(key))


def _check_known(config: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    referred = {name for text in _strings(config) for name in _REFERENCE.findall(text)}
    for key in config:
        if key in known or key in referred or key in _MONAI or key.startswith("_"):
            continue
        near = difflib.get_close_matches(key, known, 1, 0.0)
        raise ValueError(
            f"no configuration file has the id {key!r}, and nothing refers to it: the nearest is {near[0]!r}"
        )


def _check_files(config: Mapping[str, Any]) -> None:
    entered = config.get(LIES_ON)
    if not isinstance(entered, Mapping):
        return
    seen: set[str | None] = {None}
    for name, below in entered.items():
        if below not in seen:
            raise ValueError(
                f"{name}.json lies on {below}.json, which is not among the configuration files before it: give "
                f"{' '.join(str(part) for part in seen if part)} {below} {name} in this order"
            )
        seen.add(name)


def _check_words(words: Sequence[str]) -> None:
    """Paths on the command line of `monai.bundle`, which takes what follows a # for a comment."""
    for word, following in itertools.pairwise([*words, ""]):
        key, _, value = word.removeprefix("--").partition("=")
        value = value or following
        if word.startswith("--") and _is_path(key) and "#" in value:
            raise ValueError(f"{key} is {value!r}: {_NO_HASH}")


def _is_path(key: str) -> bool:
    return key.endswith(_PATHS) and not key.startswith(("config_", "meta_", "logging_", "args_"))


def _check_path(key: str, value: Any, config: Mapping[str, Any]) -> None:
    plain = isinstance(value, str) and not value.startswith(("$", "@", "%"))
    if plain and "::" in value:
        raise ValueError(f"{key} is {value!r}: {_NO_HASH}")
    if not _is_path(key):
        return
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError(f"{key} is the number {value}, expected a path: write ./{value}")
    if isinstance(value, str) and value.startswith("@") and value[1:].split("::")[0] not in config:
        raise ValueError(f"{key} is {value!r}, which MONAI reads as a reference to an id: write ./{value}")
    if isinstance(value, str) and value.startswith("$"):
        try:
            ast.parse(value[1:].replace("@", "").replace("::", "."))
        except SyntaxError as error:
            raise ValueError(
                f"{key} is {value!r}, which MONAI reads as a Python expression ({error.msg}): write ./{value} for a "
                "path"
            ) from error


def _check_type(key: str, value: Any, default: Any) -> None:
    if isinstance(value, str) and value.startswith(("$", "@", "%")):
        return
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(default, bool) or key in _SIZES:
        pass
    elif isinstance(default, int) and default > 0 and key not in _MAY_BE_ZERO:
        if not number or value != int(value) or value < 1:
            raise ValueError(f"{key} is {value!r}, expected a whole number of at least 1, such as {default}")
    elif isinstance(default, int | float) and not number:
        raise ValueError(f"{key} is {value!r}, expected a number such as {default}")
    elif isinstance(default, list) and default and not (value is None or isinstance(value, list | tuple)):
        raise ValueError(f"{key} is {value!r}, expected a list such as {default}")
    if key in _PAIRS and not (value is None or (isinstance(value, list | tuple) and len(value) == 2)):
        raise ValueError(f"{key} is {value!r}, expected two numbers (height, width)")
    if key in _SIZES and (not number or value < 0):
        raise ValueError(f"{key} is {value!r}, expected a number that is not negative")


def _strings(config: Any) -> Iterator[str]:
    if isinstance(config, Mapping):
        for item in config.values():
            yield from _strings(item)
    elif isinstance(config, list | tuple):
        for item in config:
            yield from _strings(item)
    elif isinstance(config, str):
        yield config


def _files(folder: Path | None) -> dict[str, dict[str, Any]]:
    """The configuration files of a folder that can be read; one with an error of its own is another's concern."""
    found: dict[str, dict[str, Any]] = {}
    for file in sorted([*folder.glob("*.json"), *folder.glob("*.y*ml")]) if folder is not None else []:
        if file.stem != "metadata":
            try:
                found[file.stem] = dict(ConfigParser.load_config_file(str(file)))
            except (OSError, ValueError, TypeError):
                continue
    return {name: found[name] for name in sorted(found, key=lambda name: (name != "train", name))}


def _caller(kind: type[_T]) -> _T | None:
    """The nearest object of a class whose method is being called."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        found = frame.f_locals.get("self")
        if isinstance(found, kind):
            return found
        frame = frame.f_back
    return None
