"""Matrix products as tensor cores give them, up to the order of summation.

Comes in: operand arrays and the precision asked for. Goes out: the product, accumulated in float32 (float64, int32 by
operand type). The order in which the hardware sums, and how many bits its adders keep, cannot be seen here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .formats import (
    E4M3,
    E5M2,
    FP32,
    FP64,
    INT8,
    INT32,
    Array,
    Format,
    decode,
    round_bf16,
    round_tf32,
    truncate_tf32,
)
from .values import Handle

# Splits of float32 operands into parts, and the products of parts that are summed, smallest first: (left, right) parts.
_TERMS = {
    "BF16x3": (round_bf16, 2, ((1, 0), (0, 1), (0, 0))),
    "BF16x6": (round_bf16, 3, ((2, 0), (1, 1), (0, 2), (1, 0), (0, 1), (0, 0))),
    "TF32x3": (round_tf32, 2, ((1, 0), (0, 1), (0, 0))),
}


def precision_name(precision: Any) -> str:
    """The name of an ``ir.INPUT_PRECISION`` member."""
    return str(precision).rsplit(".", 1)[-1]


def product(a: Array, b: Array, precision: str) -> Array:
    """float32 product ``a @ b`` at an input precision: IEEE, TF32, TF32x3, BF16x3 or BF16x6.

    TF32 drops the low 13 bits of both operands: tensor cores read raw float32 registers, Triton does not round them,
    and the bias of truncation (6.8e-4 on uniform inputs) is what an H200 shows. TF32x3 rounds its parts.
    """
    if precision == "TF32":
        a, b = truncate_tf32(a), truncate_tf32(b)
    plain: Array = np.matmul(a, b)
    if precision not in _TERMS:
        return plain
    narrow, count, terms = _TERMS[precision]
    left, right = _parts(a, narrow, count), _parts(b, narrow, count)
    total = np.matmul(left[terms[0][0]], right[terms[0][1]])
    for i, j in terms[1:]:
        total = total + np.matmul(left[i], right[j])
    return np.asarray(np.where(np.isfinite(total), total, plain))


def _parts(values: Array, narrow: Any, count: int) -> list[Array]:
    parts = []
    rest = values
    for _ in range(count):
        part = narrow(rest)
        parts.append(part)
        rest = np.where(np.isfinite(values), rest - part, np.float32(0)).astype(np.float32)
    return parts


def dot(a: Handle, b: Handle, accumulator: Handle, precision: Any) -> Handle:
    """``a @ b + accumulator`` in the accumulator's type."""
    ty = accumulator.ty
    if a.ty is INT8:
        exact = np.matmul(a.data.astype(np.float64), b.data.astype(np.float64)).astype(np.int64)
        return Handle((exact + accumulator.data).astype(np.int32), INT32)
    if a.ty is FP64:
        return Handle(np.matmul(a.data, b.data) + accumulator.data, FP64)
    left, right = (np.ascontiguousarray(h.data, np.float32) for h in (a, b))
    total = product(left, right, precision_name(precision) if a.ty is FP32 else "IEEE")
    return Handle(ty.fit(total + accumulator.data.astype(np.float32)), ty)


_E2M1 = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0], np.float32)
_FORMATS: dict[str, Format] = {"E4M3": E4M3, "E5M2": E5M2}


def scaled_operand(value: Handle, scale: Handle | None, kind: str, packed_axis: int, rhs: bool) -> Array:
    """One operand of a scaled product as float32: packed e2m1 unpacked along ``packed_axis``, each group of K scaled.

    Scales are e8m0 exponents (``2**(code - 127)``, 255 is NaN; OCP Microscaling 1.0), shaped (M or N, K / group), or
    already floats.
    """
    data = value.data
    if kind == "E2M1":
        codes = np.moveaxis(data.view(np.uint8), packed_axis, -1)
        nibbles = np.stack([codes & 15, codes >> 4], axis=-1).reshape(*codes.shape[:-1], codes.shape[-1] * 2)
        real = np.where(nibbles & 8, -_E2M1[nibbles & 7], _E2M1[nibbles & 7])
        data = np.moveaxis(real, -1, packed_axis)
    elif kind in _FORMATS and value.ty.form is None:
        data = decode(data, _FORMATS[kind])
    values: Array = data.astype(np.float32)
    if scale is None:
        return values
    factors = scale.data
    if scale.ty is INT8:
        codes = factors.view(np.uint8)
        factors = np.where(codes == 255, np.nan, np.ldexp(1.0, codes.astype(np.int32) - 127)).astype(np.float32)
    k = values.shape[-2 if rhs else -1]
    factors = np.repeat(factors.astype(np.float32), k // factors.shape[-1], axis=-1)
    return np.asarray(values * (np.swapaxes(factors, -1, -2) if rhs else factors))


def dot_scaled(operands: tuple[Array, Array], accumulator: Handle) -> Handle:
    """The product of two scaled operands added to the accumulator."""
    total = np.matmul(*operands) + accumulator.data.astype(np.float32)
    return Handle(accumulator.ty.fit(total), accumulator.ty)
