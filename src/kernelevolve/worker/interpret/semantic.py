"""Triton's semantics over our builder: the same rules of types and shapes, computing instead of emitting.

Comes in: a builder. Goes out: `Semantic`, and the tensors it makes. The rules are Triton's own; what is overridden here
either watches index arithmetic or gives the same answer by a shorter way.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .builder import Builder
from .compat import TritonSemantic, tl
from .formats import SCALARS, Block, Pointer
from .values import Handle


def plain(x: Any) -> Any:
    """``x`` without constexpr around it."""
    while isinstance(x, tl.constexpr):
        x = x.value
    return x


class _Text(str):
    """A string that also has ``.value``, which Triton 3.6 asks of a format's name."""

    @property
    def value(self) -> str:
        return str(self)


class Size(int):
    """A dimension: an int that also has ``.value``, as a constexpr has."""

    @property
    def value(self) -> int:
        return int(self)


#: What a scalar has for sizes, shape and number of elements.
_SCALAR: tuple[tuple[int, ...], Any, Size] = (), tl.tuple([]), Size(1)


def _measured(ty: Any) -> tuple[tuple[int, ...], Any, Size]:
    """Sizes, shape and number of elements of a type, kept on a block's type: kernels make few types and many tensors.

    Nothing is kept on a scalar's type, which is a global of Triton's own: it copies those when it compiles.
    """
    if not ty.is_block():
        return _SCALAR
    known: tuple[tuple[int, ...], Any, Size] | None = getattr(ty, "_ke_measured", None)
    if known is None:
        sizes = tuple(int(s) for s in ty.shape)
        known = sizes, tl.tuple([Size(s) for s in sizes]), Size(math.prod(sizes))
        ty._ke_measured = known
    return known


class Tensor(tl.tensor):  # type: ignore[misc]
    """A tensor of the language whose operators and methods compute at once."""

    def __init__(self, handle: Any, type: Any) -> None:
        self.handle = handle
        self.type = type
        self.dtype = type.scalar
        _, self.shape, self.numel = _measured(type)

    __hash__ = object.__hash__


# Types whose Python operands need no promotion: exclusive limit of integers, 0 for floats.
_PLAIN = {"int32": 2**31, "int64": 2**63, "fp32": 0, "fp64": 0, "fp16": 0, "bf16": 0}

# What the semantic's operators pass on when operands of one type need no promotion: comparisons, add, subtract.
_ONE_TYPE = ((), (True, True), (True, False))


class Semantic(TritonSemantic):  # type: ignore[misc]
    """Triton's semantics over our builder and tensors."""

    tensor = Tensor

    def __init__(self, builder: Builder) -> None:
        super().__init__(builder)
        self._blocks: dict[tuple[int, tuple[int, ...]], tuple[Any, Any]] = {}

    def block(self, scalar: Any, sizes: tuple[int, ...]) -> Any:
        """The block type of ``scalar`` elements, made once."""
        known = self._blocks.get((id(scalar), sizes))
        if known is None:
            known = self._blocks[id(scalar), sizes] = (scalar, tl.block_type(scalar, list(sizes)))
        return known[1]

    def forget(self) -> None:
        """Drops the types of an earlier launch."""
        self._blocks.clear()

    def _bool_like(self, v: Any) -> Any:
        return self.block(tl.int1, _measured(v.type)[0]) if v.type.is_block() else tl.int1

    def _spread(self, value: Any, sizes: tuple[int, ...]) -> Tensor:
        ty = self.block(value.dtype, sizes)
        return Tensor(self.builder.create_splat(Block(value.handle.ty, sizes), value.handle), ty)

    def broadcast_impl_value(self, lhs: Any, rhs: Any) -> Any:
        """Triton's rule; the common cases (equal shapes, a block and a scalar) take a shorter way."""
        left, right = _measured(lhs.type)[0], _measured(rhs.type)[0]
        if left == right:
            return lhs, rhs
        if not right:
            return lhs, self._spread(rhs, left)
        if not left:
            return self._spread(lhs, right), rhs
        return super().broadcast_impl_value(lhs, rhs)

    def binary_op_type_checking_impl(self, lhs: Any, rhs: Any, *rules: Any, **named: Any) -> Any:
        """Triton's rule; operands of one type, and Python numbers that take it, take a shorter way."""
        if rules in _ONE_TYPE and not named and type(lhs) is Tensor:
            if type(lhs.dtype) is tl.dtype:
                rhs = self._number(rhs, lhs.dtype)
                if type(rhs) is Tensor and type(rhs.dtype) is tl.dtype and rhs.dtype.name == lhs.dtype.name:
                    return self.broadcast_impl_value(lhs, rhs)
            elif rules and type(rhs) is Tensor and rhs.dtype.name in ("int32", "int64"):
                return self.broadcast_impl_value(lhs, rhs)
        return super().binary_op_type_checking_impl(lhs, rhs, *rules, **named)

    def _number(self, x: Any, ty: Any) -> Any:
        """A Python number that ``ty`` holds, as a scalar of that type; anything else as it is."""
        limit = _PLAIN.get(ty.name)
        if limit is None or not (type(x) is int or (type(x) is float and limit == 0)):
            return x
        if limit and not -limit <= x < limit:
            return x
        return Tensor(getattr(self.builder, f"get_{ty.name}")(x), ty)

    def binary_op_sanitize_overflow_impl(self, lhs: Any, rhs: Any, binary_op: Any) -> None:
        """Called before each integer add, subtract and multiply: asks the builder to watch signed 32-bit ones."""
        self.builder.checked = lhs.type.scalar.name == "int32"

    def to_tensor(self, x: Any, check_type: bool = True) -> Any:
        """Also takes tensors of Triton's own class, which its device functions make."""
        if type(x) is Tensor:
            return x
        if isinstance(x, tl.tensor):
            return Tensor(x.handle, x.type)
        return super().to_tensor(x, check_type)

    def dot_scaled(self, lhs: Any, lhs_scale: Any, lhs_format: Any, rhs: Any, rhs_scale: Any, *rest: Any) -> Any:
        formats = _Text(plain(lhs_format)), _Text(plain(rest[0]))
        return super().dot_scaled(lhs, lhs_scale, formats[0], rhs, rhs_scale, formats[1], *rest[1:])

    def make_tensor_descriptor(self, *args: Any, **kwargs: Any) -> Any:
        made = super().make_tensor_descriptor(*args, **kwargs)
        return DescriptorValue(made.handle, list(made.shape), list(made.strides), made.block_type)


class DescriptorValue(tl.tensor_descriptor):  # type: ignore[misc]
    """A tensor descriptor whose methods compute at once."""


def pointer_tensor(address: int, element: Any, region: Any) -> Tensor:
    """A scalar pointer to elements of language type ``element``."""
    handle = Handle(np.array([address], np.uint64), Pointer(SCALARS[element.name]), region)
    return Tensor(handle, tl.pointer_type(element))
