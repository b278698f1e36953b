"""From ATen ops to the algebra: one function per op, found by the op's full name.

In: a `Program`. Out: an `algebra.Graph`. A lowering takes a `Lowering` context and the `Op`, reads its arguments with
the context's methods, and returns the result's node, or a list of nodes for an op with several results.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

from kernelevolve.translate.algebra import Builder, Graph, Node, coordinates
from kernelevolve.translate.errors import UncoveredOp
from kernelevolve.translate.expr import Expr
from kernelevolve.translate.ir import Dtype, Op, Program, Ref, as_expr

Result = Node | list[Node | None]
Lower = Callable[["Lowering", Op], Result]

_REGISTRY: dict[str, Lower] = {}
_MODULES = tuple(sorted(found.name for found in pkgutil.iter_modules(__path__)))


def lowers(*ops: str) -> Callable[[Lower], Lower]:
    """Registers a lowering for ops, named as torch prints them without the ``aten.``, such as ``relu.default``."""

    def register(function: Lower) -> Lower:
        for op in ops:
            _REGISTRY[op.removeprefix("aten.")] = function
        return function

    return register


def covered() -> frozenset[str]:
    """The full names of all ops that have a lowering."""
    _load()
    return frozenset(f"aten.{name}" for name in _REGISTRY)


class Lowering:
    """What a lowering sees: the builder ``b``, and its arguments as nodes and numbers."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.b = Builder()
        self.values: dict[str, Node] = {}

    def node(self, argument: Any) -> Node:
        """A tensor argument."""
        return self.values[argument.name]

    def number(self, argument: Any) -> Any:
        """A number argument: Python number, size expression or `Number`."""
        return argument

    def operand(self, argument: Any) -> Any:
        """A tensor or number argument."""
        return self.values[argument.name] if isinstance(argument, Ref) else argument

    def shape(self, argument: Any) -> list[Expr]:
        """A list of sizes."""
        return [as_expr(part) for part in argument]

    def uncovered(self, op: Op, reason: str) -> UncoveredOp:
        """The error for a case that the op's lowering does not cover."""
        return UncoveredOp(op.op, op.line, reason)


def argument(op: Op, position: int, name: str, default: Any = None) -> Any:
    """An argument given by position or by name."""
    if position < len(op.args):
        return op.args[position]
    return dict(op.kwargs).get(name, default)


def dtype_of(op: Op, result: int = 0) -> str:
    """The dtype of a result."""
    value = op.values[result]
    assert value is not None, op
    return value.dtype


def shape_of(op: Op, result: int = 0) -> tuple[Expr, ...]:
    """The shape of a result."""
    value = op.values[result]
    assert value is not None, op
    return value.shape


def dims_of(given: Any, rank: int) -> list[int]:
    """Reduced dimensions, none given meaning all, counted from the front."""
    if given is None or given == ():
        return list(range(rank))
    found = given if isinstance(given, tuple) else (given,)
    return sorted(d % rank for d in found) if rank else []


def _load() -> None:
    for module in _MODULES:
        importlib.import_module(f"{__name__}.{module}")


def lower(program: Program) -> Graph:
    """Lowers a program.

    Raises:
        UncoveredOp: an op has no lowering, or not for these arguments.
    """
    _load()
    state = Lowering(program)
    b = state.b
    tensors = {}
    for tensor in program.tensors:
        node = b.node("input", tensor.value.shape, tensor.value.dtype, name=tensor.name)
        state.values[tensor.name] = node
        tensors[node.name] = tensor
    for op in program.ops:
        name = op.op.removeprefix("aten.")
        if name not in _REGISTRY:
            raise UncoveredOp(op.op, op.line)
        b.prefix, b.line = op.name, op.line
        result = _REGISTRY[name](state, op)
        if isinstance(result, Node):
            state.values[op.name] = result
        else:
            for position, part in enumerate(result):
                if part is not None:
                    state.values[f"{op.name}.{position}"] = part
    b.prefix, b.line = "output", ""
    return _finish(state, tensors)


def _finish(state: Lowering, tensors: dict[str, Any]) -> Graph:
    mutations = tuple((target, _fresh(state, state.values[value]).name) for target, value in state.program.mutations)
    stores: list[str] = []

    def structure(part: Any) -> Any:
        if isinstance(part, Ref):
            name = state.values[part.name].name
            stores.append(name)
            return Ref(name)
        if isinstance(part, tuple) and part and part[0] == "dict":
            return ("dict", *((key, structure(value)) for key, value in part[1:]))
        if isinstance(part, tuple):
            return (part[0], *(structure(value) for value in part[1:]))
        return part

    outputs = structure(state.program.outputs)
    stores += [value for _, value in mutations]
    needed = _needed(state.b.nodes, stores)
    nodes = {name: node for name, node in state.b.nodes.items() if name in needed or node.kind == "input"}
    return Graph(state.program, nodes, outputs, tuple(dict.fromkeys(stores)), mutations, tensors)


def _fresh(state: Lowering, node: Node) -> Node:
    """A node that a kernel can write: a tensor that is copied as it is gets a view of itself."""
    return state.b.view(node, node.shape, coordinates(len(node.shape))) if node.kind == "input" else node


def _needed(nodes: dict[str, Node], roots: list[str]) -> set[str]:
    needed: set[str] = set()
    stack = list(roots)
    while stack:
        name = stack.pop()
        if name not in needed:
            needed.add(name)
            stack.extend(nodes[name].args)
    return needed


__all__ = ["Dtype", "Lowering", "argument", "covered", "dims_of", "dtype_of", "lower", "lowers", "shape_of"]
