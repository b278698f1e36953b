"""Lowerings of normalisation layers: moments, then pointwise work on them."""

from __future__ import annotations

from typing import Any

from kernelevolve.translate.algebra import Node
from kernelevolve.translate.expr import ONE, Expr, exact
from kernelevolve.translate.ir import Number, Op, as_expr
from kernelevolve.translate.lower import Lowering, argument, dtype_of, lowers
from kernelevolve.translate.lower.reductions import accumulator, count, mean, moments


def _optional(c: Lowering, given: Any) -> Node | None:
    return None if given is None else c.node(given)


def _normalised(c: Lowering, x: Node, centre: Node, variance: Node, eps: float) -> tuple[Node, Node]:
    rstd = c.b.map("rsqrt", c.b.map("add", variance, eps))
    return c.b.map("mul", c.b.map("sub", x, centre), rstd), rstd


def _affine(c: Lowering, y: Node, weight: Node | None, bias: Node | None) -> Node:
    if weight is not None:
        y = c.b.map("mul", y, c.b.cast(weight, y.dtype))
    return y if bias is None else c.b.map("add", y, c.b.cast(bias, y.dtype))


def _along_channel(c: Lowering, x: Node | None, rank: int) -> Node | None:
    """A vector over channels placed at dimension 1 of a tensor of this rank."""
    return None if x is None else c.b.reshape(x, [x.shape[0], *[ONE] * (rank - 2)])


@lowers("native_layer_norm.default")
def _layer_norm(c: Lowering, op: Op) -> list[Node | None]:
    x = c.node(op.args[0])
    weight, bias, eps = _optional(c, op.args[2]), _optional(c, op.args[3]), op.args[4]
    dims = list(range(len(x.shape) - len(op.args[1]), len(x.shape)))
    wide = c.b.cast(x, accumulator(x.dtype))
    centre, variance = moments(c, wide, dims, True)
    y, rstd = _normalised(c, wide, centre, variance, eps)
    return [c.b.cast(_affine(c, y, weight, bias), dtype_of(op)), centre, rstd]


@lowers("_fused_rms_norm.default", "rms_norm.default")
def _rms_norm(c: Lowering, op: Op) -> Node | list[Node | None]:
    x = c.node(op.args[0])
    weight, eps = _optional(c, argument(op, 2, "weight")), argument(op, 3, "eps")
    dims = list(range(len(x.shape) - len(op.args[1]), len(x.shape)))
    wide = c.b.cast(x, accumulator(x.dtype))
    squares = mean(c, c.b.map("mul", wide, wide), dims, True)
    floor = {"float64": 2.220446049250313e-16}.get(x.dtype, 1.1920928955078125e-07)
    rstd = c.b.map("rsqrt", c.b.map("add", squares, floor if eps is None else eps))
    y = c.b.cast(_affine(c, c.b.map("mul", wide, rstd), weight, None), dtype_of(op))
    return [y, rstd] if len(op.values) > 1 else y


@lowers("native_group_norm.default")
def _group_norm(c: Lowering, op: Op) -> list[Node | None]:
    x = c.node(op.args[0])
    weight, bias = _optional(c, op.args[1]), _optional(c, op.args[2])
    groups, eps = as_expr(op.args[6]), op.args[7]
    batch, channels = x.shape[0], x.shape[1]
    inner = [exact(channels, groups), *x.shape[2:]]
    wide = c.b.cast(x, accumulator(x.dtype))
    grouped = c.b.reshape(wide, [batch, groups, *_regrouped(channels, groups, inner)])
    centre, variance = moments(c, grouped, list(range(2, len(grouped.shape))), True)
    y, rstd = _normalised(c, grouped, centre, variance, eps)
    y = c.b.reshape(y, x.shape)
    rank = len(x.shape)
    y = _affine(c, y, _along_channel(c, weight, rank), _along_channel(c, bias, rank))
    return [c.b.cast(y, dtype_of(op)), c.b.reshape(centre, [batch, groups]), c.b.reshape(rstd, [batch, groups])]


def _regrouped(channels: Expr, groups: Expr, inner: list[Expr]) -> list[Expr]:
    """The shape of one group; one flat dimension would need more divisions in the kernel."""
    if groups == channels:
        return inner[1:] or [ONE]
    if groups == ONE:
        return [channels, *inner[1:]]
    return inner


@lowers("_native_batch_norm_legit_functional.default", "_native_batch_norm_legit.no_stats",
        "_native_batch_norm_legit_no_training.default")  # fmt: skip
def _batch_norm(c: Lowering, op: Op) -> list[Node | None]:
    x, b = c.node(op.args[0]), c.b
    weight, bias = _optional(c, op.args[1]), _optional(c, op.args[2])
    rank = len(x.shape)
    wide = b.cast(x, accumulator(x.dtype))
    if "no_training" in op.op:
        running_mean, running_var = c.node(op.args[3]), c.node(op.args[4])
        centre, variance = (_along_channel(c, r, rank) for r in (running_mean, running_var))
        assert centre is not None
        assert variance is not None
        y, _ = _normalised(c, wide, centre, variance, op.args[6])
        y = _affine(c, y, _along_channel(c, weight, rank), _along_channel(c, bias, rank))
        return [b.cast(y, dtype_of(op)), None, None]
    stats = "no_stats" not in op.op
    train, momentum, eps = op.args[5 if stats else 3], op.args[6 if stats else 4], op.args[7 if stats else 5]
    if not train:
        raise c.uncovered(op, "batch norm with the statistics switched off in this form")
    dims = [d for d in range(rank) if d != 1]
    centre, variance = moments(c, wide, dims, True)
    y, rstd = _normalised(c, wide, centre, variance, eps)
    y = _affine(c, y, _along_channel(c, weight, rank), _along_channel(c, bias, rank))
    channel = [x.shape[1]]
    results: list[Node | None] = [b.cast(y, dtype_of(op)), b.reshape(centre, channel), b.reshape(rstd, channel)]
    if stats:
        elements = count(x, dims)
        unbiased = b.map("mul", b.reshape(variance, channel), _unbiased(elements))
        for running, new in ((op.args[3], b.reshape(centre, channel)), (op.args[4], unbiased)):
            old = c.node(running)
            kept = b.map("mul", old, 1.0 - momentum)
            results.append(b.cast(b.map("add", kept, b.map("mul", new, momentum)), old.dtype))
    return results


def _unbiased(elements: Expr) -> float | Number:
    """n / (n - 1)"""
    if elements.value is not None:
        return elements.value / max(elements.value - 1, 1)
    return Number(f"({elements}) / (({elements}) - 1)", 1.0)


