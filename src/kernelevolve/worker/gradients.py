"""A call with its gradients, as a model whose launches can be recorded.

In: a candidate's model, the direction. Out: a module whose `forward` runs what a timed call of that direction runs.
Left to others: recording (`plan`), which leaves there are (`tensors.call`).
"""

from __future__ import annotations

from typing import Any

import torch

from kernelevolve.tensors import call


class Gradients(torch.nn.Module):  # type: ignore[misc]
    """Forward and autograd of `model`; for recording only, its cotangents hold nothing."""

    def __init__(self, model: torch.nn.Module, direction: str) -> None:
        super().__init__()
        self.model, self.direction = model, direction

    def forward(self, *given: Any) -> tuple[torch.Tensor, ...]:
        """The outputs, then the gradients of every floating input and parameter that the outputs depend on."""
        leaves = torch.utils._pytree.tree_map(_differentiable, given)
        found = call.run(self.model, leaves, self.direction, lambda path, leaf: torch.empty_like(leaf))
        return tuple(tensor for _, tensor in found)


def _differentiable(leaf: Any) -> Any:
    if isinstance(leaf, torch.Tensor) and leaf.is_floating_point():
        return leaf.detach().requires_grad_()
    return leaf
