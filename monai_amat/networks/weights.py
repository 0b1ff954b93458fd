"""Trained weights on disk: written whole, read without running code, refused by name where they do not fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from monai_amat.files import whole_file

__all__ = ["load_weights", "save_weights"]


def save_weights(network: nn.Module, path: str | Path) -> None:
    """Write ``{"model": state_dict}``, the form that MONAI's ``CheckpointSaver`` and ``ckpt_export`` use.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "model.pt"
        >>> save_weights(nn.Linear(2, 1), file)
        >>> _ = load_weights(nn.Linear(2, 1), file)
    """
    with whole_file(Path(path)) as stream:
        torch.save({"model": network.state_dict()}, stream)


def load_weights(network: nn.Module, path: str | Path) -> nn.Module:
    """Load weights into a network and return it.

    Args:
        network: the network, on any device.
        path: a file of :func:`save_weights`, of MONAI's ``CheckpointSaver`` (``{"model": …}``), a resume checkpoint of
            this package, or a bare state dict.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is no checkpoint, or one of another architecture.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}; train the network first, or give the path of its weights")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a damaged file can fail in any way
        # Torch's own text is long, and advises to load without that precaution.
        reason = str(error).rpartition("WeightsUnpickler error: ")[2].strip().splitlines() or [""]
        raise ValueError(
            f"{path} is not a checkpoint that loads with weights_only=True "
            f"({type(error).__name__}: {reason[0].partition('. ')[0]})"
        ) from error
    state = _weights(content)
    if state is None:
        raise ValueError(f"{path} holds no weights: expected a state dict, alone or under 'model'")
    wrong = mismatches(network, state)
    if wrong:
        raise ValueError(
            f"{path} is of another architecture ({len(wrong)} differences; {'; '.join(wrong[:3])}): "
            "give the settings that it was trained with"
        )
    network.load_state_dict(state)
    return network


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
