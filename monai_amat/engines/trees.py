"""Batches are trees: predictions and targets whose every leaf is a tensor with the sample at dim 0."""

from __future__ import annotations

from typing import Any

import torch
from monai.data import MetaTensor
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

__all__ = ["batch_size", "double", "like", "map_tensors", "plain", "select"]


def map_tensors(function: Any, tree: Any) -> Any:
    """Apply `function` to every leaf.

    Raises:
        TypeError: for a leaf that is not a tensor.
    """

    def checked(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            raise TypeError(
                f"batches are trees of tensors with the sample at dim 0, got a leaf of type {type(leaf).__name__}; "
                "give a prepare_batch that turns it into a tensor"
            )
        return function(leaf)

    return tree_map(checked, tree)


def plain(tree: Any) -> Any:
    """MetaTensors as ordinary tensors: the trainer's `compile` path and `torch.cat` would mangle their metadata.

    Tensors made in inference mode are copied, since autograd refuses them.
    """

    def ordinary(leaf: Tensor) -> Tensor:
        return leaf.as_subclass(torch.Tensor).clone() if leaf.is_inference() else leaf.as_subclass(torch.Tensor)

    return map_tensors(ordinary, tree)


def like(values: Any, image: Tensor) -> Any:
    """The values with the metadata of the image that they belong to, where it is a MetaTensor and they a tensor."""
    if not isinstance(image, MetaTensor) or not isinstance(values, Tensor):
        return values
    return MetaTensor(values).copy_meta_from(image)


def batch_size(tree: Any) -> int:
    """Number of samples, which every leaf must agree on.

    Raises:
        TypeError: for a leaf that is not a tensor.
        ValueError: when leaves disagree or there is none.
    """
    sizes: set[int] = set()
    map_tensors(lambda leaf: sizes.add(leaf.shape[0] if leaf.ndim else 0), tree)
    if len(sizes) != 1:
        raise ValueError(f"every tensor of a batch needs the sample at dim 0, but first sizes are {sorted(sizes)}")
    return int(sizes.pop())


def select(tree: Any, rows: Tensor) -> Any:
    """Rows of every leaf, which must be ascending; the tree itself where they are the whole batch."""
    leaves, structure = tree_flatten(tree)
    if not leaves or len(rows) == leaves[0].shape[0]:
        return tree
    return tree_unflatten([leaf[rows.to(leaf.device)] for leaf in leaves], structure)


def double(first: Any, second: Any) -> Any:
    """`[first ; second]`, leaf by leaf.

    Raises:
        ValueError: for trees of different form.

    Example:
        >>> double({"a": torch.zeros(1)}, {"a": torch.ones(1)})
        {'a': tensor([0., 1.])}
    """
    return tree_map(lambda a, b: torch.cat([a, b]), first, second)
