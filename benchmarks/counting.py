"""How often a network was evaluated, and how often differentiated: counted at the network, not believed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

__all__ = ["Evaluations", "counted"]


@dataclass
class Evaluations:
    """Calls of a network.

    Args:
        forwards: forwards.
        gradients: backwards through its output.
        samples: samples of all forwards.
        gradient_samples: samples of all backwards.
    """

    forwards: int = 0
    gradients: int = 0
    samples: int = 0
    gradient_samples: int = 0


@contextmanager
def counted(network: nn.Module) -> Iterator[Evaluations]:
    """Count what happens to a network whose output is one tensor.

    Example:
        >>> import torch
        >>> layer, inputs = nn.Linear(2, 1), torch.zeros(3, 2, requires_grad=True)
        >>> with counted(layer) as evaluations:
        ...     _, gradient = layer(inputs), torch.autograd.grad(layer(inputs).sum(), inputs)
        >>> evaluations
        Evaluations(forwards=2, gradients=1, samples=6, gradient_samples=3)
    """
    evaluations = Evaluations()

    def note(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
        evaluations.forwards += 1
        evaluations.samples += len(output)
        if output.requires_grad:
            output.register_hook(note_gradient)

    def note_gradient(gradient: Tensor) -> None:
        evaluations.gradients += 1
        evaluations.gradient_samples += len(gradient)

    handle = network.register_forward_hook(note)
    try:
        yield evaluations
    finally:
        handle.remove()
