"""Several handlers as one."""

from __future__ import annotations

from typing import Any

import pytest

from monai_amat.handlers import GroupHandler


class Note:
    def __init__(self, name: str, notes: list[tuple[str, Any]]) -> None:
        self.name = name
        self.notes = notes

    def attach(self, engine: Any) -> None:
        self.notes.append((self.name, engine))


def test_handlers_are_attached_in_order_and_disabled_ones_are_left_out() -> None:
    notes: list[tuple[str, Any]] = []
    GroupHandler([Note("a", notes), None, Note("b", notes)]).attach("engine")
    assert notes == [("a", "engine"), ("b", "engine")]


def test_what_cannot_be_attached_is_named() -> None:
    with pytest.raises(TypeError, match="got a str among the handlers"):
        GroupHandler(["@guard"])  # type: ignore[list-item]
