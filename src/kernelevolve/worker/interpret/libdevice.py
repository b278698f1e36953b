"""Device library functions by symbol: NVIDIA's libdevice (``__nv_*``) and AMD's OCML (``__ocml_*``) with
Triton's additions to it (``__triton_hip_*``).

Comes in: a symbol, argument handles and the result type. Goes out: the result, computed in float64 and rounded once, so
that fast and approximate variants are given correctly rounded. A symbol that is in no table is refused by name.
Signatures are Triton's own; they are left to its libdevice modules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from .arithmetic import fused
from .conversions import unsigned
from .errors import CannotBeSeen
from .formats import INT1, INT32, Array, Scalar
from .values import Handle, candidate_line

Function = Callable[..., Array]


def _torch(function: Callable[[torch.Tensor], torch.Tensor]) -> Function:
    return lambda x: function(torch.from_numpy(np.array(x))).numpy()


def _scalarwise(function: Callable[[float], float]) -> Function:
    return np.vectorize(function, otypes=[np.float64])


def _gamma(x: float) -> float:
    if math.isnan(x) or (x <= 0 and x == math.floor(x)):
        return math.copysign(math.inf, x) if x == 0 else math.nan
    if x > 171.7:
        return math.inf
    return math.gamma(x)


def _cbrt(x: Array) -> Array:
    return np.cbrt(x)


def _round_away(x: Array) -> Array:
    return np.copysign(np.floor(np.abs(x) + 0.5), x) if x.size else x


def _logb(x: Array) -> Array:
    exponent = np.frexp(x)[1] - 1.0
    return np.where(x == 0, -np.inf, np.where(np.isinf(x), np.inf, np.where(np.isnan(x), np.nan, exponent)))


def _ieee_remainder(x: Array, y: Array) -> Array:
    even = np.rint(x / y)
    out = x - even * y
    return np.where(np.isinf(y) & np.isfinite(x), x, out)


def _hypot(*x: Array) -> Array:
    return np.sqrt(sum(v * v for v in x))


def _power(x: Array, y: Array) -> Array:
    return np.power(x, y.astype(np.float64))


def _pi(function: Function) -> Function:
    """Of pi times x, with x reduced first: the hardware's version is exact at multiples of 1/2."""

    def reduced(x: Array) -> Array:
        part = np.remainder(x, 2.0)
        return function(part)

    return reduced


def _sinpi(x: Array) -> Array:
    folded = np.where(x > 1.5, x - 2.0, np.where(x > 0.5, 1.0 - x, x))
    return np.sin(np.pi * folded)


def _cospi(x: Array) -> Array:
    return _sinpi(np.remainder(x + 0.5, 2.0))


