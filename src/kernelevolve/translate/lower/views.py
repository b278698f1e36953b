"""Lowerings of ops that only rearrange: each becomes index arithmetic, never a copy of its own."""

from __future__ import annotations

from kernelevolve.translate.algebra import Condition, Node, coordinates, extents
from kernelevolve.translate.expr import ZERO, Expr, const, mod, symbol
from kernelevolve.translate.ir import Op, as_expr
from kernelevolve.translate.lower import Lowering, argument, dtype_of, lowers, shape_of


@lowers("view.default", "reshape.default", "_unsafe_view.default", "flatten.using_ints", "unflatten.int")
def _view(c: Lowering, op: Op) -> Node:
    return c.b.reshape(c.node(op.args[0]), shape_of(op))


@lowers("alias.default", "clone.default", "contiguous.default", "detach.default", "lift_fresh_copy.default",
        "lift_fresh.default")  # fmt: skip
def _same(c: Lowering, op: Op) -> Node:
    return c.node(op.args[0])


@lowers("permute.default")
def _permute(c: Lowering, op: Op) -> Node:
    x = c.node(op.args[0])
    return c.b.permute(x, [d % len(x.shape) for d in op.args[1]])


@lowers("transpose.int", "t.default")
def _transpose(c: Lowering, op: Op) -> Node:
    x = c.node(op.args[0])
    rank = len(x.shape)
    dims = list(range(rank))
    if rank >= 2:
        a, b = (op.args[1] % rank, op.args[2] % rank) if len(op.args) > 2 else (0, 1)
        dims[a], dims[b] = dims[b], dims[a]
    return c.b.permute(x, dims)


@lowers("expand.default", "broadcast_to.default")
def _expand(c: Lowering, op: Op) -> Node:
    return c.b.expand(c.node(op.args[0]), shape_of(op))


@lowers("squeeze.dims", "squeeze.dim", "squeeze.default")
def _squeeze(c: Lowering, op: Op) -> Node:
    x = c.node(op.args[0])
    given = op.args[1] if len(op.args) > 1 else tuple(range(len(x.shape)))
    return c.b.squeeze(x, given if isinstance(given, tuple) else (given,))


@lowers("unsqueeze.default")
def _unsqueeze(c: Lowering, op: Op) -> Node:
    return c.b.unsqueeze(c.node(op.args[0]), op.args[1])


@lowers("slice.Tensor")
def _slice(c: Lowering, op: Op) -> Node:
    x = c.node(op.args[0])
    dim = argument(op, 1, "dim", 0) % len(x.shape)
    start, step = argument(op, 2, "start"), argument(op, 4, "step", 1)
    begin = _from_front(c, const(0) if start is None else as_expr(start), x.shape[dim])
    index = coordinates(len(x.shape))
    index[dim] = index[dim] * as_expr(step) + begin
    return c.b.view(x, shape_of(op), index)


def _from_front(c: Lowering, position: Expr, size: Expr) -> Expr:
    value, length = position.value, size.value
    if position.evaluate(c.program.at_full_size()) < 0:
        return size + position
    if value is not None and length is not None:
        return const(min(value, length))
    return position


@lowers("select.int")
def _select(c: Lowering, op: Op) -> Node:
    x = c.node(op.args[0])
    dim = op.args[1] % len(x.shape)
    index = coordinates(len(x.shape) - 1)
    index.insert(dim, _from_front(c, as_expr(op.args[2]), x.shape[dim]))
    return c.b.view(x, [s for a, s in enumerate(x.shape) if a != dim], index)


@lowers("split_with_sizes.default", "split.Tensor", "unbind.int", "chunk.default")
def _split(c: Lowering, op: Op) -> list[Node | None]:
    x = c.node(op.args[0])
    dim = argument(op, 1 if "unbind" in op.op else 2, "dim", 0) % len(x.shape)
    start, parts = ZERO, []
    for position in range(len(op.values)):
        shape = shape_of(op, position)
        rank = len(shape)
        index = coordinates(rank)
        if "unbind" in op.op:
            index.insert(dim, const(position))
        else:
            index[dim] = index[dim] + start
            start = start + shape[dim]
        parts.append(c.b.view(x, shape, index))
    return list(parts)


@lowers("flip.default")
def _flip(c: Lowering, op: Op) -> Node:
    x = c.node(op.args[0])
    index = coordinates(len(x.shape))
    for dim in op.args[1]:
        axis = dim % len(x.shape)
        index[axis] = x.shape[axis] - 1 - index[axis]
    return c.b.view(x, x.shape, index)


@lowers("roll.default")
def _roll(c: Lowering, op: Op) -> Node:
    x = c.node(op.args[0])
    dims = argument(op, 2, "dims", ())
    flat = x if dims else c.b.reshape(x, [x.numel()])
    index = coordinates(len(flat.shape))
    for dim, shift in zip(dims or (0,), op.args[1], strict=True):
        axis = dim % len(flat.shape)
        size = flat.shape[axis]
        back = mod(size - as_expr(shift), size, {}) if size.value is None else const(-shift % size.value)
        if as_expr(shift).value is not None and size.value is None and as_expr(shift).value >= 0:  # type: ignore[operator]
            back = size - as_expr(shift)
        index[axis] = mod(index[axis] + back, size, {})
    return c.b.reshape(c.b.view(flat, flat.shape, index), x.shape)


