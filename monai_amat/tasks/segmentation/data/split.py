"""The split of the paper into training, validation and test cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sklearn.model_selection import KFold

__all__ = ["Split", "split_cases"]


@dataclass(frozen=True)
class Split:
    """Case names of the three sections.

    Attributes:
        train: training cases.
        validation: first third of the held-out fold.
        test: the other cases of the held-out fold.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


def split_cases(names: Sequence[str], fold: int = 0, n_splits: int = 5, seed: int = 12345) -> Split:
    """Split case names as the paper does.

    This is the shuffled k-fold split of nnU-Net over the sorted names; the held-out fold is cut at `len // 3` into
    validation and test: 20 names give 16/1/3, 260 give 208/17/35 (Heart and Hippocampus in the paper).

    Args:
        names: case names, in any order.
        fold: number of the held-out fold, from 0 to `n_splits - 1`.
        n_splits: number of folds.
        seed: seed of the shuffling.

    Returns:
        The names of each section, sorted.

    Raises:
        ValueError: if names repeat, the fold does not exist, or a section would be empty.

    Example:
        >>> parts = split_cases([f"case_{i:02d}" for i in range(20)])
        >>> len(parts.train), len(parts.validation), len(parts.test)
        (16, 1, 3)
    """
    ordered = sorted(names)
    if len(set(ordered)) != len(ordered):
        raise ValueError(f"case names must be unique, got {len(ordered)} names of which {len(set(ordered))} differ")
    if n_splits < 2 or not 0 <= fold < n_splits:
        raise ValueError(f"fold must be in 0 ... n_splits - 1 with n_splits >= 2, got fold {fold} of {n_splits}")
    # At least three held-out cases, so that their first third is not empty; KFold makes the first folds larger.
    if len(ordered) // n_splits + (fold < len(ordered) % n_splits) < 3:
        advice = f"or at most n_splits={len(ordered) // 3}" if len(ordered) >= 6 else "or at least 6 and n_splits=2"
        raise ValueError(
            f"the held-out fold must hold at least 3 cases, one for validation and two for test, got {len(ordered)} "
            f"cases in {n_splits} folds; use at least {3 * n_splits} cases, {advice}"
        )
    train, held_out = list(KFold(n_splits, shuffle=True, random_state=seed).split(ordered))[fold]
    held = [ordered[i] for i in held_out]
    cut = len(held) // 3
    return Split(tuple(ordered[i] for i in train), tuple(held[:cut]), tuple(held[cut:]))
