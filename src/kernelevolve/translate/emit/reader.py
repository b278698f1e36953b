"""Reads a node of the algebra at coordinates: the walk that tracing and writing share.

In: a graph, the nodes that exist in memory, and the results a kernel has computed so far. Out: for each read, calls of
the hooks below. `Trace` collects the memory accesses, `writer.Writer` writes Triton.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from kernelevolve.translate.algebra import Condition, Graph, Node, broadcast_index, lengths
from kernelevolve.translate.coordinates import recombine, substitute
from kernelevolve.translate.errors import TranslateError
from kernelevolve.translate.expr import ZERO, Expr, symbol

Coordinates = tuple[Expr, ...]
T = TypeVar("T")


class NotHere(TranslateError):
    """A result is needed at coordinates where this kernel does not have it.

    Attributes:
        node: the reduction, contraction or scan.
    """

    def __init__(self, node: str) -> None:
        self.node = node
        super().__init__(f"{node} is not available inside this kernel; store it first")


def address(graph: Graph, name: str, at: Sequence[Expr]) -> Expr:
    """The element offset of a node in memory at coordinates."""
    node = graph.nodes[name]
    tensor = graph.tensors.get(name)
    strides = tensor.strides if tensor is not None and tensor.strides is not None else lengths(node.shape)
    total = ZERO
    for coordinate, stride, size in zip(at, strides, node.shape, strict=True):
        if size.value != 1:
            total = total + coordinate * stride
    return recombine(total)


@dataclass
class Reader(Generic[T]):
    """The walk.

    Attributes:
        graph: what is read.
        stored: nodes that are read from memory.
        results: nodes of this kernel that are values already, with the coordinates at which they are.
        extents: of the coordinates' names.
    """

    graph: Graph
    stored: frozenset[str]
    results: dict[str, tuple[Coordinates, T]] = field(default_factory=dict)
    extents: dict[str, Expr] = field(default_factory=dict)

    # -- hooks

    def load(self, node: Node, offset: Expr, valid: tuple[str, ...]) -> T:
        """A read from memory."""
        raise NotImplementedError

    def number(self, node: Node) -> T:
        """A constant."""
        raise NotImplementedError

    def position(self, node: Node, expr: Expr) -> T:
        """An expression of coordinates as a value."""
        raise NotImplementedError

    def apply(self, node: Node, args: list[T]) -> T:
        """A pointwise function."""
        raise NotImplementedError

    def inside(self, conditions: Sequence[Condition]) -> str:
        """The name of a truth value: all conditions hold."""
        raise NotImplementedError

    def choose(self, condition: str, yes: T, fill: float, node: Node) -> T:
        """``yes`` where the condition holds, else ``fill``."""
        raise NotImplementedError

    def either(self, condition: str, yes: T, no: T, node: Node) -> T:
        """One of two values."""
        raise NotImplementedError

    def name_index(self, value: T, valid: tuple[str, ...]) -> str:
        """Makes an index value usable as a coordinate."""
        raise NotImplementedError

    def search(self, node: Node, value: T, row: Coordinates, valid: tuple[str, ...]) -> T:
        """How many elements of the row of borders are left of the value."""
        raise NotImplementedError

    def remembered(self, key: tuple[str, Coordinates, tuple[str, ...]]) -> T | None:
        """An earlier read of the same."""
        return None

    def remember(self, key: tuple[str, Coordinates, tuple[str, ...]], value: T) -> None:
        """Keeps a read."""

    # -- the walk

    def read(self, name: str, at: Sequence[Expr], valid: tuple[str, ...] = ()) -> T:
        """The node's value at coordinates; reads from memory happen only where all of ``valid`` hold.

        Raises:
            NotHere: it needs a reduction, contraction or scan that is neither stored nor a result at its coordinates.
        """
        at = tuple(at)
        if name in self.results:
            where, value = self.results[name]
            if where == at:
                return value
            if name not in self.stored:
                raise NotHere(name)
        key = (name, at, valid)
        found = self.remembered(key)
        if found is None:
            found = self._read(self.graph.nodes[name], at, valid)
            self.remember(key, found)
        return found

    def _read(self, node: Node, at: Coordinates, valid: tuple[str, ...]) -> T:
        if node.name in self.stored:
            return self.load(node, address(self.graph, node.name, at), valid)
        match node.kind:
            case "const":
                return self.number(node)
            case "iota":
                return self.position(node, self._at(node.index, at)[0])
            case "map":
                args = [
                    self.read(arg, broadcast_index(self.graph.nodes[arg].shape, at), valid) for arg in node.args
                ]
                return self.apply(node, args)
            case "view":
                return self._view(node, at, valid)
            case "gather":
                return self._gather(node, at, valid)
            case "join":
                return self._join(node, at, valid)
            case "search":
                value = self.read(node.args[0], at, valid)
                return self.search(node, value, at[: len(self.graph.nodes[node.args[1]].shape) - 1], valid)
        raise NotHere(node.name)

    def _at(self, index: Sequence[Expr], at: Coordinates, more: Mapping[str, Expr] | None = None) -> list[Expr]:
        values = {f"i{axis}": coordinate for axis, coordinate in enumerate(at)} | dict(more or {})
        return [substitute(expr, values, self.extents) for expr in index]

    def _view(self, node: Node, at: Coordinates, valid: tuple[str, ...]) -> T:
        source = self._at(node.index, at)
        if not node.where:
            return self.read(node.args[0], source, valid)
        conditions = [
            Condition(self._at([c.coordinate], at)[0], c.lower, c.upper) for c in node.where
        ]
        inside = self.inside(conditions)
        value = self.read(node.args[0], source, (*valid, inside))
        return self.choose(inside, value, node.fill, node)

    def _gather(self, node: Node, at: Coordinates, valid: tuple[str, ...]) -> T:
        names: dict[str, Expr] = {}
        for position, (index, where) in enumerate(zip(node.args[1:], node.at, strict=True)):
            value = self.read(index, self._at(where, at), valid)
            names[f"j{position}"] = symbol(self.name_index(value, valid))
        return self.read(node.args[0], self._at(node.index, at, names), valid)

    def _join(self, node: Node, at: Coordinates, valid: tuple[str, ...]) -> T:
        dim = node.dims[0]
        ends, total = [], ZERO
        for arg in node.args:
            total = total + self.graph.nodes[arg].shape[dim]
            ends.append(total)
        value: T | None = None
        for position in range(len(node.args) - 1, -1, -1):
            start = ends[position - 1] if position else ZERO
            last = position == len(node.args) - 1
            condition = Condition(at[dim], start if position else None, None if last else ends[position])
            inside = self.inside([condition])
            source = [c - start if axis == dim else c for axis, c in enumerate(at)]
            part = self.read(node.args[position], source, (*valid, inside))
            value = part if value is None else self.either(inside, part, value, node)
        assert value is not None
        return value


@dataclass(frozen=True)
class Access:
    """One memory access: the node, its element offset, and the names its mask depends on."""

    node: str
    offset: Expr


class Trace(Reader[frozenset[str]]):
    """Collects accesses; a value is the set of coordinate names it depends on."""

    def __init__(self, graph: Graph, stored: frozenset[str], extents: dict[str, Expr]) -> None:
        super().__init__(graph, stored, {}, dict(extents))
        self.accesses: list[Access] = []
        self.others: list[Expr] = []
        self.conditions: list[tuple[Condition, ...]] = []
        self.indices = 0
        self.gathers = 0
        self._memory: dict[tuple[str, Coordinates, tuple[str, ...]], frozenset[str]] = {}

    def load(self, node: Node, offset: Expr, valid: tuple[str, ...]) -> frozenset[str]:
        self.accesses.append(Access(node.name, offset))
        return offset.names()

    def number(self, node: Node) -> frozenset[str]:
        return frozenset()

    def position(self, node: Node, expr: Expr) -> frozenset[str]:
        self.others.append(expr)
        return expr.names()

    def apply(self, node: Node, args: list[frozenset[str]]) -> frozenset[str]:
        return frozenset().union(*args)

    def inside(self, conditions: Sequence[Condition]) -> str:
        self.others.extend(c.coordinate for c in conditions)
        return " & ".join(f"{c.lower}<={c.coordinate}<{c.upper}" for c in conditions)

    def choose(self, condition: str, yes: frozenset[str], fill: float, node: Node) -> frozenset[str]:
        return yes

    def either(self, condition: str, yes: frozenset[str], no: frozenset[str], node: Node) -> frozenset[str]:
        return yes | no

    def name_index(self, value: frozenset[str], valid: tuple[str, ...]) -> str:
        self.gathers += 1
        return f"index_{self.gathers}"

    def search(
        self, node: Node, value: frozenset[str], row: Coordinates, valid: tuple[str, ...]
    ) -> frozenset[str]:
        place = symbol(self.name_index(value, valid))
        return value | self.read(node.args[1], (*row, place), valid)

    def remembered(self, key: tuple[str, Coordinates, tuple[str, ...]]) -> frozenset[str] | None:
        return self._memory.get(key)

    def remember(self, key: tuple[str, Coordinates, tuple[str, ...]], value: frozenset[str]) -> None:
        self._memory[key] = value


