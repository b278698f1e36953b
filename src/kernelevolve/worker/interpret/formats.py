"""Number formats as values: how each Triton scalar type is held in numpy, rounded, encoded and decoded.

Comes in: numpy arrays. Goes out: arrays that hold only values of the format. bfloat16 and float8 are held as float32
arrays of rounded values, integers without sign (operations know the sign, as in the IR). Arithmetic is left to the
builder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Format:
    """A small binary float: ``precision`` counts the hidden bit, ``emin`` is the exponent of the smallest normal.

    ``saturates``: values beyond the largest finite one become it, as ``cvt.rn.satfinite`` does on NVIDIA; else they
    become infinity, or NaN where the format has none. ``fnuz``: one zero and one NaN (0x80), no infinity.
    """

    precision: int
    emin: int
    largest: float
    bits: int
    infinity: bool
    saturates: bool
    fnuz: bool = False
    nan: bool = True


BF16 = Format(8, -126, float.fromhex("0x1.fep127"), 16, infinity=True, saturates=False)
E4M3 = Format(4, -6, 448.0, 8, infinity=False, saturates=True)
E5M2 = Format(3, -14, 57344.0, 8, infinity=True, saturates=True)
E4M3FNUZ = Format(4, -7, 240.0, 8, infinity=False, saturates=False, fnuz=True)
E5M2FNUZ = Format(3, -15, 57344.0, 8, infinity=False, saturates=False, fnuz=True)
E4M3B15 = Format(4, -14, 1.75, 8, infinity=False, saturates=True, nan=False)


def round_to(values: Array, form: Format, toward_zero: bool = False) -> Array:
    """The values of ``form`` nearest to float ``values`` (ties to even), or the nearest toward zero, as float32."""
    if form is BF16 and values.dtype == np.float32 and not toward_zero:
        return round_bf16(values)
    wide = values.astype(np.float64)
    exponent = np.maximum(np.frexp(wide)[1], form.emin + 1)
    scaled = np.ldexp(wide, form.precision - exponent)
    rounded = np.ldexp(np.trunc(scaled) if toward_zero else np.rint(scaled), exponent - form.precision)
    beyond = np.abs(rounded) > form.largest
    if beyond.any():
        beyond_all = np.inf if form.infinity else np.nan
        limit = form.largest if form.saturates or toward_zero else beyond_all
        keep = np.isinf(wide) & form.infinity & (not form.saturates)
        rounded = np.where(beyond & ~keep, np.copysign(limit, wide), rounded)
    if form.fnuz:
        rounded = rounded + 0.0
    out: Array = rounded.astype(np.float32)
    return out


def round_bf16(values: Array) -> Array:
    """float32 values rounded to bfloat16 (ties to even; NaN stays NaN), held as float32."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) & np.uint32(0xFFFF0000)
    out = rounded.view(np.float32)
    broken = np.isnan(values)
    if broken.any():
        out = np.where(broken, np.float32(np.nan), out)
    return out


