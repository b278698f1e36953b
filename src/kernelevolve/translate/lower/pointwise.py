"""Lowerings of elementwise ops: type promotion, then one map (or a few) per op."""

from __future__ import annotations

import math
from typing import Any

from kernelevolve.translate.algebra import Node, is_float, promote
from kernelevolve.translate.ir import Op
from kernelevolve.translate.lower import Lowering, argument, dtype_of, lowers, shape_of

#: Ops that are one function of one argument in the result's dtype.
_UNARY = {
    "abs": "abs", "neg": "neg", "exp": "exp", "exp2": "exp2", "expm1": "expm1", "log": "log", "log2": "log2",
    "log10": "log10", "log1p": "log1p", "sqrt": "sqrt", "rsqrt": "rsqrt", "reciprocal": "reciprocal", "sin": "sin",
    "cos": "cos", "tan": "tan", "tanh": "tanh", "sigmoid": "sigmoid", "erf": "erf", "floor": "floor", "ceil": "ceil",
    "trunc": "trunc", "round": "round", "sign": "sign", "sgn": "sign", "asin": "asin", "acos": "acos", "atan": "atan",
    "sinh": "sinh", "cosh": "cosh", "asinh": "asinh", "acosh": "acosh", "atanh": "atanh", "erfc": "erfc",
    "bitwise_not": "not", "relu": "relu",
}  # fmt: skip

#: Ops that are one function of two arguments in the result's dtype.
_BINARY = {
    "mul.Tensor": "mul", "mul.Scalar": "mul", "div.Tensor": "div", "div.Scalar": "div", "maximum.default": "maximum",
    "minimum.default": "minimum", "fmod.Tensor": "fmod", "fmod.Scalar": "fmod", "remainder.Tensor": "remainder",
    "remainder.Scalar": "remainder", "bitwise_and.Tensor": "and", "bitwise_or.Tensor": "or",
    "bitwise_xor.Tensor": "xor", "bitwise_and.Scalar": "and", "bitwise_or.Scalar": "or", "bitwise_xor.Scalar": "xor",
    "bitwise_left_shift.Tensor": "lshift", "bitwise_right_shift.Tensor": "rshift",
    "__lshift__.Scalar": "lshift", "__rshift__.Scalar": "rshift", "__lshift__.Tensor": "lshift",
    "__rshift__.Tensor": "rshift", "bitwise_left_shift.Tensor_Scalar": "lshift",
    "bitwise_right_shift.Tensor_Scalar": "rshift", "atan2.default": "atan2", "hypot.default": "hypot",
    "floor_divide.default": "floordiv",
}  # fmt: skip

_COMPARE = ("eq", "ne", "lt", "le", "gt", "ge")


def _operands(c: Lowering, op: Op) -> list[Any]:
    return [c.operand(arg) for arg in op.args]


@lowers(*(f"{name}.default" for name in _UNARY))
def _unary(c: Lowering, op: Op) -> Node:
    fn = _UNARY[op.op.removeprefix("aten.").partition(".")[0]]
    return c.b.map(fn, c.node(op.args[0]), compute=dtype_of(op))


@lowers(*_BINARY)
def _binary(c: Lowering, op: Op) -> Node:
    a, b = _operands(c, op)[:2]
    return c.b.map(_BINARY[op.op.removeprefix("aten.")], a, b, compute=dtype_of(op))


@lowers("add.Tensor", "add.Scalar", "sub.Tensor", "sub.Scalar", "rsub.Scalar", "rsub.Tensor")
def _add(c: Lowering, op: Op) -> Node:
    a, b = _operands(c, op)[:2]
    alpha = argument(op, 2, "alpha", 1)
    if op.op.startswith("aten.rsub"):
        a, b = b, a
    dtype = dtype_of(op)
    if alpha != 1:
        b = c.b.map("mul", b, alpha, compute=dtype)
    if dtype == "bool":
        return c.b.map("or", a, b, compute=dtype)
    return c.b.map("add" if ".add." in op.op else "sub", a, b, compute=dtype)


@lowers(*(f"{name}.{kind}" for name in _COMPARE for kind in ("Tensor", "Scalar")))
def _compare(c: Lowering, op: Op) -> Node:
    a, b = _operands(c, op)
    compute = a.dtype
    if isinstance(b, Node):
        compute = promote(a.dtype, b.dtype) if b.shape and a.shape else _weak(a, b)
    elif isinstance(b, float) and not is_float(compute):
        compute = "float32"
    elif compute == "bool" and not isinstance(b, bool):
        compute = "int64"
    return c.b.map(op.op.split(".")[1], a, b, dtype="bool", compute=compute)


