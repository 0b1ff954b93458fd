"""Settings that a file was made with, compared with those of this run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["changes", "refuse_changed"]

_ABSENT = object()
_LONGEST = 200


def changes(there: Any, here: Any, name: str = "") -> Iterator[str]:
    """What differs, setting by setting, in words; mappings and lists of one length are compared part by part.

    Args:
        there: settings that were kept.
        here: settings of this run.
        name: what both are settings of.

    Example:
        >>> there = {"attack": {"steps": 20, "norm": "l2"}, "seed": 0}
        >>> list(changes(there, {"attack": {"steps": 100, "norm": "l2"}}))
        ['attack.steps: 20 there, 100 here', 'seed: 0 there, absent here']
    """
    for setting, kept, now in _differences(there, here, name):
        yield f"{setting}: {_short(kept)} there, {_short(now)} here"


def refuse_changed(
    file: str | Path, there: Any, here: Any, advice: str, *, name: str = "", error: type[Exception] = RuntimeError
) -> None:
    """Refuse a file that was made with other settings than this run has.

    Args:
        file: the file.
        there: settings that the file keeps.
        here: settings of this run.
        advice: what to do about it.
        name: what both are settings of.
        error: kind of error to raise.

    Raises:
        RuntimeError: when they differ, or the kind of error that is given.

    Example:
        >>> refuse_changed("a.pt", {"seed": 0, "steps": 20}, {"seed": 1, "steps": 20}, "use another save_dir")
        Traceback (most recent call last):
        ...
        RuntimeError: a.pt was made with seed 0, but this run has 1: use another save_dir
    """
    found = [
        (f"without {setting}" if kept is _ABSENT else f"with {setting} {_short(kept)}")
        + f", but this run has {'none' if now is _ABSENT else _short(now)}"
        for setting, kept, now in _differences(there, here, name)
    ]
    if found:
        raise error(f"{file} was made {'; '.join(found)}: {advice}")


def _differences(there: Any, here: Any, name: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for key in [*there, *(key for key in here if key not in there)]:
            below = f"{name}.{key}" if name else str(key)
            yield from _differences(there.get(key, _ABSENT), here.get(key, _ABSENT), below)
    elif isinstance(there, list | tuple) and isinstance(here, list | tuple) and len(there) == len(here):
        for i, (one, other) in enumerate(zip(there, here, strict=True)):
            yield from _differences(one, other, f"{name}[{i}]")
    elif there != here:
        yield name, there, here


def _short(value: Any) -> str:
    text = "absent" if value is _ABSENT else str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