# Float functions of float64 arguments; the key is the symbol without prefix and type suffix.
_FLOATS: dict[str, Function] = {
    "acos": np.arccos, "acosh": np.arccosh, "asin": np.arcsin, "asinh": np.arcsinh, "atan": np.arctan,
    "atan2": np.arctan2, "atanh": np.arctanh, "cbrt": _cbrt, "ceil": np.ceil, "copysign": np.copysign, "cos": np.cos,
    "cosh": np.cosh, "cospi": _pi(_cospi), "cyl_bessel_i0": _torch(torch.special.i0), "i0": _torch(torch.special.i0),
    "cyl_bessel_i1": _torch(torch.special.i1), "i1": _torch(torch.special.i1), "erf": _torch(torch.special.erf),
    "erfc": _torch(torch.special.erfc), "erfcinv": lambda x: -_torch(torch.special.ndtri)(x / 2) / math.sqrt(2),
    "erfcx": _torch(torch.special.erfcx), "erfinv": _torch(torch.special.erfinv), "exp": np.exp,
    "exp10": lambda x: np.power(10.0, x), "exp2": np.exp2, "expm1": np.expm1, "fabs": np.abs,
    "fdim": lambda x, y: np.where(np.isnan(x) | np.isnan(y), np.nan, np.maximum(x - y, 0.0)), "floor": np.floor,
    "fmod": np.fmod, "hypot": np.hypot, "j0": _torch(torch.special.bessel_j0), "j1": _torch(torch.special.bessel_j1),
    "ldexp": lambda x, n: np.ldexp(x, n.astype(np.int32)), "lgamma": _torch(torch.lgamma), "log": np.log,
    "log10": np.log10, "log1p": np.log1p, "log2": np.log2, "logb": _logb, "nearbyint": np.rint,
    "norm3d": _hypot, "norm4d": _hypot, "normcdf": _torch(torch.special.ndtr),
    "normcdfinv": _torch(torch.special.ndtri), "pow": _power, "powi": _power, "pown": _power,
    "rcbrt": lambda x: 1.0 / np.cbrt(x), "remainder": _ieee_remainder, "rhypot": lambda x, y: 1.0 / np.hypot(x, y),
    "rint": np.rint, "rnorm3d": lambda *x: 1.0 / _hypot(*x), "rnorm4d": lambda *x: 1.0 / _hypot(*x),
    "round": _round_away, "rsqrt": lambda x: 1.0 / np.sqrt(x),
    "saturate": lambda x: np.where(np.isnan(x), 0.0, np.clip(x, 0.0, 1.0)),
    "scalbn": lambda x, n: np.ldexp(x, n.astype(np.int32)), "sin": np.sin, "sinh": np.sinh, "sinpi": _pi(_sinpi),
    "sqrt": np.sqrt, "tan": np.tan, "tanh": np.tanh, "tgamma": _scalarwise(_gamma), "trunc": np.trunc,
    "y0": _torch(torch.special.bessel_y0), "y1": _torch(torch.special.bessel_y1),
    "fast_cos": np.cos, "fast_exp10": lambda x: np.power(10.0, x), "fast_exp": np.exp, "fast_fdivide": np.divide,
    "fast_log10": np.log10, "fast_log2": np.log2, "fast_log": np.log, "fast_pow": _power, "fast_sin": np.sin,
    "fast_tan": np.tan, "fast_tanh": np.tanh,
}  # fmt: skip

# Questions about a float; the answer is an integer.
_TESTS: dict[str, Function] = {
    "isnan": np.isnan, "isnand": np.isnan, "isnanf": np.isnan, "isinf": np.isinf, "isinfd": np.isinf,
    "isinff": np.isinf, "finite": np.isfinite, "finitef": np.isfinite, "isfinite": np.isfinite,
    "isfinited": np.isfinite, "signbit": np.signbit, "signbitd": np.signbit, "signbitf": np.signbit,
    "ilogb": lambda x: np.where(x == 0, -(2**31), np.where(np.isfinite(x), _logb(x), 2**31 - 1)),
    "llrint": np.rint, "llround": _round_away,
}  # fmt: skip


def _popcount(x: Array) -> Array:
    return np.array([int(v).bit_count() for v in unsigned(x).ravel()], np.int32).reshape(x.shape)


def _leading_zeros(x: Array) -> Array:
    bits = x.dtype.itemsize * 8
    return np.array([bits - int(v).bit_length() for v in unsigned(x).ravel()], np.int32).reshape(x.shape)


def _first_set(x: Array) -> Array:
    return np.array([(int(v) & -int(v)).bit_length() for v in unsigned(x).ravel()], np.int32).reshape(x.shape)


def _reverse(x: Array) -> Array:
    bits = x.dtype.itemsize * 8
    source = unsigned(x)
    turned = [int(format(int(v), f"0{bits}b")[::-1], 2) for v in source.ravel()]
    return np.array(turned, source.dtype).reshape(x.shape).view(x.dtype)


def _permute_bytes(x: Array, y: Array, selector: Array) -> Array:
    both = (unsigned(y).astype(np.uint64) << np.uint64(32)) | unsigned(x)
    out = np.zeros(x.shape, np.uint64)
    for place in range(4):
        pick = (unsigned(selector) >> np.uint32(4 * place)) & np.uint32(7)
        byte = (both >> (pick.astype(np.uint64) * np.uint64(8))) & np.uint64(255)
        out |= byte << np.uint64(8 * place)
    return out.astype(np.uint32).view(np.int32)


