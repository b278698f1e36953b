"""The builder that Triton's semantics drive: it computes each operation at once instead of emitting IR.

Comes in: the calls that ``triton.language.semantic`` makes of an IR builder, with handles. Goes out: handles. Shapes,
memory, blocks and descriptors are here; arithmetic, products, device functions in their own modules; what the
language's names mean is left to Triton.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from . import libdevice, products
from .arithmetic import Floats, Integers
from .compat import ir
from .conversions import Casts, Types, unsigned
from .errors import AssumptionFailed, CannotBeSeen, InvalidDescriptor
from .formats import INT1, INT32, Array, Pointer, round_tf32
from .memory import Change, Memory, combine_float
from .values import Handle, Wrap, candidate_line


@dataclass(frozen=True)
class Options:
    """What the semantics ask of a target; without one, every input precision and float8 type is accepted."""

    extern_libs: None = None
    debug: bool = False
    sanitize_overflow: bool = True
    arch: str | None = None
    num_warps: int = 4
    num_ctas: int = 1
    num_stages: int = 1
    supported_fp8_dtypes: tuple[str, ...] = ("fp8e5", "fp8e5b16", "fp8e4nv", "fp8e4b8", "fp8e4b15")
    deprecated_fp8_dot_operand_dtypes: tuple[str, ...] = ()
    default_dot_input_precision: str = "tf32"
    allowed_dot_input_precisions: tuple[str, ...] = ("tf32", "tf32x3", "ieee", "bf16x3", "bf16x6")
    max_num_imprecise_acc_default: int = 0
    backend_name: str = "interpreter"


@dataclass(frozen=True)
class BlockPointer:
    """A block pointer (Triton before 3.9)."""

    base: Handle
    shape: list[Handle]
    strides: list[Handle]
    offsets: list[Handle]
    block_shape: list[int]


@dataclass(frozen=True)
class Descriptor:
    """A tensor descriptor: base, extents, strides in elements, block shape and what lies outside."""

    base: Handle
    shape: list[Handle]
    strides: list[Handle]
    block_shape: tuple[int, ...]
    padding: Any
    round_tf32: bool = False


def _fp8e4b15(value: Any, dst_ty: Any, rounding: Any, _semantic: Any) -> Any:
    handle = _semantic.builder.create_fp_to_fp(value.handle, dst_ty.to_ir(_semantic.builder), rounding)
    return _semantic.make_tensor(handle, dst_ty)


class Builder(Types, Casts, Integers, Floats):
    """One launch's builder: `memory` checks and makes accesses, `program` is the current program's index."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.options = Options()
        self.codegen_fns = {"convert_custom_types": _fp8e4b15, "min_dot_size": lambda lhs, rhs: (1, 1, 1)}
        self.program = (0, 0, 0)
        self.grid = (1, 1, 1)
        self.printed: list[str] = []

    # Programs and hints.

    def create_get_program_id(self, axis: int) -> Handle:
        return Handle(np.array([self.program[axis]], np.int32), INT32)

    def create_get_num_programs(self, axis: int) -> Handle:
        return Handle(np.array([self.grid[axis]], np.int32), INT32)

    def create_barrier(self) -> None:
        """Programs run one after another and in lock step: a barrier has nothing to do."""

    create_grid_dependency_wait = create_grid_dependency_launch_dependents = create_barrier

    def create_assume(self, condition: Handle) -> None:
        if not condition.data.all():
            raise AssumptionFailed("the condition of tl.assume", candidate_line())

    def create_print(self, prefix: str, hexadecimal: bool, values: Sequence[Handle], signed: Sequence[bool]) -> None:
        pairs = zip(values, signed, strict=True)
        shown = [v.data if s or v.ty.floating or v.ty is INT1 else unsigned(v.data) for v, s in pairs]
        texts = [np.array2string(d, formatter={"int": hex} if hexadecimal else None) for d in shown]
        self.printed.append(f"{self.program}{prefix}{' '.join(texts)}")

    # Shapes.

    def create_splat(self, ty: Any, value: Handle) -> Handle:
        shape = ty.shape
        data = value.data
        # One element seen everywhere: cheaper than np.broadcast_to, which this does most often.
        data = np.ndarray(shape, data.dtype, data, 0, (0,) * len(shape))
        wrap = value.wrap
        if wrap is not None:
            wrap = replace(wrap, lanes=np.broadcast_to(wrap.lanes.reshape((1,) * len(shape)), shape))
        return Handle(data, value.ty, value.region, wrap)

    def create_unsplat(self, value: Handle) -> Handle:
        return value.moved(lambda d: d.reshape(-1)[:1])

    def create_broadcast(self, value: Handle, shape: Any) -> Handle:
        shape = tuple(int(s) for s in shape)
        return value.moved(lambda d: np.broadcast_to(d, shape))

    def create_reshape(self, value: Handle, shape: Any, allow_reorder: bool) -> Handle:
        shape = tuple(int(s) for s in shape)
        return value.moved(lambda d: d.reshape(shape))

    def create_expand_dims(self, value: Handle, axis: int) -> Handle:
        return value.moved(lambda d: np.expand_dims(d, axis))

    def create_trans(self, value: Handle, order: Any) -> Handle:
        order = tuple(int(o) for o in order)
        return value.moved(lambda d: d.transpose(order))

    def create_cat(self, a: Handle, b: Handle) -> Handle:
        return Handle(np.concatenate([a.data, b.data]), a.ty, a.region if a.region is b.region else None)

    def create_join(self, a: Handle, b: Handle) -> Handle:
        return Handle(np.stack([a.data, b.data], axis=-1), a.ty, a.region if a.region is b.region else None)

    def create_split(self, value: Handle) -> tuple[Handle, Handle]:
        return value.moved(lambda d: _scalar(d[..., 0])), value.moved(lambda d: _scalar(d[..., 1]))

    def create_make_range(self, ty: Any, start: int, end: int) -> Handle:
        return Handle(np.arange(start, end, dtype=np.int32), INT32)

    def create_gather(self, source: Handle, indices: Handle, axis: int) -> Handle:
        return Handle(np.take_along_axis(source.data, unsigned(indices.data), axis=axis), source.ty, source.region)

    def create_histogram(self, values: Handle, bins: int, mask: Handle | None) -> Handle:
        codes = unsigned(values.data)
        counted = codes[(codes < bins) & (True if mask is None else mask.data)]
        return Handle(np.bincount(counted, minlength=bins).astype(np.int32), INT32)

    # Addresses and memory.

    def create_addptr(self, pointer: Handle, offset: Handle) -> Handle:
        size = pointer.ty.element.size
        step = offset.data.astype(np.int64)
        moved = pointer.data + (step if size == 1 else step * size).view(np.uint64)
        wrap = offset.wrap if pointer.wrap is None else pointer.wrap
        return Handle(moved, pointer.ty, pointer.region, wrap)

    def get_cache_policy(self, modifier: Any, eviction: Any) -> None:
        return None

    def create_load(self, pointer: Handle, *policy: Any) -> Handle:
        return self.memory.load(pointer, None, None)

    def create_masked_load(self, pointer: Handle, mask: Handle, other: Handle | None, *policy: Any) -> Handle:
        return self.memory.load(pointer, mask, other)

    def create_store(self, pointer: Handle, value: Handle, *policy: Any) -> None:
        self.memory.store(pointer, value, None)

    def create_masked_store(self, pointer: Handle, value: Handle, mask: Handle, *policy: Any) -> None:
        self.memory.store(pointer, value, mask)

    def create_atomic_load(self, pointer: Handle, mask: Handle, sem: Any, scope: Any) -> Handle:
        return self.memory.load(pointer, mask, None)

    def create_atomic_store(self, pointer: Handle, value: Handle, mask: Handle, sem: Any, scope: Any) -> None:
        self.memory.store(pointer, value, mask)

    def create_atomic_poll(self, pointer: Handle, expected: Handle, timeout: Any, sem: Any, scope: Any) -> Handle:
        found = self.memory.load(pointer, None, None).data == expected.data
        if not found.all() and not isinstance(timeout, Handle):
            raise CannotBeSeen("tl.atomic_poll of a value that another program must write later", candidate_line())
        return Handle(found, INT1)

    def create_atomic_rmw(self, op: Any, pointer: Handle, value: Handle, mask: Handle, sem: Any, scope: Any) -> Handle:
        ty = value.ty
        change = combine_float(ty) if op == ir.ATOMIC_OP.FADD else _CHANGES[str(op).rsplit(".", 1)[-1]]
        return self.memory.update(pointer, value, mask.data, change, "atomic")

    def create_atomic_cas(self, pointer: Handle, expected: Handle, value: Handle, sem: Any, scope: Any) -> Handle:
        shape = pointer.data.shape
        pair = np.empty(shape, [("expected", expected.data.dtype), ("value", value.data.dtype)])
        pair["expected"], pair["value"] = expected.data, value.data

        def change(old: Array, new: Array) -> Array:
            return np.where(old == new["expected"], new["value"], old)

        return self.memory.update(pointer, Handle(pair, value.ty), None, change, "atomic")

    # Block pointers (Triton before 3.9).

    def create_make_block_ptr(
        self, base: Handle, shape: Any, strides: Any, offsets: Any, block_shape: Any, order: Any
    ) -> BlockPointer:
        return BlockPointer(base, list(shape), list(strides), list(offsets), [int(b) for b in block_shape])

    def create_advance(self, pointer: BlockPointer, offsets: Sequence[Handle]) -> BlockPointer:
        moved = []
        for offset, step in zip(pointer.offsets, offsets, strict=True):
            self.checked = True
            moved.append(self.create_add(offset, step))
        return replace(pointer, offsets=moved)

    def create_tensor_pointer_load(self, pointer: BlockPointer, boundary: Any, padding: Any, *policy: Any) -> Handle:
        addresses, inside = _block_addresses(pointer, tuple(int(b) for b in boundary))
        return self.memory.load(addresses, inside, self._padding(addresses, padding))

    def create_tensor_pointer_store(self, pointer: BlockPointer, value: Handle, boundary: Any, *policy: Any) -> None:
        addresses, inside = _block_addresses(pointer, tuple(int(b) for b in boundary))
        self.memory.store(addresses, value, inside)

    def _padding(self, addresses: Handle, padding: Any) -> Handle | None:
        if padding is None:
            return None
        ty = addresses.ty.element
        fill = np.nan if padding == ir.PADDING_OPTION.PAD_NAN else 0
        return Handle(np.full((1,) * addresses.data.ndim, fill, ty.np), ty)

    # Tensor descriptors.

    def create_make_tensor_descriptor(
        self, base: Handle, shape: Any, strides: Any, block_shape: Any, signed: bool, padding: Any = None
    ) -> Descriptor:
        size = base.ty.element.size
        steps = [int(s.data.item()) for s in strides]
        if int(base.data.item()) % 16:
            address = base.data.item()
            raise InvalidDescriptor(
                f"a descriptor's base must be 16-byte aligned, is {address:#x} at {candidate_line()}"
            )
        if any(step * size % 16 for step in steps[:-1]) or steps[-1] != 1:
            raise InvalidDescriptor(
                f"a descriptor's strides must be multiples of 16 bytes and the last 1 element, are {steps} of"
                f" {size}-byte elements at {candidate_line()}"
            )
        return Descriptor(base, list(shape), list(strides), tuple(int(b) for b in block_shape), padding)

    def create_descriptor_load(self, descriptor: Descriptor, indices: Sequence[Handle], *policy: Any) -> Handle:
        addresses, inside = _block_addresses(_as_block(descriptor, indices), tuple(range(len(indices))))
        padding = ir.PADDING_OPTION.PAD_ZERO if descriptor.padding is None else descriptor.padding
        loaded = self.memory.load(addresses, inside, self._padding(addresses, padding))
        return Handle(round_tf32(loaded.data), loaded.ty) if descriptor.round_tf32 else loaded

    def create_descriptor_store(self, descriptor: Descriptor, value: Handle, indices: Sequence[Handle]) -> None:
        addresses, inside = _block_addresses(_as_block(descriptor, indices), tuple(range(len(indices))))
        self.memory.store(addresses, value, inside)

    def create_descriptor_reduce(
        self, kind: Any, descriptor: Descriptor, value: Handle, indices: Sequence[Handle]
    ) -> None:
        addresses, inside = _block_addresses(_as_block(descriptor, indices), tuple(range(len(indices))))
        name = str(kind).rsplit(".", 1)[-1]
        change: Change
        if value.ty.floating:
            change = combine_float(value.ty) if name == "ADD" else {"MIN": np.fmin, "MAX": np.fmax}[name]
        else:
            change = _CHANGES[name]
        self.memory.update(addresses, value, inside.data, change, "atomic")

    def create_descriptor_gather(self, descriptor: Descriptor, rows: Handle, column: Handle, ty: Any) -> Handle:
        addresses, inside = _row_addresses(descriptor, rows, column)
        return self.memory.load(addresses, inside, self._padding(addresses, ir.PADDING_OPTION.PAD_ZERO))

    def create_descriptor_scatter(self, descriptor: Descriptor, value: Handle, rows: Handle, column: Handle) -> None:
        addresses, inside = _row_addresses(descriptor, rows, column)
        self.memory.store(addresses, value, inside)

    # Products and device functions.

    def create_dot(self, a: Handle, b: Handle, accumulator: Handle, precision: Any, imprecise: int) -> Handle:
        if self.memory.address_only:
            return accumulator
        return products.dot(a, b, accumulator, precision)

    def create_dot_scaled(
        self, a: Handle, a_scale: Handle | None, a_kind: Any, b: Handle, b_scale: Handle | None, b_kind: Any,
        fast_math: bool, a_k_pack: bool, b_k_pack: bool, accumulator: Handle,
    ) -> Handle:  # fmt: skip
        left_name, right_name = (str(kind).rsplit(".", 1)[-1] for kind in (a_kind, b_kind))
        left = products.scaled_operand(a, a_scale, left_name, -1 if a_k_pack else -2, rhs=False)
        right = products.scaled_operand(b, b_scale, right_name, -2 if b_k_pack else -1, rhs=True)
        return products.dot_scaled((left, right), accumulator)

    def create_extern_elementwise(
        self, library: str, path: str, symbol: str, arguments: Sequence[Handle], ty: Any, pure: bool
    ) -> Handle:
        return libdevice.call(symbol, arguments, ty.scalar)

    def create_inline_asm(self, *arguments: Any) -> Handle:
        raise CannotBeSeen("inline assembly", candidate_line())


