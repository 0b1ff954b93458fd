"""What an overlay reads of the configuration of a bundle made without this package."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

__all__ = [
    "changes_with_time",
    "check_path",
    "component",
    "components",
    "imports",
    "output_folder",
    "reference",
    "required",
    "resolved",
    "run_id",
]

_TIME = re.compile(r"datetime|strftime|\btime\b|\bnow\(|uuid")


def check_path(name: str, path: str | Path) -> None:
    """Refuse a path that MONAI's configurations change.

    Raises:
        ValueError: for a path with `#`, which MONAI replaces by `::` in every string.

    Example:
        >>> check_path("output_dir", "runs/study 3")
    """
    if "#" in str(path) or "::" in str(path):
        raise ValueError(
            f"{name} is {str(path)!r}: MONAI replaces # by :: in every value, so a path with # or :: cannot be used; "
            "rename the folder, or use a link without them"
        )


def components(content: Any, target: str, key: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """IDs and contents of the components of a configuration whose `_target_` ends with `target`."""
    if isinstance(content, dict) and str(content.get("_target_", "")).endswith(target):
        yield key, content
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for name, part in items:
        yield from components(part, target, f"{key}::{name}" if key else str(name))


def component(parser: ConfigParser, key: str, what: str) -> dict[str, Any]:
    """The part at an ID.

    Raises:
        ValueError: when there is none.
    """
    content = parser.get(key)
    if not isinstance(content, dict):
        raise ValueError(
            f"the configuration has no '{key}', where {what} is looked for; name its id, and give the configuration "
            "of the training"
        )
    return content


def required(part: dict[str, Any], key: str, of: str) -> Any:
    """The value of a key that a part must have.

    Raises:
        ValueError: when it is missing or null.
    """
    if part.get(key) is None:
        raise ValueError(f"'{of}' has no '{key}' in the configuration, so the overlay cannot wrap it")
    return part[key]


def reference(part: dict[str, Any], key: str, of: str) -> str:
    """The ID that a key refers to.

    Raises:
        ValueError: when its value is not a reference.
    """
    value = required(part, key, of)
    if not isinstance(value, str) or not value.startswith("@"):
        raise ValueError(
            f"'{of}::{key}' is {value!r}; the overlay needs a reference such as '@train::dataloader' there"
        )
    return value[1:].replace("#", "::")


def changes_with_time(parser: ConfigParser, key: str) -> bool:
    """Whether the value at an ID, or one that it refers to, is made of the time or of chance."""
    seen: set[str] = set()
    waiting = [key]
    while waiting:
        name = waiting.pop()
        if name in seen or name not in parser:
            continue
        seen.add(name)
        text = json.dumps(parser.get(name), default=str)
        if _TIME.search(text):
            return True
        waiting += [found.replace("#", "::") for found in re.findall(r"[@%]([\w#:]+)", text)]
    return False


def run_id(parser: ConfigParser, engine: str) -> str | None:
    """The ID that runs an engine, where that is not `run`, such as `training` in older bundles."""
    if "run" in parser:
        return None
    call = f"@{engine}.run(".replace("#", "::")
    for key, value in parser.get().items():
        if call in json.dumps(value, default=str).replace("#", "::"):
            return str(key)
    return None


def resolved(parser: ConfigParser, key: str) -> str:
    """The value at an ID as text: what an expression comes to, or the expression itself where that fails."""
    text = str(parser.get(key))
    if not text.startswith(("$", "@", "%")):
        return text
    try:
        return str(parser.get_parsed_content(key))
    except Exception:  # whatever a bundle's own expressions raise without the rest of its run
        return text


def output_folder(parser: ConfigParser, name: str) -> str:
    """Where something of the overlay's own goes: in the bundle's folder of outputs, where it has one."""
    return f"$@output_dir + '/{name}'" if "output_dir" in parser else name


def imports(parser: ConfigParser) -> dict[str, Any]:
    """The entry by which an overlay imports this package."""
    key = "+imports" if "imports" in parser else "imports"
    return {key: ["$import monai_amat", "$import monai_amat.bundle_run"]}
