"""Lowerings of reductions and scans."""

from __future__ import annotations

import math
from typing import Any

from kernelevolve.translate.algebra import Node, is_float
from kernelevolve.translate.expr import ONE, Expr, product
from kernelevolve.translate.ir import Number, Op
from kernelevolve.translate.lower import Lowering, argument, dims_of, dtype_of, lowers


def accumulator(dtype: str) -> str:
    """The dtype in which values of a dtype are summed."""
    return {"float16": "float32", "bfloat16": "float32", "bool": "int64"}.get(dtype, dtype)


def count(x: Node, dims: list[int]) -> Expr:
    """How many elements a reduction takes together."""
    return product([x.shape[d] for d in dims])


def over(c: Lowering, x: Node, elements: Expr, correction: float = 0) -> Node:
    """The value divided by a number of elements."""
    value: Any = elements.value
    if value is not None:
        below = value - correction
        return c.b.map("mul", x, 1.0 / below if below else math.nan)
    divisor = f"({elements})" if not correction else f"(({elements}) - {correction})"
    return c.b.map("mul", x, Number(f"1.0 / {divisor}", 0.0))


def mean(c: Lowering, x: Node, dims: list[int], keepdim: bool) -> Node:
    """The mean, in the accumulator's dtype."""
    wide = c.b.cast(x, accumulator(x.dtype))
    return over(c, c.b.reduce("sum", wide, dims, keepdim, wide.dtype), count(x, dims))


def moments(c: Lowering, x: Node, dims: list[int], keepdim: bool, correction: float = 0) -> tuple[Node, Node]:
    """(mean, variance), in the accumulator's dtype, by Welford's method."""
    wide = accumulator(x.dtype)
    centre, squares = c.b.reduce_pair("welford", c.b.cast(x, wide), dims, keepdim, (wide, wide))
    return centre, over(c, squares, count(x, dims), correction)


@lowers("sum.default", "sum.dim_IntList", "prod.default", "prod.dim_int", "amax.default", "amin.default",
        "max.default", "min.default", "any.default", "any.dim", "any.dims", "all.default", "all.dim", "all.dims",
        "mean.default", "mean.dim")  # fmt: skip
def _reduce(c: Lowering, op: Op) -> Node:
    x, dtype = c.node(op.args[0]), dtype_of(op)
    name = op.op.split(".")[1]
    keepdim = bool(argument(op, 2, "keepdim", False))
    dims = dims_of(argument(op, 1, "dim"), len(x.shape))
    fn = {"amax": "max", "amin": "min", "mean": "sum"}.get(name, name)
    if not dims:
        return c.b.cast(x, dtype)
    if name == "mean":
        wide = c.b.cast(x, accumulator(dtype))
        return c.b.cast(over(c, c.b.reduce("sum", wide, dims, keepdim, wide.dtype), count(x, dims)), dtype)
    compute = "bool" if fn in ("any", "all") else accumulator(dtype) if fn in ("sum", "prod") else x.dtype
    return c.b.cast(c.b.reduce(fn, c.b.cast(x, compute), dims, keepdim, compute), dtype)


@lowers("max.dim", "min.dim")
def _max_dim(c: Lowering, op: Op) -> list[Node | None]:
    x = c.node(op.args[0])
    dims = dims_of(op.args[1], len(x.shape))
    fn = "argmax" if "max" in op.op else "argmin"
    keepdim = bool(argument(op, 2, "keepdim", False))
    if not dims:
        return [x, c.b.const(0, "int64")]
    value, index = c.b.reduce_pair(fn, x, dims, keepdim, (x.dtype, "int64"))
    return [value, index]


@lowers("argmax.default", "argmin.default")
def _argmax(c: Lowering, op: Op) -> Node:
    x, dim = c.node(op.args[0]), argument(op, 1, "dim")
    keepdim = bool(argument(op, 2, "keepdim", False))
    rank = len(x.shape)
    if dim is None:
        flat = c.b.reshape(x, [x.numel()])
        found = c.b.reduce_pair(op.op.split(".")[1], flat, [0], False, (x.dtype, "int64"))[1]
        return c.b.reshape(found, [ONE] * rank) if keepdim else found
    return c.b.reduce_pair(op.op.split(".")[1], x, dims_of(dim, rank), keepdim, (x.dtype, "int64"))[1]


