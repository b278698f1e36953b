"""Few kinds of nodes that every op is written in, each a function of coordinates.

In: builder calls of the lowerings. Out: `Graph`, frozen nodes in execution order. How nodes are grouped into kernels
and written as Triton is left to `plan` and `emit`.

Kinds (``i0, i1, ...`` are the coordinates of the node's own shape):

* ``input``: a tensor that exists in memory (input, parameter, buffer).
* ``const``: one number everywhere; a Python number, a size expression or a host `Number`.
* ``iota``: ``index[0]`` as a value.
* ``map``: ``fn`` of its arguments at the same coordinates, shapes broadcast from the right.
* ``view``: the argument at coordinates ``index``; where a condition of ``where`` fails, ``fill``.
* ``gather``: the first argument at ``index``, in which ``j0, j1, ...`` are the values of the further arguments, each
  read at its coordinates in ``at``.
* ``search``: how many elements of the second argument, sorted along its last dimension, are left of the first one's;
  ``fn`` is ``left`` where equal ones are not counted, else ``right``.
* ``join``: along dimension ``dims[0]`` one argument after the other.
* ``reduce``: ``fn`` over the dimensions ``dims``, which vanish. ``welford`` gives (mean, sum of squared deviations),
  ``softmax`` gives (maximum, sum of exp(x - maximum)), ``argmax`` and ``argmin`` give (value, position).
* ``item``: result number ``dims[0]`` of a reduce.
* ``contract``: sum over k of a[b, m, k] * b[b, k, n].
* ``scan``: running ``fn`` along ``dims[0]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kernelevolve.translate.coordinates import flatten, unflatten
from kernelevolve.translate.errors import TranslateError
from kernelevolve.translate.expr import ONE, ZERO, Expr, divide_exactly, product, symbol
from kernelevolve.translate.ir import Number, Program, Tensor

Scalar = int | float | bool | Expr | Number


@dataclass(frozen=True)
class Condition:
    """``lower <= coordinate < upper``; None leaves a side open."""

    coordinate: Expr
    lower: Expr | None
    upper: Expr | None


@dataclass(frozen=True)
class Node:
    """One node; the fields that its kind does not name are empty."""

    name: str
    kind: str
    shape: tuple[Expr, ...]
    dtype: str
    args: tuple[str, ...] = ()
    fn: str = ""
    index: tuple[Expr, ...] = ()
    at: tuple[tuple[Expr, ...], ...] = ()
    where: tuple[Condition, ...] = ()
    fill: float | int | bool = 0
    dims: tuple[int, ...] = ()
    value: Any = None
    compute: str = ""
    line: str = ""

    def numel(self) -> Expr:
        """The number of elements."""
        return product(self.shape)


@dataclass(frozen=True)
class Graph:
    """Lowered nodes.

    Attributes:
        program: what was lowered.
        nodes: by name, in execution order.
        outputs: the program's outputs structure with node names in `Ref`.
        stores: names of nodes that must reach memory: outputs, then mutations.
        mutations: pairs of an input node's name and the node that is written into it.
    """

    program: Program
    nodes: dict[str, Node]
    outputs: Any
    stores: tuple[str, ...]
    mutations: tuple[tuple[str, str], ...] = ()
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def users(self) -> dict[str, list[str]]:
        """For each node the nodes that read it."""
        found: dict[str, list[str]] = {name: [] for name in self.nodes}
        for node in self.nodes.values():
            for arg in dict.fromkeys(node.args):
                found[arg].append(node.name)
        return found


def coordinates(rank: int) -> list[Expr]:
    """``i0, i1, ...``"""
    return [symbol(f"i{axis}") for axis in range(rank)]


def extents(shape: Sequence[Expr]) -> dict[str, Expr]:
    """The extents of ``i0, i1, ...`` of a shape."""
    return {f"i{axis}": size for axis, size in enumerate(shape)}


_RANK = ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64"]


def promote(*dtypes: str) -> str:
    """The dtype of an operation on tensors of these dtypes."""
    found = set(dtypes)
    if {"float16", "bfloat16"} <= found:
        return promote("float32", *(found - {"float16", "bfloat16"}))
    if {"uint8", "int8"} <= found:
        return promote("int16", *(found - {"uint8", "int8"}))
    return max(dtypes, key=_RANK.index)


def is_float(dtype: str) -> bool:
    """True for floating point dtypes."""
    return "float" in dtype


class Builder:
    """Adds nodes; the lowerings' whole vocabulary."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.prefix = "value"
        self.line = ""

    def node(self, kind: str, shape: Sequence[Expr], dtype: str, **fields: Any) -> Node:
        """Adds a node under a fresh name made from the current op's name."""
        name, turn = fields.pop("name", self.prefix), 0
        base = name
        while name in self.nodes:
            turn += 1
            name = f"{base}_{turn}"
        made = Node(name, kind, tuple(shape), dtype, line=self.line, **fields)
        self.nodes[name] = made
        return made

    # -- leaves

    def const(self, value: Scalar, dtype: str, shape: Sequence[Expr] = ()) -> Node:
        """A number everywhere."""
        if isinstance(value, Expr) and value.value is not None:
            value = value.value
        if isinstance(value, Expr) and is_float(dtype):
            value = Number(f"float({value})", 0.0)
        if not isinstance(value, Expr | Number):
            value = float(value) if is_float(dtype) else bool(value) if dtype == "bool" else int(value)
        return self.node("const", shape, dtype, value=value)

    def iota(self, expr: Expr, shape: Sequence[Expr], dtype: str) -> Node:
        """An expression of the coordinates as a value."""
        return self.node("iota", shape, dtype, index=(expr,))

    # -- pointwise

    def map(self, fn: str, *args: Node | Scalar, dtype: str | None = None, compute: str | None = None) -> Node:
        """``fn`` at each coordinate.

        Args:
            fn: a name of `emit.functions`.
            args: nodes, or numbers that take the dtype of the computation.
            dtype: of the result; by default that of the computation.
            compute: to which arguments are cast before; by default the promotion of the nodes' dtypes.
        """
        nodes = [arg for arg in args if isinstance(arg, Node)]
        if compute is None:
            compute = promote(*(n.dtype for n in nodes)) if nodes else "float32"
        made = [arg if isinstance(arg, Node) else self.const(arg, compute) for arg in args]
        shape = broadcast(*(n.shape for n in made))
        names = tuple(n.name for n in made)
        return self.node("map", shape, dtype or compute, args=names, fn=fn, compute=compute)

    def cast(self, x: Node, dtype: str) -> Node:
        """The value in another dtype."""
        return x if x.dtype == dtype else self.node("map", x.shape, dtype, args=(x.name,), fn="cast", compute=x.dtype)

    def where(self, condition: Node, yes: Node | Scalar, no: Node | Scalar, dtype: str) -> Node:
        """``yes`` where the condition holds, else ``no``."""
        parts = [p if isinstance(p, Node) else self.const(p, dtype) for p in (yes, no)]
        shape = broadcast(condition.shape, *(p.shape for p in parts))
        names = (condition.name, *(p.name for p in parts))
        return self.node("map", shape, dtype, args=names, fn="where", compute=dtype)

    # -- views

    def view(
        self, x: Node, shape: Sequence[Expr], index: Sequence[Expr], where: Sequence[Condition] = (), fill: float = 0
    ) -> Node:
        """The argument at other coordinates."""
        if x.kind == "const" and not where:
            return self.node("const", shape, x.dtype, value=x.value)
        return self.node("view", shape, x.dtype, args=(x.name,), index=tuple(index), where=tuple(where), fill=fill)

    def reshape(self, x: Node, shape: Sequence[Expr]) -> Node:
        """The same elements in row-major order in another shape."""
        shape = tuple(shape)
        if shape == x.shape:
            return x
        return self.view(x, shape, reshape_index(list(x.shape), list(shape)))

    def permute(self, x: Node, dims: Sequence[int]) -> Node:
        """Dimension k of the result is dimension ``dims[k]`` of the argument."""
        index = [ZERO] * len(dims)
        for position, dim in enumerate(dims):
            index[dim] = symbol(f"i{position}")
        return self.view(x, [x.shape[d] for d in dims], index)

    def expand(self, x: Node, shape: Sequence[Expr]) -> Node:
        """Repeats dimensions of size 1, aligned at the right."""
        shape, lead = tuple(shape), len(shape) - len(x.shape)
        shape = tuple(
            x.shape[axis - lead] if axis >= lead and size.value == -1 else size for axis, size in enumerate(shape)
        )
        if shape == x.shape:
            return x
        return self.view(x, shape, broadcast_index(x.shape, coordinates(len(shape))))

    def squeeze(self, x: Node, dims: Sequence[int]) -> Node:
        """Drops dimensions of size 1."""
        gone = {d % len(x.shape) for d in dims if x.shape[d % len(x.shape)] == ONE} if x.shape else set()
        left = [axis for axis in range(len(x.shape)) if axis not in gone]
        index = [ZERO] * len(x.shape)
        for position, axis in enumerate(left):
            index[axis] = symbol(f"i{position}")
        return self.view(x, [x.shape[a] for a in left], index) if gone else x

    def unsqueeze(self, x: Node, dim: int) -> Node:
        """Inserts a dimension of size 1."""
        dim %= len(x.shape) + 1
        shape = [*x.shape[:dim], ONE, *x.shape[dim:]]
        return self.view(x, shape, [symbol(f"i{a}") for a in range(len(shape)) if a != dim])

    # -- the rest

    def reduce(self, fn: str, x: Node, dims: Sequence[int], keepdim: bool, dtype: str) -> Node:
        """A reduction with one result."""
        return self._kept(self._reduce(fn, x, dims, dtype), x, dims, keepdim)

    def reduce_pair(self, fn: str, x: Node, dims: Sequence[int], keepdim: bool, dtypes: tuple[str, str]) -> list[Node]:
        """A reduction with two results."""
        made = self._reduce(fn, x, dims, dtypes[0])
        items = [
            self.node("item", made.shape, dtype, args=(made.name,), dims=(k,), name=f"{made.name}_{part}")
            for k, (dtype, part) in enumerate(zip(dtypes, _PARTS[fn], strict=True))
        ]
        return [self._kept(item, x, dims, keepdim) for item in items]

    def _reduce(self, fn: str, x: Node, dims: Sequence[int], dtype: str) -> Node:
        kept = [size for axis, size in enumerate(x.shape) if axis not in dims]
        return self.node("reduce", kept, dtype, args=(x.name,), fn=fn, dims=tuple(sorted(dims)))

    def _kept(self, result: Node, x: Node, dims: Sequence[int], keepdim: bool) -> Node:
        if not keepdim or not dims:
            return result
        for dim in sorted(dims):
            result = self.unsqueeze(result, dim)
        return result

    def contract(self, a: Node, b: Node, dtype: str) -> Node:
        """The batched matrix product of (B, M, K) and (B, K, N)."""
        shape = (a.shape[0], a.shape[1], b.shape[2])
        return self.node("contract", shape, dtype, args=(a.name, b.name))

    def gather(
        self,
        x: Node,
        shape: Sequence[Expr],
        index: Sequence[Expr],
        indices: Sequence[Node],
        at: Sequence[Sequence[Expr]],
    ) -> Node:
        """Reads ``x`` at coordinates that hold values ``j0, j1, ...`` of index tensors."""
        names = (x.name, *(n.name for n in indices))
        return self.node("gather", shape, x.dtype, args=names, index=tuple(index), at=tuple(tuple(a) for a in at))

    def search(self, x: Node, edges: Node, fn: str) -> Node:
        """How many of the sorted ``edges`` are left of each value; NaN is right of all.

        ``edges`` has one dimension, or the dimensions of ``x`` with another last one.
        """
        compute = promote(x.dtype, edges.dtype)
        return self.node("search", x.shape, "int32", args=(x.name, edges.name), fn=fn, compute=compute)

    def join(self, parts: Sequence[Node], dim: int) -> Node:
        """One argument after the other along a dimension."""
        shape = list(parts[0].shape)
        for part in parts[1:]:
            shape[dim] = shape[dim] + part.shape[dim]
        return self.node("join", shape, parts[0].dtype, args=tuple(p.name for p in parts), dims=(dim,))

    def scan(self, fn: str, x: Node, dim: int, dtype: str) -> Node:
        """Running ``fn`` along a dimension."""
        return self.node("scan", x.shape, dtype, args=(x.name,), fn=fn, dims=(dim,))


