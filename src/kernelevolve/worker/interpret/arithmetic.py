"""Elementwise arithmetic of the builder.

Comes in: handles. Goes out: handles whose data is what the hardware's registers would hold: each float operation
rounded once to its type, integers wrapping around without sign (the operation says how to read them), 32-bit signed
index arithmetic watched for wrapping. Memory, shapes and products are left to the other parts of the builder.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .compat import ir
from .conversions import unsigned
from .formats import FP64, INT1, Array, Scalar, Ufunc
from .values import Handle, Wrap, candidate_line


def merged(a: Handle, b: Handle) -> Wrap | None:
    """The wrap that a value computed from both carries."""
    if a.wrap is None:
        return b.wrap
    if b.wrap is None:
        return a.wrap
    w = a.wrap
    return Wrap(w.lanes | b.wrap.lanes, w.operation, w.value, w.where)


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