def _weak(a: Node, b: Node) -> str:
    """A tensor without dimensions changes the other's dtype only where its category is higher."""
    strong, weak = (a, b) if a.shape else (b, a)
    if strong.shape and (is_float(strong.dtype) or not is_float(weak.dtype)) and strong.dtype != "bool":
        return strong.dtype
    return promote(a.dtype, b.dtype)


@lowers("logical_not.default")
def _logical_not(c: Lowering, op: Op) -> Node:
    x = c.node(op.args[0])
    return c.b.map("eq", x, 0, dtype="bool", compute=x.dtype)


@lowers("logical_and.default", "logical_or.default", "logical_xor.default")
def _logical(c: Lowering, op: Op) -> Node:
    a, b = (c.b.cast(c.node(arg), "bool") for arg in op.args)
    return c.b.map(op.op.split(".")[1].removeprefix("logical_"), a, b, compute="bool")


@lowers("isnan.default", "isinf.default", "isfinite.default")
def _is(c: Lowering, op: Op) -> Node:
    x = c.node(op.args[0])
    return c.b.map(op.op.split(".")[1], x, dtype="bool", compute=x.dtype)


@lowers("where.self", "where.ScalarOther", "where.ScalarSelf", "where.Scalar")
def _where(c: Lowering, op: Op) -> Node:
    condition, yes, no = _operands(c, op)
    return c.b.where(condition, yes, no, dtype_of(op))


@lowers("clamp.default", "clamp.Tensor", "hardtanh.default", "clamp_min.default", "clamp_max.default",
        "clamp_min.Tensor", "clamp_max.Tensor")  # fmt: skip
def _clamp(c: Lowering, op: Op) -> Node:
    x, dtype = c.node(op.args[0]), dtype_of(op)
    low, high = argument(op, 1, "min"), argument(op, 2, "max")
    if "hardtanh" in op.op:
        low, high = argument(op, 1, "min_val", -1.0), argument(op, 2, "max_val", 1.0)
    if "clamp_max" in op.op:
        low, high = None, argument(op, 1, "max")
    for bound, fn in ((low, "maximum"), (high, "minimum")):
        if bound is not None:
            x = c.b.map(fn, x, c.operand(bound), compute=dtype)
    return c.b.cast(x, dtype)


@lowers("pow.Tensor_Scalar", "pow.Tensor_Tensor", "pow.Scalar")
def _pow(c: Lowering, op: Op) -> Node:
    base, exponent = _operands(c, op)
    dtype = dtype_of(op)
    b = c.b
    if isinstance(exponent, int | float) and isinstance(base, Node):
        x = b.cast(base, dtype)
        if exponent == 0:
            return b.const(1, dtype, x.shape)
        if exponent == int(exponent) and 1 <= abs(exponent) <= 4:
            power = x
            for _ in range(abs(int(exponent)) - 1):
                power = b.map("mul", power, x)
            return power if exponent > 0 else b.map("reciprocal", power)
        if exponent in (0.5, -0.5):
            return b.map("sqrt" if exponent > 0 else "rsqrt", x)
    if not is_float(dtype):
        raise c.uncovered(op, f"an integer power with the exponent {exponent!r}")
    return b.map("pow", base, exponent, compute=dtype)


@lowers("div.Tensor_mode", "div.Scalar_mode")
def _div_mode(c: Lowering, op: Op) -> Node:
    a, b = _operands(c, op)[:2]
    mode = argument(op, 2, "rounding_mode")
    dtype = dtype_of(op)
    if mode == "floor":
        return c.b.map("floordiv", a, b, compute=dtype)
    if mode == "trunc":
        return c.b.map("truncdiv", a, b, compute=dtype)
    return c.b.map("div", a, b, compute=dtype)


@lowers("_to_copy.default", "to.dtype", "_to_copy.dtype", "prims.convert_element_type.default")
def _to_copy(c: Lowering, op: Op) -> Node:
    return c.b.cast(c.node(op.args[0]), dtype_of(op))


@lowers("gelu.default")
def _gelu(c: Lowering, op: Op) -> Node:
    approximate = argument(op, 1, "approximate", "none")
    return c.b.map("gelu_tanh" if approximate == "tanh" else "gelu", c.node(op.args[0]), compute=dtype_of(op))