_CHANGES: dict[str, Change] = {
    "ADD": lambda old, new: old + new,
    "MIN": np.minimum,
    "MAX": np.maximum,
    "UMIN": lambda old, new: np.minimum(unsigned(old), unsigned(new)).view(old.dtype),
    "UMAX": lambda old, new: np.maximum(unsigned(old), unsigned(new)).view(old.dtype),
    "AND": np.bitwise_and,
    "OR": np.bitwise_or,
    "XOR": np.bitwise_xor,
    "XCHG": lambda old, new: new,
}


def _scalar(data: Array) -> Array:
    return data.reshape(1) if data.ndim == 0 else data


def _as_block(descriptor: Descriptor, indices: Sequence[Handle]) -> BlockPointer:
    d = descriptor
    return BlockPointer(d.base, d.shape, d.strides, list(indices), list(d.block_shape))


def _block_addresses(pointer: BlockPointer, checked: tuple[int, ...]) -> tuple[Handle, Handle]:
    """Addresses of a block and which of them lie inside the extents of the ``checked`` dimensions."""
    shape = tuple(pointer.block_shape)
    size = pointer.base.ty.element.size
    addresses = np.broadcast_to(pointer.base.data, shape)
    inside = np.ones(shape, bool)
    wrap: Wrap | None = pointer.base.wrap
    for axis, extent in enumerate(shape):
        along = [1] * len(shape)
        along[axis] = extent
        index = (pointer.offsets[axis].data.astype(np.int64) + np.arange(extent)).reshape(along)
        addresses = addresses + (index * pointer.strides[axis].data.astype(np.int64) * size).view(np.uint64)
        if axis in checked:
            inside &= (index >= 0) & (index < pointer.shape[axis].data)
        wrap = wrap or pointer.offsets[axis].wrap or pointer.strides[axis].wrap
    if wrap is not None:
        wrap = replace(wrap, lanes=np.full(shape, wrap.lanes.any()))
    return Handle(addresses, Pointer(pointer.base.ty.element), pointer.base.region, wrap), Handle(inside, INT1)


def _row_addresses(descriptor: Descriptor, rows: Handle, column: Handle) -> tuple[Handle, Handle]:
    """Addresses of whole-row pieces: row numbers by ``rows``, columns from ``column`` on."""
    size = descriptor.base.ty.element.size
    row = rows.data.astype(np.int64)[:, None]
    col = int(column.data.item()) + np.arange(descriptor.block_shape[-1], dtype=np.int64)[None, :]
    step = (row * descriptor.strides[0].data + col) * size
    inside = (row >= 0) & (row < descriptor.shape[0].data) & (col >= 0) & (col < descriptor.shape[1].data)
    addresses = descriptor.base.data + step.view(np.uint64)
    return Handle(addresses, Pointer(descriptor.base.ty.element), descriptor.base.region), Handle(inside, INT1)
