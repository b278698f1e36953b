"""The Triton expression of each pointwise function.

In: argument texts that are names or literals, and the dtype of the computation. Out: an expression, with named
intermediate values where they help accuracy or reading. float16 and bfloat16 are computed in float32.

Accuracy: ``tl.exp`` is within 2 ulp for moderate arguments; ``log1p``, ``expm1`` and ``tanh`` are written so that they
keep relative accuracy near 0 (Kahan's quotients, a series for tanh), without a library call that some targets lack.
"""

from __future__ import annotations

import math
from collections.abc import Callable

Let = Callable[[str, str], str]

#: The dtype in which values of a torch dtype are computed.
COMPUTE = {"float16": "float32", "bfloat16": "float32"}

#: Triton's name of a torch dtype.
TRITON = {"bool": "tl.int1"} | {
    name: f"tl.{name}"
    for name in (
        "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8",
    )
}  # fmt: skip

_INFIX = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">",
    "ge": ">=", "and": "&", "or": "|", "xor": "^", "lshift": "<<", "rshift": ">>",
}  # fmt: skip

_CALL = {
    "abs": "tl.abs", "exp": "tl.exp", "exp2": "tl.exp2", "log": "tl.log", "log2": "tl.log2", "sqrt": "tl.sqrt",
    "rsqrt": "tl.rsqrt", "sin": "tl.sin", "cos": "tl.cos", "erf": "tl.erf", "floor": "tl.floor", "ceil": "tl.ceil",
    "sigmoid": "tl.sigmoid", "asin": "libdevice.asin", "acos": "libdevice.acos", "atan": "libdevice.atan",
    "sinh": "libdevice.sinh", "cosh": "libdevice.cosh", "asinh": "libdevice.asinh", "acosh": "libdevice.acosh",
    "atanh": "libdevice.atanh", "erfc": "libdevice.erfc", "pow": "libdevice.pow", "atan2": "libdevice.atan2",
    "hypot": "libdevice.hypot", "round": "libdevice.rint",
}  # fmt: skip


def literal(value: object, dtype: str) -> str:
    """A number as source."""
    if isinstance(value, bool):
        return str(value) if dtype == "bool" else str(int(value))
    if isinstance(value, float):
        if math.isinf(value) or math.isnan(value):
            return f'float("{value}")'
        return repr(value)
    return str(value)


def function(name: str, args: list[str], dtype: str, let: Let) -> str:
    """The expression of ``name`` applied to ``args``.

    Args:
        name: the algebra's function.
        args: names or literals.
        dtype: the torch dtype in which to compute.
        let: binds an expression to a fresh name that starts with the given one.

    Raises:
        KeyError: there is no such function.
    """
    if name in _INFIX:
        return f"{args[0]} {_INFIX[name]} {args[1]}"
    if name in _CALL and not (name in ("floor", "ceil", "round") and "int" in dtype):
        return f"{_CALL[name]}({', '.join(args)})"
    return _SPECIAL[name](args, dtype, let)


def _tanh(args: list[str], dtype: str, let: Let) -> str:
    x = args[0]
    if dtype == "float64":
        return f"libdevice.tanh({x})"
    square = let("square", f"{x} * {x}")
    small = let(
        "near_zero",
        f"{x} * (1.0 + {square} * (-0.33333333 + {square} * "
        f"(0.13333333 + {square} * (-0.05396825 + {square} * 0.02186949))))",
    )
    decay = let("decay", f"tl.exp(-2.0 * tl.abs({x}))")
    large = let("tail", f"(1.0 - {decay}) / (1.0 + {decay})")
    return f"tl.where({square} < 0.0625, {small}, tl.where({x} < 0, -{large}, {large}))"


def _log1p(args: list[str], dtype: str, let: Let) -> str:
    shifted = let("shifted", f"1.0 + {args[0]}")
    exact = let("log_ratio", f"tl.log({shifted}) * ({args[0]} / ({shifted} - 1.0))")
    return f'tl.where({shifted} == 1.0, {args[0]}, tl.where({shifted} == float("inf"), {shifted}, {exact}))'


def _expm1(args: list[str], dtype: str, let: Let) -> str:
    x = args[0]
    if dtype == "float64":
        return f"libdevice.expm1({x})"
    small = let(
        "series",
        f"{x} * (1.0 + {x} * (0.5 + {x} * (0.16666667 + {x} * "
        f"(0.041666668 + {x} * (0.008333334 + {x} * 0.0013888889)))))",
    )
    return f"tl.where(tl.abs({x}) < 0.35, {small}, tl.exp({x}) - 1.0)"


