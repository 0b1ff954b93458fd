"""How a configuration is put together: a common and a task's file merged, values filled in, written as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["ABOUT", "HERE", "fill", "fill_text", "merge", "render"]

HERE = "..."
"""Key of a common file in whose place the task's further keys stand."""

ABOUT = "//"
"""Key under which a file says what it does, for the bundle's document; the written configuration does not have it."""

_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")
_WIDTH = 120


def merge(common: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Lay a task's part of a configuration over the common part.

    Objects are merged key by key, to any depth, unless they name different classes as `_target_`. Everything else of
    the task replaces what is common. Keys that only the task has stand where the common object has the key `"..."`, or
    at its end.

    Example:
        >>> merge({"seed": 0, "...": None, "run": ["a"]}, {"loss": {"k": 1}, "run": ["b"]})
        {'seed': 0, 'loss': {'k': 1}, 'run': ['b']}
    """
    found: dict[str, Any] = {}
    for key, value in common.items():
        if key == HERE:
            found |= {name: item for name, item in own.items() if name not in common}
        elif isinstance(value, Mapping) and _same_kind(value, own.get(key, {})):
            found[key] = merge(value, own.get(key, {}))
        else:
            found[key] = own.get(key, value)
    found |= {name: item for name, item in own.items() if name not in found}
    return {"_target_": found.pop("_target_"), **found} if "_target_" in found else found


def _same_kind(common: Mapping[str, Any], own: Any) -> bool:
    kind = common.get("_target_")
    return isinstance(own, Mapping) and (kind is None or own.get("_target_", kind) == kind)


def fill(value: Any, values: Mapping[str, Any], file: str) -> Any:
    """Replace each `{{name}}` in the strings of a configuration.

    A string that is nothing but `{{name}}` becomes the value itself, of whatever type; within a longer string the value
    becomes text.

    Args:
        value: the configuration, as JSON.
        values: what each name stands for.
        file: the template's path, for messages.

    Raises:
        ValueError: for a name that `values` does not have.

    Example:
        >>> fill({"size": "{{size}}", "text": "{{size}} pixels"}, {"size": [2, 3]}, "train.json")
        {'size': [2, 3], 'text': '[2, 3] pixels'}
    """
    if isinstance(value, Mapping):
        return {key: fill(item, values, file) for key, item in value.items()}
    if isinstance(value, list):
        return [fill(item, values, file) for item in value]
    if not isinstance(value, str):
        return value
    alone = _PLACEHOLDER.fullmatch(value)
    return _look_up(alone[1], values, file) if alone else fill_text(value, values, file)


def fill_text(text: str, values: Mapping[str, Any], file: str) -> str:
    """Replace each `{{name}}` in a text, in one pass: braces within a value stay."""
    return _PLACEHOLDER.sub(lambda match: str(_look_up(match[1], values, file)), text)


def _look_up(name: str, values: Mapping[str, Any], file: str) -> Any:
    if name not in values:
        raise ValueError(f"template {file} has {{{{{name}}}}}, which has no value; the names are {', '.join(values)}")
    return values[name]


def render(value: Any, indent: int = 0, used: int = 0) -> str:
    """JSON text: one entry per line in objects, lists of plain values on one line where they fit."""
    inner = " " * (indent + 4)
    if isinstance(value, Mapping) and value:
        lines = []
        for key, item in value.items():
            name = json.dumps(key, ensure_ascii=False)
            lines.append(f"{inner}{name}: {render(item, indent + 4, indent + len(name) + 6)}")
        return "{\n" + ",\n".join(lines) + "\n" + " " * indent + "}"
    line = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, list) or (used + len(line) < _WIDTH and not any(map(_is_long, value))):
        return line
    return (
        "[\n" + ",\n".join(inner + render(item, indent + 4, indent + 4) for item in value) + "\n" + " " * indent + "]"
    )


def _is_long(item: Any) -> bool:
    return isinstance(item, Mapping) or (isinstance(item, str) and item.startswith("$") and len(item) > 16)
