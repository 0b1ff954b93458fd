"""Lists and names in messages: a count and the first few names, and only characters that can be printed."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["printable", "some"]


def printable(name: str) -> str:
    r"""Replace bytes of a file name that are not UTF-8 by escapes, so that it can be printed and written.

    Example:
        >>> printable("a\udcff.png")
        'a\\xff.png'
    """
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def some(names: Iterable[object], most: int = 3, *, joint: str = ", ") -> str:
    """Join the first few names, and count the others, so that a message stays short.

    Args:
        names: what to list.
        most: largest number of names in the text.
        joint: what stands between two names.

    Example:
        >>> some(["a.png", "b.png"]), some(range(100))
        ('a.png, b.png', '0, 1, 2 and 97 more')
    """
    listed = [printable(str(name)) for name in names]
    shown = joint.join(listed[:most])
    return shown if len(listed) <= most else f"{shown} and {len(listed) - most} more"