def _gelu(args: list[str], dtype: str, let: Let) -> str:
    return f"0.5 * {args[0]} * (1.0 + tl.erf({args[0]} * 0.7071067811865476))"


def _gelu_tanh(args: list[str], dtype: str, let: Let) -> str:
    x = args[0]
    inner = let("inner", f"0.7978845608028654 * ({x} + 0.044715 * {x} * {x} * {x})")
    return f"{x} * tl.sigmoid(2.0 * {inner})"


def _mish(args: list[str], dtype: str, let: Let) -> str:
    """tanh(log(1 + e)) = (e^2 + 2 e) / (e^2 + 2 e + 2) with e = exp(x)."""
    x = args[0]
    e = let("growth", f"tl.exp(tl.minimum({x}, 20.0))")
    ratio = let("ratio", f"{e} * ({e} + 2.0)")
    return f"{x} * ({ratio} / ({ratio} + 2.0))"


def _floordiv(args: list[str], dtype: str, let: Let) -> str:
    a, b = args
    if "int" not in dtype:
        return f"tl.floor({a} / {b})"
    quotient, rest = let("quotient", f"{a} // {b}"), let("rest", f"{a} % {b}")
    return f"tl.where(({rest} != 0) & (({rest} < 0) != ({b} < 0)), {quotient} - 1, {quotient})"


def _remainder(args: list[str], dtype: str, let: Let) -> str:
    a, b = args
    if "int" not in dtype:
        return f"{a} - {b} * tl.floor({a} / {b})"
    rest = let("rest", f"{a} % {b}")
    return f"tl.where(({rest} != 0) & (({rest} < 0) != ({b} < 0)), {rest} + {b}, {rest})"


def _truncdiv(args: list[str], dtype: str, let: Let) -> str:
    if "int" in dtype:
        return f"{args[0]} // {args[1]}"
    ratio = let("ratio", f"{args[0]} / {args[1]}")
    return _trunc([ratio], dtype, let)


def _trunc(args: list[str], dtype: str, let: Let) -> str:
    if "int" in dtype:
        return args[0]
    return f"tl.where({args[0]} < 0, tl.ceil({args[0]}), tl.floor({args[0]}))"


def _extreme(kind: str) -> Callable[[list[str], str, Let], str]:
    def write(args: list[str], dtype: str, let: Let) -> str:
        if "float" in dtype:
            return f"tl.{kind}({args[0]}, {args[1]}, propagate_nan=tl.PropagateNan.ALL)"
        return f"tl.{kind}({args[0]}, {args[1]})"

    return write


_SPECIAL: dict[str, Callable[[list[str], str, Let], str]] = {
    "neg": lambda a, d, let: f"-{a[0]}",
    "not": lambda a, d, let: f"{a[0]} == 0" if d == "bool" else f"~{a[0]}",
    "relu": lambda a, d, let: f"tl.where({a[0]} < 0, {'0.0' if 'float' in d else '0'}, {a[0]})",
    "reciprocal": lambda a, d, let: f"1.0 / {a[0]}",
    "log10": lambda a, d, let: f"tl.log({a[0]}) * 0.4342944819032518",
    "sign": lambda a, d, let: f"({a[0]} > 0).to({TRITON[d]}) - ({a[0]} < 0).to({TRITON[d]})",
    "tan": lambda a, d, let: f"tl.sin({a[0]}) / tl.cos({a[0]})",
    "tanh": _tanh,
    "log1p": _log1p,
    "expm1": _expm1,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "mish": _mish,
    "floordiv": _floordiv,
    "truncdiv": _truncdiv,
    "remainder": _remainder,
    "fmod": lambda a, d, let: f"{a[0]} % {a[1]}",
    "trunc": _trunc,
    "floor": lambda a, d, let: a[0],
    "ceil": lambda a, d, let: a[0],
    "round": lambda a, d, let: a[0],
    "maximum": _extreme("maximum"),
    "minimum": _extreme("minimum"),
    "where": lambda a, d, let: f"tl.where({a[0]}, {a[1]}, {a[2]})",
    "isnan": lambda a, d, let: f"{a[0]} != {a[0]}",
    "isinf": lambda a, d, let: f'tl.abs({a[0]}) == float("inf")',
    "isfinite": lambda a, d, let: f'tl.abs({a[0]}) < float("inf")',
}
