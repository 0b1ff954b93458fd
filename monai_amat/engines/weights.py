"""Trained weights on disk: written whole, read without running code, refused by name where they do not fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from monai_amat.changes import refuse_changed
from monai_amat.engines.checkpoint_file import load_checkpoint, save_checkpoint
from monai_amat.engines.frozen import unwrap

__all__ = ["ReadsForeignWeights", "check_finite_weights", "load_weights", "plain_names", "save_weights"]

_COMPILED = "_orig_mod."


@runtime_checkable
class ReadsForeignWeights(Protocol):
    """A network that reads the weight files of the package that it comes from."""

    def load_foreign_weights(self, path: Path) -> Mapping[str, Any]:
        """Load such a file and return the settings that it holds, such as `image_size` and `classes`."""


def save_weights(network: nn.Module, path: str | Path, settings: Mapping[str, Any] | None = None) -> None:
    """Write `{"model": state_dict}`, the form that MONAI's `CheckpointSaver` and `ckpt_export` use.

    Args:
        network: the network.
        path: file to write.
        settings: what it was trained with and its shapes do not show; kept beside as `"settings"`. Plain values.

    Raises:
        OSError: naming the file, when it cannot be written.
        ValueError: when a weight is not finite; nothing is written.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "model.pt"
        >>> save_weights(nn.Linear(2, 1), file, {"image_size": [100, 80]})
        >>> _ = load_weights(nn.Linear(2, 1), file, {"image_size": [100, 80]})
    """
    state = {name.replace(_COMPILED, ""): value for name, value in unwrap(network).state_dict().items()}
    check_finite_weights(state, f"the network to be saved to {path}")
    save_checkpoint({"model": state, **({"settings": dict(settings)} if settings else {})}, path)


def load_weights(network: nn.Module, path: str | Path, settings: Mapping[str, Any] | None = None) -> nn.Module:
    """Load weights into a network and return it.

    Args:
        network: the network, on any device; wrappers (DDP, compile) are looked through.
        path: a file of `save_weights`, of MONAI's `CheckpointSaver` (`{"model": …}`), a resume checkpoint of
            this package, or a bare state dict; for `YOLOv5` also a `.pt` file that
            ultralytics wrote.
        settings: what the network is used with. A file that keeps another value of one of them is refused; one that
            keeps none is not. Files of ultralytics keep `image_size` and `classes`.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is not a checkpoint or is damaged, of another architecture or other settings, or not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}; train the network first, or give the path of its weights")
    foreign: ReadsForeignWeights | None = None
    try:
        state, kept = _read(path)
    except ValueError:
        if not isinstance(network, ReadsForeignWeights) or path.suffix != ".pt":
            raise
        foreign = network
    if foreign is not None:  # outside the except clause, so that the errors of that reader come alone
        _check_settings(path, foreign.load_foreign_weights(path), settings or {})
        check_finite_weights(network.state_dict(), str(path))
        return network
    inner = unwrap(network)
    own = inner.state_dict()
    if own.keys() != state.keys():
        here = {name.replace(_COMPILED, ""): name for name in own}  # parts of a network may be compiled too
        state = {here.get(name, name): value for name, value in plain_names(state).items()}
    wrong = mismatches(inner, state)
    if wrong:
        raise ValueError(
            f"{path} is of another architecture ({len(wrong)} differences; {'; '.join(wrong[:3])}): "
            "give the settings that it was trained with"
        )
    _check_settings(path, kept, settings or {})
    check_finite_weights(state, str(path))
    inner.load_state_dict(state)
    return network


def _read(path: Path) -> tuple[Mapping[str, torch.Tensor], Any]:
    """A state dict, and what is called settings beside it."""
    try:
        content = load_checkpoint(path)
    except ValueError as error:
        if "allowed global" not in str(error.__cause__):
            raise
        raise ValueError(
            f"{error}; if it holds a whole network, not its weights alone, load it where it was made and save its "
            "state_dict(); weights of ultralytics are for YOLOv5 networks"
        ) from error
    state = _weights(content)
    if state is None:
        raise ValueError(f"{path} holds no weights, expected a state dict, alone or under 'model'")
    return state, content.get("settings")


def _check_settings(path: Path, kept: Any, here: Mapping[str, Any]) -> None:
    if not isinstance(kept, Mapping):  # other programs may keep something else under this name
        return
    for key in (key for key in here if key in kept):
        # The command line makes a tuple of (100,80), a configuration a list.
        there, now = (str(list(v) if isinstance(v, tuple) else v) for v in (kept[key], here[key]))
        advice = f'give --{key} "{there}", or leave {key} out of the settings to be checked (trained_with)'
        refuse_changed(path, there, now, advice, name=key, error=ValueError)


def plain_names(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict by the names that its entries have without DDP, averaging and `torch.compile` around the network.

    Args:
        state: the state dict, possibly of a wrapped network.

    Example:
        >>> list(plain_names({"module._orig_mod.0.weight": torch.zeros(1), "n_averaged": torch.tensor(3)}))
        ['0.weight']
    """
    named = {name.replace(_COMPILED, ""): value for name, value in state.items()}
    inside = {name: value for name, value in named.items() if name != "n_averaged"}  # of torch's AveragedModel
    while inside and all(name.startswith("module.") for name in inside):
        named = inside = {name.removeprefix("module."): value for name, value in inside.items()}
    return named


def check_finite_weights(state: Mapping[str, Any], where: str) -> None:
    """Refuse weights that are NaN or infinite: they give the same answer for every image.

    Args:
        state: a state dict. Buffers other than running statistics may hold infinities, as masks do.
        where: what holds them, for the message.

    Raises:
        ValueError: naming the first such entries.

    Example:
        >>> check_finite_weights({"weight": torch.tensor([1.0, float("nan")])}, "model.pt")
        Traceback (most recent call last):
        ...
        ValueError: model.pt holds weights that are not finite (1 entry: weight); the training that made them ...
    """
    wrong = [
        name
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
        and (value.is_floating_point() or value.is_complex())
        and not (torch.isfinite(value).all() or (_is_mask(name, value) and not value.isnan().any()))
    ]
    if wrong:
        entries = "entry" if len(wrong) == 1 else "entries"
        raise ValueError(
            f"{where} holds weights that are not finite ({len(wrong)} {entries}: {', '.join(wrong[:3])}); the training "
            "that made them has failed, take an earlier checkpoint"
        )


def _is_mask(name: str, value: torch.Tensor) -> bool:
    return "mask" in name.rpartition(".")[2]


def mismatches(
    network: nn.Module, state: Mapping[str, torch.Tensor], *, whole: str = "the network", owner: str = "the network"
) -> list[str]:
    """What keeps a state dict from fitting a network, in words and in order.

    Args:
        network: the network.
        state: the state dict.
        whole: what a surplus entry is no part of.
        owner: what has an entry of another shape.
    """
    own = network.state_dict()
    return sorted(
        [
            *(f"{name} is missing" for name in own.keys() - state.keys()),
            *(f"{name} is not part of {whole}" for name in state.keys() - own.keys()),
            *(
                f"{name} is {tuple(state[name].shape)}, {owner} has {tuple(own[name].shape)}"
                for name in own.keys() & state.keys()
                if state[name].shape != own[name].shape
            ),
        ]
    )


def _weights(content: Any) -> Mapping[str, torch.Tensor] | None:
    if not isinstance(content, Mapping):
        return None
    if content and all(isinstance(value, torch.Tensor) for value in content.values()):
        return content
    inner = content.get("model", content.get("objects", {}))
    return _weights(inner.get("network", inner) if isinstance(inner, Mapping) else None) if inner else None