_PARTS = {
    "welford": ("mean", "squares"), "softmax": ("max", "sum"), "argmax": ("value", "index"),
    "argmin": ("value", "index"),
}  # fmt: skip


def broadcast(*shapes: tuple[Expr, ...]) -> tuple[Expr, ...]:
    """The shape that all broadcast to.

    Raises:
        TranslateError: two sizes differ and neither is 1.
    """
    rank = max((len(shape) for shape in shapes), default=0)
    result = [ONE] * rank
    for shape in shapes:
        for axis, size in enumerate(shape, rank - len(shape)):
            if size != ONE and result[axis] not in (ONE, size):
                raise TranslateError(f"cannot broadcast the sizes {result[axis]} and {size}: capture more variants")
            if size != ONE:
                result[axis] = size
    return tuple(result)


def broadcast_index(shape: Sequence[Expr], at: Sequence[Expr]) -> list[Expr]:
    """Coordinates of a shape that is broadcast to where ``at`` lives."""
    lead = len(at) - len(shape)
    return [ZERO if size == ONE else at[lead + axis] for axis, size in enumerate(shape)]


def reshape_index(source: list[Expr], target: list[Expr]) -> list[Expr]:
    """Source coordinates of each element of a row-major reshape, group by group of dimensions with equal products."""
    index: list[Expr] = []
    known = extents(target)
    s = t = 0
    while s < len(source):
        left, right = source[s], target[t] if t < len(target) else ONE
        s_end, t_end = s + 1, min(t + 1, len(target))
        while left != right:
            if t_end < len(target) and (divide_exactly(left, right) is not None or s_end == len(source)):
                right, t_end = right * target[t_end], t_end + 1
            elif s_end < len(source):
                left, s_end = left * source[s_end], s_end + 1
            else:
                break
        position = flatten([symbol(f"i{k}") if target[k] != ONE else ZERO for k in range(t, t_end)], target[t:t_end])
        index.extend(unflatten(position, source[s:s_end], known))
        s, t = s_end, t_end
    return index


def lengths(shape: Sequence[Expr]) -> list[Expr]:
    """Elements between neighbours along each dimension of a contiguous tensor."""
    strides, total = [], ONE
    for size in reversed(shape):
        strides.append(total)
        total = total * size
    return strides[::-1]


