"""Weights in the `.pt` files of ultralytics: read without running code, refused by name where they do not fit."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from monai_amat.tasks.detection.network.quiet_import import from_ultralytics, quietly

__all__ = ["load_ultralytics_weights"]


def load_ultralytics_weights(
    model: nn.Module, path: str | Path, *, trust: bool = False, transfer: bool = False
) -> dict[str, Any]:
    """Load the weights of a checkpoint of ultralytics (its averaged ones, where it has such) into a model.

    Args:
        model: an ultralytics `DetectionModel`.
        path: a `.pt` file.
        trust: run the code in the file; see `YOLOv5`.
        transfer: take a file of other classes, and leave the layers that make classes as they are.

    Returns:
        what the file says that the network was trained with: `image_size` and `classes`, each where it does.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file is refused, damaged, or of another architecture or number of classes.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no ultralytics weights at {path}; give the path of a .pt file that ultralytics wrote")
    source, trained_with = _source(path, trust)
    here, there = _classes(model), _classes(source)
    state, own = source.float().state_dict(), model.state_dict()
    of_classes = f"model.{len(_layers(model)) - 1}.cv3."  # the branch whose width depends on their number
    if here != there and not transfer:
        raise ValueError(
            f"{path} is of {there} classes, the network has {here}: build it with classes={there}, or give "
            "YOLOv5 transfer=True to start from these weights with new class layers"
        )
    wrong = [
        *(f"{name} is missing" for name in own.keys() - state.keys()),
        *(f"{name} is not part of the network" for name in state.keys() - own.keys()),
        *(
            f"{name} is {tuple(state[name].shape)}, the network has {tuple(own[name].shape)}"
            for name in own.keys() & state.keys()
            if state[name].shape != own[name].shape and not (here != there and name.startswith(of_classes))
        ),
    ]
    if wrong:
        raise ValueError(
            f"{path} is of another architecture ({len(wrong)} differences; {'; '.join(sorted(wrong)[:3])}): give the "
            "size (n, s, m, l or x) that it was trained with; it must be a YOLOv5 of ultralytics that is not fused"
        )
    kept = {name: value for name, value in own.items() if here != there and name.startswith(of_classes)}
    model.load_state_dict({**state, **kept})
    return trained_with


def _source(path: Path, trust: bool) -> tuple[Any, dict[str, Any]]:
    """The network in a file, and what the file says that it was trained with."""
    if path.suffix != ".pt":
        raise ValueError(f"{path} is no .pt file of ultralytics; weights of MONAI go through load_weights")
    if not trust and not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is damaged, or no checkpoint of PyTorch 1.6 or later")
    load = from_ultralytics("torch_safe_load")  # not below: what imports allow is to stay allowed
    try:
        with quietly(), _allowed_globals_as_they_were():
            content, _ = load(str(path), safe_only=not trust)
    except OSError:
        raise
    except Exception as error:  # a file can fail in any way
        advice = (
            ""
            if trust
            else "; if you know who made the file, and only then, YOLOv5(trust=True) loads it by running the code in it"
        )
        raise ValueError(
            f"{path} is refused by the {'' if trust else 'safe '}loader of ultralytics: {_reason(error)}{advice}"
        ) from error
    found = (content.get("ema") or content.get("model")) if isinstance(content, Mapping) else content
    if isinstance(found, Mapping) and found and all(isinstance(value, Tensor) for value in found.values()):
        raise ValueError(f"{path} holds a bare state dict: load it with monai_amat.engines.load_weights")
    if not isinstance(found, nn.Module) or not isinstance(_layers(found)[-1], from_ultralytics("Detect")):
        raise ValueError(f"{path} holds no detection network of ultralytics, but a {type(found).__name__}")
    return found, _trained_with(found, content.get("train_args") if isinstance(content, Mapping) else None)


def _trained_with(network: Any, arguments: Any) -> dict[str, Any]:
    size = arguments.get("imgsz") if isinstance(arguments, Mapping) else None
    names = getattr(network, "names", None)
    classes = [str(names[i]) for i in sorted(names)] if isinstance(names, Mapping) else []
    said: dict[str, Any] = {}
    if size is not None:
        said["image_size"] = [size, size] if isinstance(size, int) else list(size)
    if classes != [str(i) for i in range(len(classes))]:  # which it calls them where nobody named them
        said["classes"] = classes
    return said


def _reason(error: Exception) -> str:
    """Why a file was refused, in a line: what torch says where it was torch, else what ultralytics says."""
    told = str(error.__cause__ or error)
    text = told.rpartition("WeightsUnpickler error: ")[2].strip() or type(error).__name__
    return text.splitlines()[0].partition(". ")[0].rstrip(".")


@contextmanager
def _allowed_globals_as_they_were() -> Iterator[None]:
    """The safe loader allows classes for the rest of the process; afterwards allow only what was allowed before."""
    before = torch.serialization.get_safe_globals()
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def _layers(model: Any) -> Any:
    return getattr(model, "model", [None])


def _classes(model: Any) -> int:
    return int(_layers(model)[-1].nc)
