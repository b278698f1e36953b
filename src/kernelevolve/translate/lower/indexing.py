"""Lowerings of ops that read at coordinates held in tensors."""

from __future__ import annotations

from kernelevolve.translate.algebra import Node, broadcast, broadcast_index, coordinates
from kernelevolve.translate.expr import Expr, symbol
from kernelevolve.translate.ir import Op
from kernelevolve.translate.lower import Lowering, dtype_of, lowers


def wrapped(c: Lowering, index: Node, size: Expr) -> Node:
    """An index that may count from the end, counted from the front."""
    wide = c.b.cast(index, "int64")
    return c.b.where(c.b.map("lt", wide, 0, dtype="bool"), c.b.map("add", wide, size), wide, "int64")


@lowers("embedding.default")
def _embedding(c: Lowering, op: Op) -> Node:
    weight, index = c.node(op.args[0]), c.node(op.args[1])
    rank = len(index.shape)
    return c.b.gather(
        weight, [*index.shape, weight.shape[1]], [symbol("j0"), symbol(f"i{rank}")], [index], [coordinates(rank)]
    )


@lowers("gather.default")
def _gather(c: Lowering, op: Op) -> Node:
    x, index = c.node(op.args[0]), c.node(op.args[2])
    if not x.shape:
        return x
    at: list[Expr] = list(coordinates(len(x.shape)))
    at[op.args[1] % len(x.shape)] = symbol("j0")
    return c.b.gather(x, index.shape, at, [index], [coordinates(len(index.shape))])


@lowers("index_select.default")
def _index_select(c: Lowering, op: Op) -> Node:
    x, index = c.node(op.args[0]), c.node(op.args[2])
    dim = op.args[1] % len(x.shape)
    at: list[Expr] = list(coordinates(len(x.shape)))
    at[dim] = symbol("j0")
    shape = [index.shape[0] if a == dim else s for a, s in enumerate(x.shape)]
    return c.b.gather(x, shape, at, [index], [[symbol(f"i{dim}")]])


@lowers("index.Tensor", "_unsafe_index.Tensor")
def _index(c: Lowering, op: Op) -> Node:
    x = c.node(op.args[0])
    given = [*op.args[1], *[None] * (len(x.shape) - len(op.args[1]))]
    indices = [None if part is None else c.node(part) for part in given]
    places = [axis for axis, index in enumerate(indices) if index is not None]
    tensors = [index for index in indices if index is not None]
    if any(index.dtype == "bool" for index in tensors):
        raise c.uncovered(op, "a boolean index has a result whose size depends on values")
    block = broadcast(*(index.shape for index in tensors))
    together = places == list(range(places[0], places[-1] + 1))
    start = places[0] if together else 0
    shape: list[Expr] = [s for axis, s in enumerate(x.shape) if axis not in places]
    shape[start:start] = list(block)
    inside = [symbol(f"i{start + k}") for k in range(len(block))]
    rest = [k for k in range(len(shape)) if not start <= k < start + len(block)]
    at: list[Expr] = []
    nodes: list[Node] = []
    for axis, index in enumerate(indices):
        if index is None:
            at.append(symbol(f"i{rest.pop(0)}"))
        else:
            at.append(symbol(f"j{len(nodes)}"))
            nodes.append(wrapped(c, index, x.shape[axis]))
    return c.b.gather(x, shape, at, nodes, [broadcast_index(n.shape, inside) for n in nodes])


@lowers("bucketize.Tensor", "searchsorted.Tensor", "bucketize.Scalar", "searchsorted.Scalar")
def _bucketize(c: Lowering, op: Op) -> Node:
    """How many borders are left of each value; NaN is right of all."""
    first, borders = (op.args[0], op.args[1]) if "bucketize" in op.op else (op.args[1], op.args[0])
    b, edges, given = c.b, c.node(borders), dict(op.kwargs)
    x = c.operand(first)
    x = x if isinstance(x, Node) else b.const(x, edges.dtype)
    if given.get("sorter") is not None:
        raise c.uncovered(op, "borders in an order that a sorter gives")
    right = bool(given.get("right", False)) or given.get("side") == "right"
    return b.cast(b.search(x, edges, "right" if right else "left"), dtype_of(op))


@lowers("nll_loss_forward.default")
def _nll_loss(c: Lowering, op: Op) -> list[Node | None]:
    x, target = c.node(op.args[0]), c.node(op.args[1])
    weight, reduction, ignored = op.args[2], op.args[3], op.args[4]
    if weight is not None or len(x.shape) != 2:
        raise c.uncovered(op, "class weights, or scores that are not (batch, classes)")
    b = c.b
    used = b.map("ne", target, ignored, dtype="bool")
    safe = b.where(used, target, 0, target.dtype)
    picked = b.gather(x, target.shape, [symbol("i0"), symbol("j0")], [safe], [[symbol("i0")]])
    loss = b.where(used, b.map("neg", picked), 0.0, x.dtype)
    total = b.reduce("sum", b.cast(used, x.dtype), [0], False, x.dtype)
    if reduction == 0:
        return [loss, total]
    summed = b.reduce("sum", loss, [0], False, x.dtype)
    return [b.map("div", summed, total) if reduction == 1 else summed, total]


