"""BestMetric: the best validation so far of an evaluator and its savers, as a state that can be resumed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["BestMetric", "keep_apart"]

_NUMBERS = ("best_metric", "best_metric_epoch")


class BestMetric:
    """The best validation so far, for the `objects` of a `ResumeHandler`.

    MONAI's `CheckpointSaver` compares with what it has saved itself. Without this state the first validation after a
    resume counts as the best and its weights replace better ones.

    Args:
        evaluator: the `SupervisedEvaluator` of the validation.
        savers: its `CheckpointSaver` handlers; `None`, as of a disabled component, is left out.

    Example:
        >>> from types import SimpleNamespace
        >>> before = BestMetric(SimpleNamespace(state=SimpleNamespace(best_metric=0.8, best_metric_epoch=3)))
        >>> after = BestMetric(SimpleNamespace(state=SimpleNamespace(best_metric=-1, best_metric_epoch=-1)))
        >>> after.load_state_dict(before.state_dict())
        >>> after.evaluator.state.best_metric
        0.8
    """

    def __init__(self, evaluator: Any, savers: Sequence[Any] = ()) -> None:
        self.evaluator = evaluator
        self.savers = [saver for saver in savers if saver is not None]

    def state_dict(self) -> dict[str, Any]:
        """The best metric, its epoch, and which files the savers keep, as plain numbers and strings."""
        state = {name: _number(getattr(self.evaluator.state, name, None)) for name in _NUMBERS}
        return {**state, "saved": [_saved(saver) for saver in self.savers]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for name in _NUMBERS:
            if state[name] is not None:
                setattr(self.evaluator.state, name, state[name])
        for saver, saved in zip(self.savers, state["saved"], strict=True):
            if saved is not None and getattr(saver, "_key_metric_checkpoint", None) is not None:
                saver.load_state_dict({"_saved": [tuple(item) for item in saved]})


def keep_apart(savers: Sequence[Any], folders: Sequence[str | Path]) -> None:
    """Refuse savers that write into one of these folders.

    Args:
        savers: `CheckpointSaver` handlers; `None` is left out.
        folders: where networks lie that must stay as they are.

    Raises:
        ValueError: naming the folder.
    """
    kept = {Path(folder).resolve() for folder in folders}
    for saver in savers:
        if saver is not None and Path(saver.save_dir).resolve() in kept:
            raise ValueError(
                f"save_dir of a {type(saver).__name__} is {saver.save_dir}, where the bundle keeps its own network: "
                "this training would overwrite it; leave save_dir out, or give another folder"
            )


def _saved(saver: Any) -> list[tuple[Any, str]] | None:
    checkpoint = getattr(saver, "_key_metric_checkpoint", None)
    if checkpoint is None:
        return None
    return [(_number(priority), name) for priority, name in checkpoint.state_dict()["_saved"]]


def _number(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