def truncate_tf32(values: Array) -> Array:
    """float32 with the low 13 bits dropped: what tensor cores read from raw float32 operands of a tf32 product."""
    return (np.ascontiguousarray(values, np.float32).view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


def round_tf32(values: Array) -> Array:
    """float32 rounded to tf32, ties away from zero, as ``cvt.rna.tf32.f32`` does; infinity and NaN stay."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)
    return np.where(np.isfinite(values), rounded, values)


def _decode_table(form: Format) -> Array:
    codes = np.arange(256)
    mantissa_bits = form.precision - 1
    mantissa = codes & ((1 << mantissa_bits) - 1)
    exponent = (codes & 0x7F) >> mantissa_bits
    normal = np.ldexp(1.0 + mantissa / 2.0**mantissa_bits, exponent + form.emin - 1)
    small = np.ldexp(mantissa / 2.0**mantissa_bits, form.emin)
    values = np.where(exponent == 0, small, normal)
    values[128:] = -values[128:]
    magnitude = np.abs(values)
    if form.nan:
        values[magnitude > form.largest] = np.nan
    else:
        values = np.clip(values, -form.largest, form.largest)
    if form.infinity:
        first = 0x1F << mantissa_bits
        values[first], values[first | 0x80] = np.inf, -np.inf
    if form.fnuz:
        values[0x80] = np.nan
    return values.astype(np.float32)


_TABLES: dict[Format, Array] = {}


def _table(form: Format) -> Array:
    if form not in _TABLES:
        _TABLES[form] = _decode_table(form)
    return _TABLES[form]


def decode(codes: Array, form: Format) -> Array:
    """Stored codes (uint16 for bfloat16, uint8 for float8, or their signed twins) as float32 values."""
    if form.bits == 16:
        return (codes.view(np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)
    return _table(form)[codes.view(np.uint8)]


def encode(values: Array, form: Format) -> Array:
    """float32 values of ``form`` as stored codes; each must be a value of the format already (see `round_to`)."""
    if form.bits == 16:
        return (np.ascontiguousarray(values, np.float32).view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    table = _table(form)
    positive = table[:128]
    known = np.flatnonzero(~np.isnan(positive))
    codes = known[np.minimum(np.searchsorted(positive[known], np.abs(values)), len(known) - 1)].astype(np.uint8)
    codes |= np.signbit(values).astype(np.uint8) << np.uint8(7)
    if form.fnuz:
        codes[values == 0] = 0
    broken = np.isnan(values)
    if broken.any():
        codes[broken] = np.flatnonzero(np.isnan(table))[0] if form.fnuz else 0x7F
    return codes


class Scalar:
    """A scalar type of the IR: its name, how numpy holds it, and its format when it is held as rounded float32."""

    __slots__ = ("bits", "floating", "form", "name", "np", "storage")

    def __init__(self, name: str, np_type: type, bits: int, form: Format | None = None) -> None:
        self.name = name
        self.np = np.dtype(np_type)
        self.bits = bits
        self.floating = name.startswith(("fp", "bf"))
        self.form = form
        self.storage = np.dtype(np.uint8 if bits == 8 else np.uint16) if form else self.np

    @property
    def scalar(self) -> Scalar:
        return self

    @property
    def size(self) -> int:
        """Bytes of one element in memory."""
        return max(1, self.bits // 8)

    def fit(self, values: Array) -> Array:
        """Float results of one operation as values of this type."""
        if self.form is not None:
            return round_to(values, self.form)
        return values if values.dtype == self.np else values.astype(self.np)

    def __repr__(self) -> str:
        return self.name


class Pointer:
    """A pointer type of the IR; numpy holds addresses as uint64."""

    __slots__ = ("element",)
    np = np.dtype(np.uint64)
    floating = False
    form = None
    bits = 64
    name = "pointer"

    def __init__(self, element: Any) -> None:
        self.element = element

    @property
    def scalar(self) -> Pointer:
        return self


class Block:
    """A block type of the IR: element type and shape."""

    __slots__ = ("scalar", "shape")

    def __init__(self, scalar: Any, shape: Any) -> None:
        self.scalar = scalar
        self.shape = tuple(shape)


class Void:
    """The type of an operation without a result."""


INT1 = Scalar("int1", np.bool_, 1)
INT8 = Scalar("int8", np.int8, 8)
INT16 = Scalar("int16", np.int16, 16)
INT32 = Scalar("int32", np.int32, 32)
INT64 = Scalar("int64", np.int64, 64)
FP16 = Scalar("fp16", np.float16, 16)
BFLOAT16 = Scalar("bf16", np.float32, 16, BF16)
FP32 = Scalar("fp32", np.float32, 32)
FP64 = Scalar("fp64", np.float64, 64)
FP8E4NV = Scalar("fp8e4nv", np.float32, 8, E4M3)
FP8E5 = Scalar("fp8e5", np.float32, 8, E5M2)
FP8E4B8 = Scalar("fp8e4b8", np.float32, 8, E4M3FNUZ)
FP8E5B16 = Scalar("fp8e5b16", np.float32, 8, E5M2FNUZ)
FP8E4B15 = Scalar("fp8e4b15", np.float32, 8, E4M3B15)

SCALARS: dict[str, Scalar] = {
    s.name: s
    for s in (INT1, INT8, INT16, INT32, INT64, FP16, BFLOAT16, FP32, FP64, FP8E4NV, FP8E5, FP8E4B8, FP8E5B16, FP8E4B15)
} | {"uint8": INT8, "uint16": INT16, "uint32": INT32, "uint64": INT64}

UNSIGNED = {np.dtype(f"int{b}"): np.dtype(f"uint{b}") for b in (8, 16, 32, 64)} | {np.dtype(bool): np.dtype(bool)}

Ufunc = Callable[..., Any]
