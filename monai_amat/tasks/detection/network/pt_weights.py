"""Weights in the `.pt` files of ultralytics: read without running code, refused if they do not fit."""

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
    """Load the weights of a checkpoint of ultralytics (the averaged ones, if it has any) into a model.

    Args:
        model: an ultralytics `DetectionModel`.
        path: a `.pt` file.
        trust: run the code in the file; see `YOLOv5`.
        transfer: accept a file with other classes, and keep the class layers of the model.

    Returns:
        what the file says about the training: `image_size` and `classes`, each if it is known.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file is refused, damaged, or has another architecture or number of classes.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no ultralytics weights at {path}; give the path of a .pt file that ultralytics wrote")
    source, trained_with = _source(path, trust)
    here, there = _classes(model), _classes(source)
    state, own = source.float().state_dict(), model.state_dict()
    of_classes = f"model.{len(_layers(model)) - 1}.cv3."  # the branch whose width depends on the number of classes
    if here != there and not transfer:
        raise ValueError(
            f"{path}: expected weights for {here} classes, got {there}; build the network with classes={there}, or "
            "give YOLOv5 transfer=True to start from these weights with new class layers"
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
            f"{path}: expected the architecture of the network, got another one ({len(wrong)} differences; "
            f"{'; '.join(sorted(wrong)[:3])}); give the size (n, s, m, l or x) that the file was trained with; it "
            "must be a YOLOv5 of ultralytics that is not fused"
        )
    kept = {name: value for name, value in own.items() if here != there and name.startswith(of_classes)}
    model.load_state_dict({**state, **kept})
    return trained_with


def _source(path: Path, trust: bool) -> tuple[Any, dict[str, Any]]:
    """The network in a file, and what the file says about the training."""
    if path.suffix != ".pt":
        raise ValueError(
            f"{path}: expected a .pt file of ultralytics; load weights of MONAI with monai_amat.engines.load_weights"
        )
    if not trust and not zipfile.is_zipfile(path):
        raise ValueError(
            f"{path}: expected a checkpoint of PyTorch 1.6 or later, got another or a damaged file; fetch the file "
            "again"
        )
    load = from_ultralytics(
        "torch_safe_load"
    )  # before the block below, because what this import allows must stay allowed
    try:
        with quietly(), _allowed_globals_as_they_were():
            content, _ = load(str(path), safe_only=not trust)
    except OSError:
        raise
    except Exception as error:  # a file can fail in any way
        advice = (
            ""
            if trust
            else "; only if you trust the maker of the file, YOLOv5(trust=True) loads it by running the code in it"
        )
        raise ValueError(
            f"{path} is refused by the {'' if trust else 'safe '}loader of ultralytics: {_reason(error)}{advice}"
        ) from error
    found = (content.get("ema") or content.get("model")) if isinstance(content, Mapping) else content
    if isinstance(found, Mapping) and found and all(isinstance(value, Tensor) for value in found.values()):
        raise ValueError(
            f"{path}: expected a checkpoint of ultralytics, got a bare state dict; load it with "
            "monai_amat.engines.load_weights"
        )
    if not isinstance(found, nn.Module) or not isinstance(_layers(found)[-1], from_ultralytics("Detect")):
        raise ValueError(f"{path}: expected a detection network of ultralytics, got {type(found).__name__}")
    return found, _trained_with(found, content.get("train_args") if isinstance(content, Mapping) else None)


def _trained_with(network: Any, arguments: Any) -> dict[str, Any]:
    size = arguments.get("imgsz") if isinstance(arguments, Mapping) else None
    names = getattr(network, "names", None)
    classes = [str(names[i]) for i in sorted(names)] if isinstance(names, Mapping) else []
    said: dict[str, Any] = {}
    if size is not None:
        said["image_size"] = [size, size] if isinstance(size, int) else list(size)
    if classes != [str(i) for i in range(len(classes))]:  # the names that ultralytics gives to classes without names
        said["classes"] = classes
    return said


def _reason(error: Exception) -> str:
    """Why a file was refused, in one line: the reason of torch, or else that of ultralytics."""
    message = str(error.__cause__ or error)
    text = message.rpartition("WeightsUnpickler error: ")[2].strip() or type(error).__name__
    return text.splitlines()[0].partition(". ")[0].rstrip(".")


@contextmanager
def _allowed_globals_as_they_were() -> Iterator[None]:
    """Restore the classes that torch allows; the safe loader of ultralytics extends them for the whole process."""
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
