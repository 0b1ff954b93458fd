"""Merging of templates, and the filling of their placeholders."""

from __future__ import annotations

import json
from typing import Any

import pytest

from monai_amat.templates.merge import fill, fill_text, merge, render


@pytest.mark.parametrize(
    ("common", "own", "expected"),
    [
        ({"a": {"b": 1, "c": 2}}, {"a": {"c": 3, "d": 4}}, {"a": {"b": 1, "c": 3, "d": 4}}),
        ({"a": {"_target_": "X", "b": 1}}, {"a": {"_target_": "Y", "c": 2}}, {"a": {"_target_": "Y", "c": 2}}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"a": "@x"}, {"a": {"_target_": "X"}}, {"a": {"_target_": "X"}}),
        ({"a": {"_target_": "X"}}, {"a": "@x"}, {"a": "@x"}),
        ({"a": 1}, {"a": None}, {"a": None}),
        ({"a": {"...": None}}, {}, {"a": {}}),
    ],
)
def test_a_tasks_part_lies_over_the_common_part(
    common: dict[str, Any], own: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert merge(common, own) == expected


def test_keys_that_the_task_alone_has_stand_at_their_place() -> None:
    merged = merge({"a": {"x": 1, "...": None, "z": 1}, "...": None, "run": 0}, {"b": 2, "a": {"y": 2}, "c": 3})
    assert list(merged) == ["a", "b", "c", "run"]
    assert list(merged["a"]) == ["x", "y", "z"]


def test_a_placeholder_without_a_value_is_named() -> None:
    with pytest.raises(ValueError, match=r"template a\.json has \{\{patchsize\}\}, which has no value; .*patch_size"):
        fill({"patch": "{{patchsize}}"}, {"patch_size": [1, 2]}, "a.json")


def test_a_value_keeps_its_type_where_it_stands_alone_and_its_braces_everywhere() -> None:
    values = {"names": ['left, "so to say"', "{{path}}"], "path": 'C:\\data "x"', "none": None}
    filled = fill(["{{names}}", {"a": "{{path}}/imagesTs", "b": "{{none}}"}, 1], values, "x.json")
    assert filled == [values["names"], {"a": 'C:\\data "x"/imagesTs', "b": None}, 1]
    assert fill_text("{{none}} {{names}}", values, "x.md") == f"None {values['names']}"


@pytest.mark.parametrize("value", [{}, [], {"a": []}, [{}], {"a": {"b": ["$" + "x" * 200, 1, "β\n"]}}, [[1], [2]]])
def test_what_is_rendered_reads_back(value: Any) -> None:
    assert json.loads(render(value)) == value
    assert json.loads(render(value, 8, 30)) == value