@lowers("var.correction", "var.dim", "var_mean.correction", "std.correction", "std.dim")
def _var(c: Lowering, op: Op) -> Node | list[Node | None]:
    x = c.node(op.args[0])
    dims = dims_of(argument(op, 1, "dim"), len(x.shape))
    given = dict(op.kwargs)
    correction = given.get("correction", 1)
    if op.op.endswith(".dim"):
        correction = 1 if argument(op, 2, "unbiased", True) else 0
    keepdim = bool(given.get("keepdim", argument(op, 3, "keepdim", False)))
    centre, variance = moments(c, x, dims, keepdim, 1 if correction is None else correction)
    if "std" in op.op:
        variance = c.b.map("sqrt", variance)
    if "var_mean" in op.op:
        return [c.b.cast(variance, dtype_of(op)), c.b.cast(centre, dtype_of(op, 1))]
    return c.b.cast(variance, dtype_of(op))


@lowers("linalg_vector_norm.default", "norm.ScalarOpt_dim", "norm.Scalar")
def _norm(c: Lowering, op: Op) -> Node:
    x, dtype, b = c.node(op.args[0]), dtype_of(op), c.b
    order = argument(op, 1, "ord", 2)
    order = 2 if order is None else order
    dims = dims_of(argument(op, 2, "dim"), len(x.shape))
    keepdim = bool(argument(op, 3, "keepdim", False))
    wide = b.cast(x, accumulator(dtype))
    if order in (math.inf, -math.inf):
        found = b.reduce("max" if order > 0 else "min", b.map("abs", wide), dims, keepdim, wide.dtype)
        return b.cast(found, dtype)
    if order == 2:
        return b.cast(b.map("sqrt", b.reduce("sum", b.map("mul", wide, wide), dims, keepdim, wide.dtype)), dtype)
    if order == 1:
        return b.cast(b.reduce("sum", b.map("abs", wide), dims, keepdim, wide.dtype), dtype)
    if order == 0:
        present = b.cast(b.map("ne", wide, 0, dtype="bool"), wide.dtype)
        return b.cast(b.reduce("sum", present, dims, keepdim, wide.dtype), dtype)
    powers = b.reduce("sum", b.map("pow", b.map("abs", wide), float(order)), dims, keepdim, wide.dtype)
    return b.cast(b.map("pow", powers, 1.0 / order), dtype)


@lowers("logsumexp.default")
def _logsumexp(c: Lowering, op: Op) -> Node:
    x, b = c.node(op.args[0]), c.b
    wide = b.cast(x, accumulator(dtype_of(op)))
    dims = dims_of(op.args[1], len(x.shape))
    top, total = b.reduce_pair("softmax", wide, dims, bool(argument(op, 2, "keepdim", False)), (wide.dtype, wide.dtype))
    return b.cast(b.map("add", top, b.map("log", total)), dtype_of(op))


@lowers("_softmax.default", "_log_softmax.default", "softmax.int", "log_softmax.int", "_safe_softmax.default")
def _softmax(c: Lowering, op: Op) -> Node:
    return softmax(c, c.node(op.args[0]), op.args[1], dtype_of(op), "log" in op.op, "safe" in op.op)


def softmax(c: Lowering, x: Node, dim: int, dtype: str, logarithm: bool = False, safe: bool = False) -> Node:
    """exp(x - max) / sum(exp(x - max)) along a dimension, or its logarithm; ``safe`` gives 0 for rows of -inf."""
    b = c.b
    wide = b.cast(x, accumulator(dtype))
    top, total = b.reduce_pair("softmax", wide, dims_of(dim, len(x.shape)), True, (wide.dtype, wide.dtype))
    shifted = b.map("sub", wide, top)
    if logarithm:
        return b.cast(b.map("sub", shifted, b.map("log", total)), dtype)
    share = b.map("div", b.map("exp", shifted), total)
    if safe:
        share = b.where(b.map("gt", total, 0.0, dtype="bool"), share, 0.0, wide.dtype)
    return b.cast(share, dtype)


@lowers("cumsum.default", "cumprod.default")
def _scan(c: Lowering, op: Op) -> Node:
    x, dtype = c.node(op.args[0]), dtype_of(op)
    if not x.shape:
        return c.b.cast(x, dtype)
    wide = c.b.cast(x, accumulator(dtype))
    fn = "sum" if "cumsum" in op.op else "prod"
    return c.b.cast(c.b.scan(fn, wide, op.args[1] % len(x.shape), wide.dtype), dtype)


__all__ = ["accumulator", "count", "is_float", "mean", "moments", "over", "softmax"]
