"""Constants, casts and elementwise arithmetic of the builder.

Comes in: handles. Goes out: handles whose data is what the hardware's registers would hold: each float operation
rounded once to its type, integers wrapping around without sign (the operation says how to read them), 32-bit signed
index arithmetic watched for wrapping. Memory, shapes and products are left to the other parts of the builder.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

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
    Ufunc,
    Void,
    decode,
    encode,
    round_to,
)
from .values import Handle, Wrap, candidate_line


def unsigned(data: Array) -> Array:
    """Integers read without sign."""
    return data.view(UNSIGNED[data.dtype])


def merged(a: Handle, b: Handle) -> Wrap | None:
    """The wrap that a value computed from both carries."""
    if a.wrap is None:
        return b.wrap
    if b.wrap is None:
        return a.wrap
    w = a.wrap
    return Wrap(w.lanes | b.wrap.lanes, w.operation, w.value, w.where)


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


def _float2(op: Ufunc) -> Ufunc:
    def operation(self: Any, a: Handle, b: Handle) -> Handle:
        ty = a.ty
        out = op(a.data, b.data)
        return Handle(ty.fit(out) if ty.form is not None else out, ty)

    return operation


def _float1(op: Ufunc) -> Ufunc:
    def operation(self: Any, a: Handle) -> Handle:
        return Handle(a.ty.fit(op(a.data)), a.ty)

    return operation


def _compare(op: Ufunc) -> Ufunc:
    def operation(self: Any, a: Handle, b: Handle) -> Handle:
        return Handle(op(a.data, b.data), INT1)

    return operation


def _compare_unsigned(op: Ufunc) -> Ufunc:
    def operation(self: Any, a: Handle, b: Handle) -> Handle:
        if a.data.dtype == np.uint64:
            return Handle(op(a.data, b.data), INT1)
        return Handle(op(unsigned(a.data), unsigned(b.data)), INT1)

    return operation


def _bits(op: Ufunc) -> Ufunc:
    """Bitwise operations end an index's wrap: hashes wrap on purpose and are then masked."""

    def operation(self: Any, a: Handle, b: Handle) -> Handle:
        return Handle(op(a.data, b.data), a.ty)

    return operation


def _select_int(op: Ufunc, signed: bool) -> Ufunc:
    def operation(self: Any, a: Handle, b: Handle) -> Handle:
        if signed:
            return Handle(op(a.data, b.data), a.ty, None, merged(a, b))
        return Handle(op(unsigned(a.data), unsigned(b.data)).view(a.data.dtype), a.ty, None, merged(a, b))

    return operation