@lowers("constant_pad_nd.default", "pad.default")
def _pad(c: Lowering, op: Op) -> Node:
    x, widths, fill = c.node(op.args[0]), op.args[1], argument(op, 2, "value", 0)
    if "pad.default" in op.op and argument(op, 2, "mode", "constant") != "constant":
        raise c.uncovered(op, "only constant padding is covered")
    fill = argument(op, 3, "value", 0) if op.op == "aten.pad.default" else fill
    rank = len(x.shape)
    index, where = coordinates(rank), []
    for pair in range(len(widths) // 2):
        axis, before, after = rank - 1 - pair, as_expr(widths[2 * pair]), as_expr(widths[2 * pair + 1])
        index[axis] = index[axis] - before
        lower = None if (before.value or 0) <= 0 and before.value is not None else ZERO
        upper = None if (after.value or 0) <= 0 and after.value is not None else x.shape[axis]
        if lower is not None or upper is not None:
            where.append(Condition(index[axis], lower, upper))
    return c.b.view(x, shape_of(op), index, where, fill or 0)


@lowers("reflection_pad1d.default", "reflection_pad2d.default", "replication_pad1d.default",
        "replication_pad2d.default")  # fmt: skip
def _pad_border(c: Lowering, op: Op) -> Node:
    raise c.uncovered(op, "only constant padding is covered")


@lowers("unfold.default")
def _unfold(c: Lowering, op: Op) -> Node:
    x = c.node(op.args[0])
    dim = op.args[1] % len(x.shape)
    index = coordinates(len(x.shape))
    index[dim] = index[dim] * as_expr(op.args[3]) + symbol(f"i{len(x.shape)}")
    return c.b.view(x, shape_of(op), index)


@lowers("repeat.default", "tile.default")
def _repeat(c: Lowering, op: Op) -> Node:
    x, shape = c.node(op.args[0]), shape_of(op)
    lead = len(shape) - len(x.shape)
    index = [mod(symbol(f"i{lead + a}"), s, extents(shape)) for a, s in enumerate(x.shape)]
    return c.b.view(x, shape, index)


@lowers("cat.default", "concat.default")
def _cat(c: Lowering, op: Op) -> Node:
    parts = [c.node(part) for part in op.args[0]]
    parts = [c.b.cast(p, dtype_of(op)) for p in parts if not (len(p.shape) == 1 and p.shape[0] == ZERO)]
    return c.b.join(parts, argument(op, 1, "dim", 0) % len(shape_of(op)))


@lowers("stack.default")
def _stack(c: Lowering, op: Op) -> Node:
    dim = argument(op, 1, "dim", 0) % len(shape_of(op))
    parts = [c.b.unsqueeze(c.b.cast(c.node(part), dtype_of(op)), dim) for part in op.args[0]]
    return c.b.join(parts, dim)


@lowers("arange.start_step", "arange.start", "arange.default")
def _arange(c: Lowering, op: Op) -> Node:
    start, step = (op.args[0] if len(op.args) > 1 else 0), (op.args[2] if len(op.args) > 2 else 1)
    dtype = dtype_of(op)
    if isinstance(start, float) or isinstance(step, float):
        position = c.b.cast(c.b.iota(symbol("i0"), shape_of(op), "int64"), dtype)
        return c.b.map("add", c.b.map("mul", position, step), start)
    position = c.b.iota(symbol("i0") * as_expr(step) + as_expr(start), shape_of(op), "int64")
    return c.b.cast(position, dtype)


@lowers("tril.default", "triu.default")
def _triangle(c: Lowering, op: Op) -> Node:
    x, diagonal = c.node(op.args[0]), as_expr(argument(op, 1, "diagonal", 0))
    rank = len(x.shape)
    row, column = symbol(f"i{rank - 2}"), symbol(f"i{rank - 1}")
    difference = c.b.iota(column - row, x.shape, "int64")
    keep = c.b.map("le" if "tril" in op.op else "ge", difference, diagonal, dtype="bool")
    return c.b.where(keep, x, 0, x.dtype)


@lowers("diagonal.default")
def _diagonal(c: Lowering, op: Op) -> Node:
    x = c.node(op.args[0])
    rank = len(x.shape)
    offset, first, second = argument(op, 1, "offset", 0), argument(op, 2, "dim1", 0), argument(op, 3, "dim2", 1)
    first, second = first % rank, second % rank
    along = symbol(f"i{rank - 2}")
    index: list[Expr] = []
    rest = iter(coordinates(rank - 2))
    for axis in range(rank):
        if axis == first:
            index.append(along + max(-offset, 0))
        elif axis == second:
            index.append(along + max(offset, 0))
        else:
            index.append(next(rest))
    return c.b.view(x, shape_of(op), index)