def _low24(x: Array, signed: bool) -> Array:
    bits = unsigned(x).astype(np.int64) & 0xFFFFFF
    return np.where(bits >= 1 << 23, bits - (1 << 24), bits) if signed else bits


def _wide_int(function: Callable[..., object], signed: bool) -> Function:
    """An integer function computed on unbounded integers and cut to its width."""

    def apply(*x: Array) -> Array:
        width = x[0].dtype
        mask = (1 << (8 * width.itemsize)) - 1
        lists = [(v if signed else unsigned(v)).ravel().tolist() for v in x]
        out = [int(function(*row)) & mask for row in zip(*lists, strict=True)]  # type: ignore[call-overload]
        return np.array(out, unsigned(x[0]).dtype).reshape(x[0].shape).view(width)

    return apply


def _high(bits: int, signed: bool) -> Function:
    return _wide_int(lambda a, b: (a * b) >> bits, signed)


_INTEGERS: dict[str, Function] = {
    "popc": _popcount, "popcll": _popcount, "clz": _leading_zeros, "clzll": _leading_zeros, "ffs": _first_set,
    "ffsll": _first_set, "brev": _reverse, "brevll": _reverse, "byte_perm": _permute_bytes, "abs": np.abs,
    "iabs": np.abs,
    "llabs": np.abs, "mul24": lambda a, b: (_low24(a, True) * _low24(b, True)).astype(np.int32),
    "umul24": lambda a, b: (_low24(a, False) * _low24(b, False)).astype(np.uint32).view(np.int32),
    "mulhi": _high(32, True), "umulhi": _high(32, False), "mul64hi": _high(64, True), "umul64hi": _high(64, False),
    "sad": _wide_int(lambda a, b, c: abs(a - b) + c, True), "usad": _wide_int(lambda a, b, c: abs(a - b) + c, False),
    "hadd": _wide_int(lambda a, b: (a + b) >> 1, True), "uhadd": _wide_int(lambda a, b: (a + b) >> 1, False),
    "rhadd": _wide_int(lambda a, b: (a + b + 1) >> 1, True), "urhadd": _wide_int(lambda a, b: (a + b + 1) >> 1, False),
}  # fmt: skip

_DIRECTED: dict[str, Function] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "rcp": lambda x: 1 / x, "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x), "fma": lambda x, y, z: x * y + z,
}  # fmt: skip

_SOURCES = {"double", "float", "int", "uint", "ll", "ull"}


def directed(exact: Array, ty: Scalar, mode: str) -> Array:
    """Wider values rounded to ``ty`` to nearest (rn), down (rd), up (ru) or toward zero (rz)."""
    near: Array = exact.astype(ty.np)
    if mode == "rn":
        return near
    back = near.astype(exact.dtype)
    down = {"rd": back > exact, "ru": np.zeros(near.shape, bool), "rz": (back > exact) & (exact > 0)}[mode]
    up = {"rd": np.zeros(near.shape, bool), "ru": back < exact, "rz": (back < exact) & (exact < 0)}[mode]
    lowest, highest = ty.np.type(-np.inf), ty.np.type(np.inf)
    return np.where(down, np.nextafter(near, lowest), np.where(up, np.nextafter(near, highest), near))


def _to_integer(values: Array, mode: str, target: str) -> Array:
    wide = values.astype(np.float64)
    whole = {"rn": np.rint, "rd": np.floor, "ru": np.ceil, "rz": np.trunc}[mode](wide)
    kind: np.dtype[Any] = np.dtype({"int": "i4", "uint": "u4", "ll": "i8", "ull": "u8"}[target])
    limits = np.iinfo(kind)
    top = whole >= float(limits.max)
    bottom = whole <= float(limits.min)
    out = np.where(top | bottom | np.isnan(whole), 0.0, whole).astype(kind)
    out[top], out[bottom] = limits.max, limits.min
    return out.view(np.dtype(f"int{kind.itemsize * 8}"))


