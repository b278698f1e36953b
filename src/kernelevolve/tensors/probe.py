"""Shapes and cost of a problem at one size without using its memory, by fake tensors.

In: a Variant's source and the problem's rules. Out: a `Probe`: argument leaves, state, outputs, elements and floating
point operations. Left to others: values (`draw`, `call`), what to do with the cost (`scale`).
A model that cannot be built under fake tensors is built for real; a forward that reads values (`.item()`) is run for
real when its inputs are small.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from kernelevolve.errors import MachineError, ProblemError
from kernelevolve.problem import Problem
from kernelevolve.tensors.call import forward_names, named_leaves, run
from kernelevolve.tensors.load import CAST, blamed, build_model, declared_inputs, load_module

SMALL = 1 << 22
# Shapes that do not fit are an answer here; torch logs each of them as an error of its own.
logging.getLogger("torch._subclasses.fake_tensor").setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Cost:
    """What running the reference once takes.

    Attributes:
        largest: elements of the largest tensor, inputs and parameters included.
        elements: elements written by all ops, plus inputs and parameters.
        flops: of matrix products and convolutions, two per multiply-add.
    """

    largest: int
    elements: int
    flops: int


@dataclass(frozen=True)
class Probe:
    """Leaves have shape, stride, dtype and, as a rule, no values; `state` maps a name to (tensor, is a parameter)."""

    inputs: tuple[tuple[str, Any], ...]
    state: dict[str, tuple[Any, bool]]
    outputs: tuple[tuple[str, Any], ...]
    cost: Cost
    model: Any
    fake: bool


def probe(source: str, problem: Problem, *, real: bool = True) -> Probe:
    """Runs the reference of `source` under fake tensors with the rules of `problem`.

    Args:
        real: whether a model that fake tensors cannot build or run may be built or run for real.

    Raises:
        ProblemError: the file, its constructor, `get_inputs` or `forward` raises, or its shapes depend on values.
    """
    module = load_module(source, problem.path)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    try:
        with mode:
            model = build_model(module, seed=0, precision=problem.precision, mode=problem.mode)
        arguments = _fake_inputs(module, mode, problem)
        return _run(model, arguments, mode, module, problem, fake=True)
    except (ProblemError, MachineError):
        if not real:
            raise
        model = build_model(
            module, seed=0, precision=problem.precision, mode=problem.mode
        )  # raises again where the file itself is at fault
    arguments = _fake_inputs(module, mode, problem)
    try:
        return _run(model, arguments, mode, module, problem, fake=True)
    except ProblemError:
        if sum(t.numel() for t in pytree.tree_leaves(arguments) if isinstance(t, torch.Tensor)) > SMALL:
            raise
    arguments = _cast(declared_inputs(module, seed=0), problem)
    return _run(model, arguments, None, module, problem, fake=False)


def _fake_inputs(module: Any, mode: Any, problem: Problem) -> list[Any]:
    try:
        with mode:
            arguments = declared_inputs(module, seed=0)
    except ProblemError:
        arguments = declared_inputs(module, seed=0)  # reads its own values: make them, then forget them
        arguments = pytree.tree_map(lambda t: mode.from_tensor(t) if isinstance(t, torch.Tensor) else t, arguments)
    with mode:
        return _cast(arguments, problem)


def _cast(arguments: list[Any], problem: Problem) -> list[Any]:
    target = CAST.get(problem.precision)

    def one(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            leaf = leaf.detach()
            leaf = leaf.to(target) if target is not None and leaf.dtype is torch.float32 else leaf
            if problem.direction != "forward" and leaf.is_floating_point():
                leaf.requires_grad_()
        return leaf

    return list(pytree.tree_map(one, arguments))


def _run(model: Any, arguments: list[Any], mode: Any, module: Any, problem: Problem, *, fake: bool) -> Probe:
    counter = _Counter()
    ones: Callable[[str, Any], Any] = lambda _, leaf: torch.ones_like(leaf)  # noqa: E731
    with blamed(module.__file__ or "", problem.path, "forward"):
        if mode is None:
            with counter:
                outputs = run(model, arguments, problem.direction, ones)
        else:
            with mode, counter:
                outputs = run(model, arguments, problem.direction, ones)
    inputs = named_leaves(arguments, forward_names(model, len(arguments)))
    state = {n: (p, True) for n, p in model.named_parameters(remove_duplicate=False)}
    state |= {n: (b, False) for n, b in model.named_buffers(remove_duplicate=False)}
    given = [t.numel() for _, t in inputs if isinstance(t, torch.Tensor)] + [t.numel() for t, _ in state.values()]
    cost = Cost(max([counter.largest, *given]), counter.elements + sum(given), counter.flops)
    return Probe(tuple(inputs), state, tuple(outputs), cost, model, fake)


class _Counter(TorchDispatchMode):  # type: ignore[misc]
    """Counts elements and floating point operations of all ops that run under it."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = self.elements = self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if not func.is_view:
            for leaf in pytree.tree_leaves(out):
                if isinstance(leaf, torch.Tensor):
                    self.largest = max(self.largest, leaf.numel())
                    self.elements += leaf.numel()
        if func._overloadpacket in flop_registry:
            self.flops += int(flop_registry[func._overloadpacket](*args, **kwargs, out_val=out))
        return out
