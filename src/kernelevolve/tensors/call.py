"""One call of a model: its outputs and, for a backward direction, the gradients, as named leaves.

In: a model, forward's arguments, the direction, cotangents. Out: leaves in a fixed order: outputs, then gradients of
the inputs, then of the parameters. Left to others: where the arguments come from (`draw`), comparing them (`judge`).
Judge and worker call the reference and the candidate through this one function.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from kernelevolve.errors import ProblemError


def forward_names(model: Any, count: int) -> list[str]:
    """The names of forward's first `count` positional parameters; `args[i]` beyond those that it names."""
    parameters = list(inspect.signature(model.forward).parameters.values())
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return (names + [f"args[{i}]" for i in range(len(names), count)])[:count]


def named_leaves(values: Sequence[Any], names: Sequence[str]) -> list[tuple[str, Any]]:
    """The pytree leaves of each argument: `x`, or `x[0]`, `x['key']` inside a container."""
    leaves: list[tuple[str, Any]] = []
    for name, value in zip(names, values, strict=True):
        for path, leaf in pytree.tree_flatten_with_path(value)[0]:
            leaves.append((name + pytree.keystr(path), leaf))
    return leaves


def output_leaves(output: Any) -> list[tuple[str, Any]]:
    """The tensors of an output pytree as (path, tensor), `None` left out.

    Raises:
        ProblemError: a leaf that is neither a tensor nor `None`, or no tensor at all.
    """
    leaves = [
        ("out" + pytree.keystr(path), leaf)
        for path, leaf in pytree.tree_flatten_with_path(output)[0]
        if leaf is not None
    ]
    odd = [(path, type(leaf).__name__) for path, leaf in leaves if not isinstance(leaf, torch.Tensor)]
    if odd or not leaves:
        found = f"{odd[0][0]} is a {odd[0][1]}" if odd else "there is none"
        raise ProblemError(f"forward's output must be a pytree of tensors, but {found}")
    return leaves


Cotangents = Callable[[str, Any], Any]


def timed(model: Any, direction: str, cotangents: Cotangents) -> Callable[..., Any]:
    """What one timed call runs, the same for candidate and baselines: forward, or forward and its gradients.

    Args:
        cotangents: asked once for each output; a clock must not see them drawn.
    """
    if direction == "forward":
        return model  # type: ignore[no-any-return]
    held: dict[str, Any] = {}

    def fixed(path: str, leaf: Any) -> Any:
        if path not in held:
            held[path] = cotangents(path, leaf)
        return held[path]

    return lambda *arguments: run(model, arguments, direction, fixed)


def run(
    model: Any, arguments: Sequence[Any], direction: str = "forward", cotangents: Cotangents | None = None
) -> list[tuple[str, Any]]:
    """Calls `model(*arguments)`; with direction `backward` or `both` also runs autograd and appends the gradients.

    Args:
        cotangents: gives the cotangent for an output leaf by its path; needed unless the direction is `forward`.

    Returns:
        (path, tensor) for each output leaf, then `grad:NAME` of each input and parameter that requires one. A gradient
        that autograd does not reach is all zeros.
    """
    if direction == "forward":
        with torch.no_grad():
            return output_leaves(model(*arguments))
    if cotangents is None:
        raise ValueError(f"direction {direction!r} needs cotangents")
    names = forward_names(model, len(arguments))
    wanted = [(n, t) for n, t in named_leaves(arguments, names) if isinstance(t, torch.Tensor) and t.requires_grad]
    wanted += [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    with torch.enable_grad():
        outputs = output_leaves(model(*arguments))
        live = [(path, t) for path, t in outputs if t.requires_grad]
        if not live or not wanted:
            raise ProblemError(f"direction {direction!r}: no output depends differentiably on an input or parameter")
        gradients = torch.autograd.grad(
            [t for _, t in live], [t for _, t in wanted], [cotangents(path, t) for path, t in live], allow_unused=True
        )
    grads = [
        (f"grad:{n}", torch.zeros_like(t) if g is None else g) for (n, t), g in zip(wanted, gradients, strict=True)
    ]
    return [(path, t.detach()) for path, t in outputs] + grads
