"""Lowerings of matrix products and attention."""

from __future__ import annotations

import math
from typing import Any

from kernelevolve.translate.algebra import Node
from kernelevolve.translate.expr import ONE, Expr, product, symbol
from kernelevolve.translate.ir import Number, Op
from kernelevolve.translate.lower import Lowering, argument, dtype_of, lowers, shape_of
from kernelevolve.translate.lower.deep import in_parts
from kernelevolve.translate.lower.reductions import accumulator, softmax


def matrix_product(c: Lowering, a: Node, b: Node, dtype: str) -> Node:
    """a @ b of equal rank 2 or 3, accumulated wide; a product with a vector becomes a reduction."""
    wide = accumulator(dtype)
    flat = len(a.shape) == 2
    if flat:
        a, b = c.b.unsqueeze(a, 0), c.b.unsqueeze(b, 0)
    if a.shape[2] == ONE:
        out = c.b.map("mul", c.b.cast(a, wide), c.b.cast(b, wide))
    elif ONE in (a.shape[1], b.shape[2]):
        left = c.b.unsqueeze(c.b.cast(a, wide), 2)
        right = c.b.unsqueeze(c.b.permute(c.b.cast(b, wide), [0, 2, 1]), 1)
        out = c.b.reduce("sum", c.b.map("mul", left, right), [3], False, wide)
    elif dtype.startswith("int"):
        raise ValueError(dtype)
    else:
        parts = in_parts(c, a, b, wide)
        out = c.b.contract(a, b, wide) if parts is None else parts
    return c.b.squeeze(out, [0]) if flat else out


def _product(c: Lowering, op: Op, a: Node, b: Node) -> Node:
    if "float" not in dtype_of(op):
        raise c.uncovered(op, f"a matrix product of {dtype_of(op)}")
    return matrix_product(c, a, b, dtype_of(op))


@lowers("mm.default", "bmm.default", "matmul.default")
def _mm(c: Lowering, op: Op) -> Node:
    a, b = c.node(op.args[0]), c.node(op.args[1])
    if len(a.shape) != len(b.shape) or len(a.shape) not in (2, 3):
        raise c.uncovered(op, f"operands of {len(a.shape)} and {len(b.shape)} dimensions")
    return c.b.cast(_product(c, op, a, b), dtype_of(op))


@lowers("addmm.default", "baddbmm.default")
def _addmm(c: Lowering, op: Op) -> Node:
    bias, a, b = (c.node(arg) for arg in op.args[:3])
    beta, alpha = argument(op, 3, "beta", 1), argument(op, 4, "alpha", 1)
    out = _product(c, op, a, b)
    if alpha != 1:
        out = c.b.map("mul", out, alpha)
    if beta != 0:
        bias = c.b.cast(bias, out.dtype)
        out = c.b.map("add", out, bias if beta == 1 else c.b.map("mul", bias, beta))
    return c.b.cast(out, dtype_of(op))


@lowers("linear.default")
def _linear(c: Lowering, op: Op) -> Node:
    x, weight = c.node(op.args[0]), c.node(op.args[1])
    bias = argument(op, 2, "bias")
    rows = c.b.reshape(x, [product(x.shape[:-1]), x.shape[-1]])
    out = _product(c, op, rows, c.b.permute(weight, [1, 0]))
    if bias is not None:
        out = c.b.map("add", out, c.b.cast(c.node(bias), out.dtype))
    return c.b.reshape(c.b.cast(out, dtype_of(op)), shape_of(op))


@lowers("dot.default", "mv.default", "vdot.default")
def _dot(c: Lowering, op: Op) -> Node:
    a, b = c.node(op.args[0]), c.node(op.args[1])
    wide = accumulator(dtype_of(op))
    terms = c.b.map("mul", c.b.cast(a, wide), c.b.cast(b, wide))
    return c.b.cast(c.b.reduce("sum", terms, [len(a.shape) - 1], False, wide), dtype_of(op))


@lowers("scaled_dot_product_attention.default")
def _attention(c: Lowering, op: Op) -> Node:
    q, k, v = (c.node(arg) for arg in op.args[:3])
    given = dict(op.kwargs)
    mask, dropout = argument(op, 3, "attn_mask"), argument(op, 4, "dropout_p", 0.0)
    causal, scale = argument(op, 5, "is_causal", False), given.get("scale")
    if dropout or given.get("enable_gqa"):
        raise c.uncovered(op, "dropout and grouped queries are not covered")
    lead = q.shape[:-2]
    if k.shape[:-2] != lead or v.shape[:-2] != lead:
        raise c.uncovered(op, "queries, keys and values with different leading dimensions")
    heads = product(lead)
    rows, columns, width = q.shape[-2], k.shape[-2], q.shape[-1]
    b = c.b
    scores = matrix_product(
        c,
        b.reshape(q, [heads, rows, width]),
        b.permute(b.reshape(k, [heads, columns, width]), [0, 2, 1]),
        q.dtype,
    )
    scores = b.map("mul", scores, _scale(scale, width))
    scores = b.reshape(scores, [*lead, rows, columns])
    if causal:
        position = b.iota(symbol(f"i{len(lead) + 1}") - symbol(f"i{len(lead)}"), scores.shape, "int64")
        scores = b.where(b.map("le", position, 0, dtype="bool"), scores, -math.inf, scores.dtype)
    if mask is not None:
        given_mask = c.node(mask)
        if given_mask.dtype == "bool":
            scores = b.where(given_mask, scores, -math.inf, scores.dtype)
        else:
            scores = b.map("add", scores, b.cast(given_mask, scores.dtype))
    shares = softmax(c, scores, -1, scores.dtype, safe=mask is not None)
    shares = b.cast(b.reshape(shares, [heads, rows, columns]), q.dtype)
    out = matrix_product(c, shares, b.reshape(v, [heads, columns, v.shape[-1]]), q.dtype)
    return b.reshape(b.cast(out, dtype_of(op)), shape_of(op))


def _scale(given: Any, width: Expr) -> Any:
    if given is not None:
        return given
    return width.value**-0.5 if width.value is not None else Number(f"({width}) ** -0.5", 0.0)
