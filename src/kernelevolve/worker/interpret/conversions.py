"""Types, constants and conversions of the builder.

Comes in: types, Python numbers, handles. Goes out: handles of the wanted type, rounded, wrapped or saturated as the
hardware's conversion does. Arithmetic is left to `arithmetic`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .compat import ir
from .formats import (
    BFLOAT16,
    FP8E4B8,
    FP8E4B15,
    FP8E4NV,
    FP8E5,
    FP8E5B16,
    FP16,
    FP32,
    FP64,
    INT1,
    INT8,
    INT16,
    INT32,
    INT64,
    UNSIGNED,
    Array,
    Block,
    Pointer,
    Scalar,
    Void,
    decode,
    encode,
    round_to,
)
from .values import Handle, Wrap, candidate_line


def unsigned(data: Array) -> Array:
    """Integers read without sign."""
    return data.view(UNSIGNED[data.dtype])


class Types:
    """Types and constants."""

    def get_void_ty(self) -> Void:
        return Void()

    def get_int1_ty(self) -> Scalar:
        return INT1

    def get_int8_ty(self) -> Scalar:
        return INT8

    def get_int16_ty(self) -> Scalar:
        return INT16

    def get_int32_ty(self) -> Scalar:
        return INT32

    def get_int64_ty(self) -> Scalar:
        return INT64

    def get_half_ty(self) -> Scalar:
        return FP16

    def get_bf16_ty(self) -> Scalar:
        return BFLOAT16

    def get_float_ty(self) -> Scalar:
        return FP32

    def get_double_ty(self) -> Scalar:
        return FP64

    def get_fp8e4nv_ty(self) -> Scalar:
        return FP8E4NV

    def get_fp8e4b8_ty(self) -> Scalar:
        return FP8E4B8

    def get_fp8e4b15_ty(self) -> Scalar:
        return FP8E4B15

    def get_fp8e5_ty(self) -> Scalar:
        return FP8E5

    def get_fp8e5b16_ty(self) -> Scalar:
        return FP8E5B16

    def get_ptr_ty(self, element: Any, address_space: int) -> Pointer:
        return Pointer(element)

    def get_block_ty(self, element: Any, shape: Any) -> Block:
        return Block(element, shape)

    def get_int1(self, value: Any) -> Handle:
        return Handle(np.array([bool(value)]), INT1)

    def _integer(self, value: Any, ty: Scalar) -> Handle:
        wrapped = int(value) & ((1 << ty.bits) - 1)
        return Handle(np.array([wrapped], UNSIGNED[ty.np]).view(ty.np), ty)

    def get_int8(self, value: Any) -> Handle:
        return self._integer(value, INT8)

    def get_int16(self, value: Any) -> Handle:
        return self._integer(value, INT16)

    def get_int32(self, value: Any) -> Handle:
        return self._integer(value, INT32)

    def get_int64(self, value: Any) -> Handle:
        return self._integer(value, INT64)

    get_uint8, get_uint16, get_uint32, get_uint64 = get_int8, get_int16, get_int32, get_int64

    def get_fp16(self, value: Any) -> Handle:
        return Handle(np.array([value], np.float64).astype(np.float16), FP16)

    def get_bf16(self, value: Any) -> Handle:
        return Handle(round_to(np.array([value], np.float64), BFLOAT16.form), BFLOAT16)  # type: ignore[arg-type]

    def get_fp32(self, value: Any) -> Handle:
        return Handle(np.array([value], np.float64).astype(np.float32), FP32)

    def get_fp64(self, value: Any) -> Handle:
        return Handle(np.array([value], np.float64), FP64)

    def get_null_value(self, ty: Any) -> Handle:
        shape = ty.shape if isinstance(ty, Block) else (1,)
        return Handle(np.zeros(shape, ty.scalar.np), ty.scalar)

    def get_all_ones_value(self, ty: Any) -> Handle:
        scalar = ty.scalar
        return Handle(np.ones(1, np.bool_) if scalar is INT1 else np.full(1, -1, scalar.np), scalar)


class Casts:
    """Conversions between types."""

    def _float_cast(self, value: Handle, ty: Any) -> Handle:
        scalar: Scalar = ty.scalar
        return Handle(scalar.fit(value.data), scalar)

    create_fp_ext = create_fp_trunc = _float_cast

    def create_fp_to_fp(self, value: Handle, ty: Any, rounding: Any) -> Handle:
        scalar: Scalar = ty.scalar
        if rounding != ir.ROUNDING_MODE.RTZ:
            return self._float_cast(value, ty)
        if scalar.form is not None:
            return Handle(round_to(value.data, scalar.form, toward_zero=True), scalar)
        nearest = value.data.astype(scalar.np)
        beyond = np.abs(nearest.astype(value.data.dtype)) > np.abs(value.data)
        return Handle(np.where(beyond, np.nextafter(nearest, scalar.np.type(0)), nearest), scalar)

    def create_si_to_fp(self, value: Handle, ty: Any) -> Handle:
        return self._int_to_float(value.data, ty.scalar)

    def create_ui_to_fp(self, value: Handle, ty: Any) -> Handle:
        return self._int_to_float(unsigned(value.data), ty.scalar)

    def _int_to_float(self, data: Array, scalar: Scalar) -> Handle:
        if scalar.form is not None:
            return Handle(round_to(data.astype(np.float64), scalar.form), scalar)
        return Handle(data.astype(scalar.np), scalar)

    def create_fp_to_si(self, value: Handle, ty: Any) -> Handle:
        return self._float_to_int(value.data, ty.scalar, signed=True)

    def create_fp_to_ui(self, value: Handle, ty: Any) -> Handle:
        return self._float_to_int(value.data, ty.scalar, signed=False)

    def _float_to_int(self, data: Array, scalar: Scalar, signed: bool) -> Handle:
        """Toward zero, saturating, NaN to 0, at 32 or 64 bits; narrower types keep the low bits (``cvt.rzi``)."""
        width = 64 if scalar.bits == 64 else 32
        wide = np.dtype(f"{'int' if signed else 'uint'}{width}")
        limits = np.iinfo(wide)
        real = np.trunc(data.astype(np.float64))
        real = np.where(np.isnan(real), 0.0, real)
        top = real >= float(limits.max)
        out = np.where(top | (real < float(limits.min)), 0.0, real).astype(wide)
        out[top] = limits.max
        out[real < float(limits.min)] = limits.min
        return Handle(out.astype(UNSIGNED[scalar.np]).view(scalar.np), scalar)

    def create_int_cast(self, value: Handle, ty: Any, signed: bool) -> Handle:
        scalar: Scalar = ty.scalar
        data = value.data
        if scalar is INT1:
            return Handle((data & 1).astype(np.bool_), INT1)
        if data.dtype == scalar.np:
            return Handle(data, scalar, None, value.wrap)
        out = (data if signed else unsigned(data)).astype(scalar.np)
        wrap = value.wrap
        if signed and scalar is INT32 and data.dtype == np.int64:
            lanes = out != data
            if lanes.any():
                wrap = Wrap(lanes, "conversion from int64", int(data[lanes][0]), candidate_line())
        return Handle(out, scalar, None, wrap)

    def create_bitcast(self, value: Handle, ty: Any) -> Handle:
        scalar = ty.scalar
        if isinstance(scalar, Pointer):
            return Handle(value.data, scalar, value.region, value.wrap)
        source = value.ty
        data = np.ascontiguousarray(value.data)
        if source.form is not None:
            data = encode(data, source.form)
        if scalar.form is not None:
            return Handle(decode(data, scalar.form), scalar)
        return Handle(data.view(scalar.np), scalar)

    def create_ptr_to_int(self, value: Handle, ty: Any) -> Handle:
        return Handle(value.data.astype(np.int64), ty.scalar, value.region, value.wrap)

    def create_int_to_ptr(self, value: Handle, ty: Any) -> Handle:
        return Handle(value.data.astype(np.uint64), ty.scalar, None, value.wrap)