class Integers:
    """Integer arithmetic; `checked` is set by the semantics before an operation on signed 32-bit operands."""

    checked = False

    def create_add(self, a: Handle, b: Handle) -> Handle:
        if a.data.dtype == np.bool_:
            return Handle(a.data ^ b.data, a.ty)
        out = a.data + b.data
        return Handle(out, a.ty, None, self._watched("add", a, b, out))

    def create_sub(self, a: Handle, b: Handle) -> Handle:
        if a.data.dtype == np.bool_:
            return Handle(a.data ^ b.data, a.ty)
        out = a.data - b.data
        return Handle(out, a.ty, None, self._watched("subtract", a, b, out))

    def create_mul(self, a: Handle, b: Handle) -> Handle:
        if a.data.dtype == np.bool_:
            return Handle(a.data & b.data, a.ty)
        out = a.data * b.data
        return Handle(out, a.ty, None, self._watched("multiply", a, b, out))

    def _watched(self, operation: str, a: Handle, b: Handle, out: Array) -> Wrap | None:
        carried = merged(a, b) if a.wrap is not None or b.wrap is not None else None
        if not self.checked:
            return carried
        self.checked = False
        if operation == "multiply":
            exact = np.multiply(a.data, b.data, dtype=np.int64)
            if exact.size and int(exact.max()) < 2**31 and int(exact.min()) >= -(2**31):
                return carried
            lanes = exact != out
        else:
            other = b.data if operation == "add" else ~b.data
            lanes = ((a.data ^ out) & (other ^ out)) < 0
        if not lanes.any():
            return carried
        left, right = (int(np.broadcast_to(h.data, out.shape)[lanes][0]) for h in (a, b))
        value = {"add": left + right, "subtract": left - right, "multiply": left * right}[operation]
        if carried is not None:
            lanes = lanes | carried.lanes
        return Wrap(lanes, operation, value, candidate_line())

    def create_sdiv(self, a: Handle, b: Handle) -> Handle:
        quotient = a.data // b.data
        toward_zero = (np.fmod(a.data, b.data) != 0) & ((a.data < 0) != (b.data < 0))
        return Handle(quotient + toward_zero, a.ty, None, merged(a, b))

    def create_udiv(self, a: Handle, b: Handle) -> Handle:
        return Handle((unsigned(a.data) // unsigned(b.data)).view(a.data.dtype), a.ty, None, merged(a, b))

    def create_srem(self, a: Handle, b: Handle) -> Handle:
        return Handle(np.fmod(a.data, b.data), a.ty)

    def create_urem(self, a: Handle, b: Handle) -> Handle:
        return Handle((unsigned(a.data) % unsigned(b.data)).view(a.data.dtype), a.ty)

    def create_shl(self, a: Handle, b: Handle) -> Handle:
        return Handle(self._shift(np.left_shift, unsigned(a.data), b.data).view(a.data.dtype), a.ty)

    def create_lshr(self, a: Handle, b: Handle) -> Handle:
        return Handle(self._shift(np.right_shift, unsigned(a.data), b.data).view(a.data.dtype), a.ty)

    def create_ashr(self, a: Handle, b: Handle) -> Handle:
        amount = np.minimum(unsigned(b.data), a.ty.bits - 1).astype(a.data.dtype)
        return Handle(a.data >> amount, a.ty)

    @staticmethod
    def _shift(op: Ufunc, data: Array, amount: Array) -> Array:
        """PTX clamps the amount: shifting by the width or more gives 0."""
        if data.dtype == np.bool_:
            return data & ~amount
        width = data.dtype.itemsize * 8
        amount = unsigned(amount)
        shifted: Array = op(data, np.minimum(amount, width - 1).astype(data.dtype))
        return np.where(amount >= width, data.dtype.type(0), shifted)

    def create_umulhi(self, a: Handle, b: Handle) -> Handle:
        left, right = unsigned(a.data), unsigned(b.data)
        bits = a.ty.bits
        if bits < 64:
            wide = np.multiply(left, right, dtype=np.uint64) >> np.uint64(bits)
            return Handle(wide.astype(left.dtype).view(a.data.dtype), a.ty)
        half, low = np.uint64(32), np.uint64(0xFFFFFFFF)
        a_high, a_low, b_high, b_low = left >> half, left & low, right >> half, right & low
        middle = a_high * b_low + ((a_low * b_low) >> half)
        carry = (middle & low) + a_low * b_high
        high = a_high * b_high + (middle >> half) + (carry >> half)
        return Handle(high.view(a.data.dtype), a.ty)

    create_minsi, create_maxsi = _select_int(np.minimum, True), _select_int(np.maximum, True)
    create_minui, create_maxui = _select_int(np.minimum, False), _select_int(np.maximum, False)
    create_and, create_or, create_xor = _bits(np.bitwise_and), _bits(np.bitwise_or), _bits(np.bitwise_xor)
    create_icmpSLE, create_icmpSLT = _compare(np.less_equal), _compare(np.less)  # noqa: N815
    create_icmpSGE, create_icmpSGT = _compare(np.greater_equal), _compare(np.greater)  # noqa: N815
    create_icmpULE, create_icmpULT = _compare_unsigned(np.less_equal), _compare_unsigned(np.less)  # noqa: N815
    create_icmpUGE, create_icmpUGT = _compare_unsigned(np.greater_equal), _compare_unsigned(np.greater)  # noqa: N815
    create_icmpEQ, create_icmpNE = _compare(np.equal), _compare(np.not_equal)  # noqa: N815

    def create_iabs(self, a: Handle) -> Handle:
        return Handle(np.abs(a.data), a.ty, None, a.wrap)


def _erf(data: Array) -> Array:
    wide = torch.from_numpy(np.array(data, np.float64))
    out: Array = torch.erf(wide).numpy()
    return out


def _wide(op: Ufunc) -> Ufunc:
    """``op`` on float64, so that the caller's type rounds once."""
    return lambda data: op(data.astype(np.float64))


class Floats:
    """Float arithmetic; approximate hardware functions are given correctly rounded."""

    create_fadd, create_fsub = _float2(np.add), _float2(np.subtract)
    create_fmul, create_frem = _float2(np.multiply), _float2(np.fmod)
    create_fdiv = create_precise_divf = create_approx_divf = _float2(np.divide)
    create_minimumf, create_maximumf = _float2(np.minimum), _float2(np.maximum)
    create_minnumf, create_maxnumf = _float2(np.fmin), _float2(np.fmax)
    create_fcmpOLT, create_fcmpOGT = _compare(np.less), _compare(np.greater)  # noqa: N815
    create_fcmpOLE, create_fcmpOGE = _compare(np.less_equal), _compare(np.greater_equal)  # noqa: N815
    create_fcmpOEQ, create_fcmpUNE = _compare(np.equal), _compare(np.not_equal)  # noqa: N815
    create_fneg = _float1(np.negative)
    create_fabs = _float1(np.abs)
    create_floor, create_ceil = _float1(np.floor), _float1(np.ceil)
    create_exp, create_exp2 = _float1(np.exp), _float1(np.exp2)
    create_log, create_log2 = _float1(np.log), _float1(np.log2)
    create_sin, create_cos = _float1(_wide(np.sin)), _float1(_wide(np.cos))
    create_sqrt = create_precise_sqrt = _float1(np.sqrt)
    create_rsqrt = _float1(_wide(lambda x: 1.0 / np.sqrt(x)))
    create_erf = _float1(_erf)

    def create_fma(self, a: Handle, b: Handle, c: Handle) -> Handle:
        return Handle(fused(a.data, b.data, c.data, c.ty), c.ty)

    def create_clampf(self, value: Handle, low: Handle, high: Handle, propagate: Any) -> Handle:
        if propagate == ir.PROPAGATE_NAN.ALL:
            return Handle(np.minimum(np.maximum(value.data, low.data), high.data), value.ty)
        return Handle(np.fmin(np.fmax(value.data, low.data), high.data), value.ty)

    def create_select(self, condition: Handle, a: Handle, b: Handle) -> Handle:
        data = np.where(condition.data, a.data, b.data)
        region = a.region if a.region is b.region else None
        if a.wrap is None and b.wrap is None:
            return Handle(data, a.ty, region)
        one = next(w for w in (a.wrap, b.wrap) if w is not None)
        lanes = np.where(condition.data, a.wrap.lanes if a.wrap else np.False_, b.wrap.lanes if b.wrap else np.False_)
        return Handle(data, a.ty, region, Wrap(lanes, one.operation, one.value, one.where) if lanes.any() else None)


def fused(a: Array, b: Array, c: Array, ty: Scalar) -> Array:
    """``a * b + c`` rounded once to ``ty``.

    float32 and narrower: the product is exact in float64 and the sum is rounded to odd there, which makes the second
    rounding harmless (Boldo and Melquiond, 2008). float64: the exact product by Dekker's splitting, then compensated.
    """
    x, y, z = (np.asarray(v, np.float64) for v in (a, b, c))
    product = x * y
    total = product + z
    if ty is FP64:
        split = 134217729.0
        xh, yh = split * x - (split * x - x), split * y - (split * y - y)
        xl, yl = x - xh, y - yh
        error = ((xh * yh - product) + xh * yl + xl * yh) + xl * yl
        virtual = total - product
        lost = (product - (total - virtual)) + (z - virtual)
        exact = total + (error + lost)
        return np.asarray(np.where(np.isfinite(exact), exact, total))
    virtual = total - product
    lost = (product - (total - virtual)) + (z - virtual)
    bits = total.view(np.int64)
    inexact = np.isfinite(total) & (lost != 0) & ((bits & 1) == 0)
    away = np.where((lost > 0) == (total > 0), bits + 1, bits - 1)
    odd = np.where(inexact, away, bits).view(np.float64)
    return ty.fit(odd)
