from __future__ import annotations

from collections import namedtuple
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data import MetaTensor
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

from monai_amat.engines.trees import batch_size, double, like, map_tensors, plain, select

Heads = namedtuple("Heads", ["full", "half"])


def tree_of(count: int, start: float = 0.0) -> dict[str, Any]:
    """Every kind of container; each row of each leaf holds its own number."""
    column = torch.arange(count, dtype=torch.float32) + start
    return {
        "boxes": column[:, None, None].expand(count, 2, 5).clone(),
        "heads": [column.clone(), (column[:, None].clone(), Heads(column + 100, column + 200))],
    }


def leaves_of(tree: Any) -> list[Tensor]:
    return tree_flatten(tree)[0]


def equal(first: Any, second: Any) -> bool:
    (a, structure), (b, other) = tree_flatten(first), tree_flatten(second)
    return structure == other and all(torch.equal(one, two) for one, two in zip(a, b, strict=True))


@given(count=st.integers(1, 5), data=st.data())
def test_doubling_selecting_and_counting_agree(count: int, data: st.DataObject) -> None:
    clean, noisy = tree_of(count), tree_of(count, start=50.0)
    both = double(clean, noisy)
    assert batch_size(both) == 2 * count
    assert equal(select(both, torch.arange(count)), clean)
    assert equal(select(both, torch.arange(count, 2 * count)), noisy)
    rows = torch.tensor(sorted(data.draw(st.sets(st.integers(0, 2 * count - 1)))), dtype=torch.int64)
    assert equal(select(both, rows), tree_map(lambda leaf: leaf[rows], both))


def test_doubling_goes_by_key_whatever_the_order_of_keys() -> None:
    doubled = double({"a": torch.zeros(1), "b": torch.ones(1)}, {"b": torch.ones(1), "a": torch.zeros(1)})
    assert doubled["a"].tolist() == [0, 0]
    assert doubled["b"].tolist() == [1, 1]


def test_doubling_refuses_trees_of_different_form() -> None:
    with pytest.raises(ValueError):
        double([torch.zeros(1)], [torch.zeros(1), torch.zeros(1)])


def test_selecting_the_whole_batch_copies_nothing() -> None:
    tree = tree_of(3)
    assert select(tree, torch.arange(3)) is tree


def test_selecting_from_nothing() -> None:
    assert select({}, torch.arange(2)) == {}
    assert select((), torch.arange(2)) == ()


def test_plain_strips_metadata_and_keeps_the_numbers() -> None:
    image = MetaTensor(torch.arange(3.0), meta={"name": "case"})
    stripped = plain({"image": [image], "label": torch.ones(3)})
    assert type(stripped["image"][0]) is torch.Tensor
    assert stripped["image"][0].data_ptr() == image.data_ptr()
    assert stripped["label"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("leaf", ["case_1", 3, None, 2.5])
def test_leaves_that_are_no_tensors_are_named(leaf: Any) -> None:
    for function in (plain, batch_size, lambda tree: map_tensors(lambda value: value, tree)):
        with pytest.raises(TypeError, match=f"got a leaf of type {type(leaf).__name__}.*prepare_batch"):
            function({"image": torch.zeros(1), "other": leaf})


@pytest.mark.parametrize("tree", [{"a": torch.zeros(2), "b": torch.zeros(3)}, [], [torch.tensor(1.0), torch.ones(2)]])
def test_a_batch_needs_one_size(tree: Any) -> None:
    with pytest.raises(ValueError, match="sample at dim 0"):
        batch_size(tree)


def test_like_takes_over_all_metadata() -> None:
    image = MetaTensor(torch.zeros(2, 1, 4, 4), affine=torch.eye(4).repeat(2, 1, 1), meta={"name": ["a", "b"]})
    image.is_batch = True
    image.applied_operations = [[{"class": "Flip"}], []]
    result = like(torch.ones(2, 3, 4, 4), image)
    assert isinstance(result, MetaTensor)
    assert result.shape == (2, 3, 4, 4)
    assert result.is_batch
    assert result.meta["name"] == ["a", "b"]
    assert result.applied_operations == image.applied_operations
    result.meta["name"] = "changed"
    assert image.meta["name"] == ["a", "b"]


def test_like_leaves_the_rest_alone() -> None:
    values = torch.ones(2)
    assert like(values, torch.zeros(2)) is values
    heads = [values]
    assert like(heads, MetaTensor(torch.zeros(2))) is heads
