"""What differs between the settings that a file was made under and those of now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["changes"]

_ABSENT = "absent"
_LONGEST = 200


def changes(there: Any, here: Any, name: str = "") -> Iterator[str]:
    """What differs, setting by setting, in words; mappings and lists of one length are looked into.

    Args:
        there: settings that were kept.
        here: those of now.
        name: what both are of.

    Example:
        >>> there = {"attack": {"steps": 20, "norm": "l2"}, "seed": 0}
        >>> list(changes(there, {"attack": {"steps": 100, "norm": "l2"}}))
        ['attack.steps: 20 there, 100 here', 'seed: 0 there, absent here']
    """
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for key in [*there, *(key for key in here if key not in there)]:
            below = f"{name}.{key}" if name else str(key)
            yield from changes(there.get(key, _ABSENT), here.get(key, _ABSENT), below)
    elif isinstance(there, list | tuple) and isinstance(here, list | tuple) and len(there) == len(here):
        for i, (one, other) in enumerate(zip(there, here, strict=True)):
            yield from changes(one, other, f"{name}[{i}]")
    elif there != here:
        yield f"{name}: {_short(there)} there, {_short(here)} here"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