@lowers("silu.default")
def _silu(c: Lowering, op: Op) -> Node:
    x = c.node(op.args[0])
    return c.b.map("mul", x, c.b.map("sigmoid", x))


@lowers("elu.default")
def _elu(c: Lowering, op: Op) -> Node:
    x, b, dtype = c.node(op.args[0]), c.b, dtype_of(op)
    alpha, scale, input_scale = (argument(op, k, n, 1) for k, n in ((1, "alpha"), (2, "scale"), (3, "input_scale")))
    inner = b.map("expm1", x if input_scale == 1 else b.map("mul", x, input_scale))
    negative = b.map("mul", inner, _times(alpha, scale)) if _times(alpha, scale) != 1 else inner
    positive = b.map("mul", x, scale) if scale != 1 else x
    return b.where(b.map("gt", x, 0, dtype="bool"), positive, negative, dtype)


def _times(a: float, b: float) -> float:
    return a * b


@lowers("leaky_relu.default")
def _leaky_relu(c: Lowering, op: Op) -> Node:
    x, b = c.node(op.args[0]), c.b
    negative = b.map("mul", x, argument(op, 1, "negative_slope", 0.01))
    return b.where(b.map("gt", x, 0, dtype="bool"), x, negative, x.dtype)


@lowers("softplus.default")
def _softplus(c: Lowering, op: Op) -> Node:
    x, b = c.node(op.args[0]), c.b
    beta, threshold = argument(op, 1, "beta", 1), argument(op, 2, "threshold", 20)
    scaled = x if beta == 1 else b.map("mul", x, beta)
    soft = b.map("log1p", b.map("exp", scaled))
    soft = soft if beta == 1 else b.map("div", soft, beta)
    return b.where(b.map("gt", scaled, threshold, dtype="bool"), x, soft, x.dtype)


@lowers("mish.default")
def _mish(c: Lowering, op: Op) -> Node:
    return c.b.map("mish", c.node(op.args[0]))


@lowers("hardswish.default", "hardsigmoid.default")
def _hard(c: Lowering, op: Op) -> Node:
    x, b = c.node(op.args[0]), c.b
    gate = b.map("minimum", b.map("maximum", b.map("add", x, 3.0), 0.0), 6.0)
    if "hardswish" in op.op:
        gate = b.map("mul", x, gate)
    return b.map("mul", gate, 1.0 / 6.0)


@lowers("log_sigmoid_forward.default")
def _log_sigmoid(c: Lowering, op: Op) -> list[Node | None]:
    x, b = c.node(op.args[0]), c.b
    tail = b.map("log1p", b.map("exp", b.map("neg", b.map("abs", x))))
    return [b.map("sub", b.map("minimum", x, 0.0), tail), None]


@lowers("native_dropout.default")
def _native_dropout(c: Lowering, op: Op) -> list[Node | None]:
    probability, train = op.args[1], op.args[2]
    if train and probability:
        raise c.uncovered(op, f"dropout with probability {probability} in train mode draws random numbers")
    return [c.node(op.args[0]), c.b.const(True, "bool", shape_of(op, 1))]


@lowers("full.default", "full_like.default", "scalar_tensor.default", "zeros.default", "ones.default",
        "zeros_like.default", "ones_like.default", "new_zeros.default", "new_ones.default", "new_full.default",
        "empty.memory_format", "empty_like.default")  # fmt: skip
def _full(c: Lowering, op: Op) -> Node:
    name = op.op.split(".")[1]
    if name == "scalar_tensor":
        value = op.args[0]
    elif "full" in name:
        value = argument(op, 2 if name == "new_full" else 1, "fill_value")
    else:
        value = 1 if "ones" in name else 0
    if isinstance(value, float) and math.isnan(value):
        return c.b.const(float("nan"), dtype_of(op), shape_of(op))
    return c.b.const(c.operand(value), dtype_of(op), shape_of(op))


@lowers("lerp.Scalar")
def _lerp(c: Lowering, op: Op) -> Node:
    a, b, weight = _operands(c, op)
    return c.b.map("add", a, c.b.map("mul", c.b.map("sub", b, a), weight))


@lowers("addcmul.default", "addcdiv.default")
def _addc(c: Lowering, op: Op) -> Node:
    x, a, b = _operands(c, op)[:3]
    value = argument(op, 3, "value", 1)
    term = c.b.map("mul" if "addcmul" in op.op else "div", a, b, compute=dtype_of(op))
    return c.b.map("add", x, term if value == 1 else c.b.map("mul", term, value), compute=dtype_of(op))