def _convert(name: str, x: Array, ty: Scalar) -> Array | None:
    """Conversions such as ``float2int_rz``, and reinterpretations such as ``float_as_int``."""
    if "_as_" in name:
        return np.ascontiguousarray(x).view(ty.np)
    head, _, mode = name.rpartition("_")
    source, _, target = head.partition("2")
    if source not in _SOURCES or target not in _SOURCES:
        return None
    if target not in ("float", "double"):
        return _to_integer(x, mode, target)
    data = unsigned(x) if source in ("uint", "ull") else x
    return directed(data.astype(np.longdouble), ty, mode)


def _directed_operation(name: str, values: Sequence[Array], ty: Scalar) -> Array | None:
    """Arithmetic with a stated rounding: ``fadd_rz``, ``drcp_ru``, ``fmaf_rn``, ``fma_rd``."""
    head, _, mode = name.rpartition("_")
    if mode not in ("rn", "rd", "ru", "rz"):
        return None
    operation = "fma" if head in ("fma", "fmaf") else head[1:]
    if operation not in _DIRECTED:
        return None
    if operation == "fma" and mode == "rn":
        return fused(values[0], values[1], values[2], ty)
    return directed(np.asarray(_DIRECTED[operation](*(v.astype(np.longdouble) for v in values))), ty, mode)


_WORDS: dict[str, Function] = {
    "double2hiint": lambda x: (np.ascontiguousarray(x).view(np.int64) >> 32).astype(np.int32),
    "double2loint": lambda x: np.ascontiguousarray(x).view(np.int64).astype(np.int32),
    "hiloint2double": lambda h, low: (
        (h.astype(np.int64) << 32) | unsigned(low).astype(np.int64)
    ).view(np.float64),
}  # fmt: skip


def base_name(symbol: str) -> str:
    """A symbol without its library's prefix and OCML's type suffix."""
    if symbol.startswith("__ocml_"):
        return symbol.removeprefix("__ocml_").removesuffix("_f32").removesuffix("_f64")
    return symbol.removeprefix("__nv_").removeprefix("__triton_hip_")


def call(symbol: str, arguments: Sequence[Handle], ty: Scalar) -> Handle:
    """The value of device function ``symbol``; raises `CannotBeSeen` for one that no table knows."""
    name = base_name(symbol)
    values = [h.data for h in arguments]
    out = _find(name, values, ty)
    if out is None:
        raise CannotBeSeen(f"device function {symbol}", candidate_line())
    return Handle(_shaped(np.asarray(out), ty), ty)


def _shaped(out: Array, ty: Scalar) -> Array:
    if ty.floating:
        return ty.fit(out)
    if out.dtype == ty.np or ty is INT1:
        return out.astype(ty.np)
    if out.dtype.kind == "f":
        return _to_integer(out, "rz", "int" if ty is INT32 else "ll")
    return out.astype(ty.np)


def _find(name: str, values: list[Array], ty: Scalar) -> Array | None:
    if name in _INTEGERS:
        return _INTEGERS[name](*values)
    if name in _WORDS:
        return _WORDS[name](*values)
    if name in ("fma", "fmaf"):
        return fused(values[0], values[1], values[2], ty)
    if name in ("nextafter", "nextafterf"):
        return np.nextafter(*values)
    for key in (name, name.removesuffix("f")):
        table = _FLOATS if key in _FLOATS else _TESTS if key in _TESTS else None
        if table is not None:
            wide = [v.astype(np.float64) if v.dtype.kind == "f" else v for v in values]
            return table[key](*wide)
    if len(values) == 1 and (converted := _convert(name, values[0], ty)) is not None:
        return converted
    return _directed_operation(name, values, ty)


def known(symbol: str) -> bool:
    """True when `call` can compute ``symbol``."""
    name = base_name(symbol)
    tables = (_INTEGERS, _WORDS, _FLOATS, _TESTS)
    if any(name in t or name.removesuffix("f") in t for t in tables):
        return True
    if name.removesuffix("f") in ("fma", "nextafter"):
        return True
    head, _, mode = name.rpartition("_")
    if mode in ("rn", "rd", "ru", "rz"):
        parts = head.partition("2")
        return (parts[0] in _SOURCES and parts[2] in _SOURCES) or head in ("fma", "fmaf") or head[1:] in _DIRECTED
    return "_as_" in name
