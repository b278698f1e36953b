"""Loads, stores and atomics on host memory, each checked against the storage its pointer came from.

Comes in: handles of addresses, values and masks. Goes out: loaded values; memory changed. In address-only mode nothing
is read or written. Which regions exist is left to the launch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .compat import native
from .errors import IndexOverflow, Misaligned, OutOfBounds
from .formats import Array, Scalar, decode, encode, round_to
from .values import Handle, Region, candidate_line

# Recognisable in a result: floats are NaN, integers repeat this byte.
POISON_BYTE = 0x5B

Change = Callable[[Array, Array], Array]

_UNKNOWN = "an address that no tensor argument gave"


class Memory:
    """Checked access to host memory; ``address_only`` makes loads return zeros and stores do nothing."""

    def __init__(self, poison: bool, address_only: bool) -> None:
        self.poison = poison
        self.address_only = address_only
        self.regions: list[Region] = []
        self.allocations: Callable[[], list[Region]] = list

    def check(self, pointers: Handle, mask: Array | None, kind: str, size: int) -> bool:
        """Raises for an active address outside its region; False when no lane is active."""
        addresses: Array = pointers.data
        if mask is not None and not mask.all():
            if not mask.any():
                return False
            if mask.shape != addresses.shape:
                mask = np.broadcast_to(mask, addresses.shape)
            addresses = addresses[mask]
        if pointers.wrap is not None:
            self._check_wrap(pointers, mask, kind)
        low, high = int(addresses.min()), int(addresses.max()) + size
        region = pointers.region
        if region is not None:
            if low < region.low or high > region.high:
                self._out_of_bounds(addresses, [region], kind, size)
        else:
            self._check_anywhere(addresses, low, high, kind, size)
        if size > 1 and (addresses & np.uint64(size - 1)).any():
            wrong = int(addresses[(addresses & np.uint64(size - 1)) != 0][0])
            raise Misaligned(kind, region.name if region else _UNKNOWN, wrong, size, candidate_line())
        return True

    def _check_wrap(self, pointers: Handle, mask: Array | None, kind: str) -> None:
        wrap = pointers.wrap
        assert wrap is not None
        lanes = np.broadcast_to(wrap.lanes, pointers.data.shape)
        if (lanes if mask is None else lanes & mask).any():
            raise IndexOverflow(wrap.operation, wrap.value, wrap.where, kind, candidate_line())

    def _check_anywhere(self, addresses: Array, low: int, high: int, kind: str, size: int) -> None:
        regions = self.regions
        for region in regions:
            if region.low <= low and high <= region.high:
                return
        self._out_of_bounds(addresses, regions + self.allocations(), kind, size)

    def _out_of_bounds(self, addresses: Array, regions: list[Region], kind: str, size: int) -> None:
        inside = np.zeros(addresses.shape, bool)
        for region in regions:
            if region.high - region.low >= size:
                inside |= (addresses >= np.uint64(region.low)) & (addresses <= np.uint64(region.high - size))
        if inside.all():
            return
        wrong = int(addresses[~inside][0])
        if not regions:
            raise OutOfBounds(kind, _UNKNOWN, wrong, 0, candidate_line())

        def distance(region: Region) -> int:
            return min(abs(_signed(wrong - region.low)), abs(_signed(wrong - region.high)))

        near = min(regions, key=distance)
        element = _signed(wrong - near.first) // size
        raise OutOfBounds(kind, near.name, element, (near.high - near.first) // size, candidate_line())

    def load(self, pointers: Handle, mask: Handle | None, other: Handle | None) -> Handle:
        """Values at ``pointers``; lanes masked off give ``other``, else poison (their value is undefined)."""
        ty: Scalar = pointers.ty.element
        lanes = None if mask is None else mask.data
        some = self.check(pointers, lanes, "load", ty.size)
        addresses = pointers.data
        if self.address_only:
            return Handle(np.zeros(addresses.shape, ty.np), ty)
        if other is not None:
            fill = np.broadcast_to(_to_storage(other.data, ty), addresses.shape)
        elif lanes is None:
            fill = np.empty(addresses.shape, ty.storage)
        else:
            fill = self.undefined(addresses.shape, ty)
        if not some:
            return Handle(_from_storage(fill, ty), ty)
        active = np.ones(addresses.shape, bool) if lanes is None else _full(lanes, addresses.shape)
        stored = native.load(_contiguous(addresses), active, np.ascontiguousarray(fill), ty.storage)
        return Handle(_from_storage(stored, ty), ty)

    def undefined(self, shape: tuple[int, ...], ty: Scalar) -> Array:
        """Storage for lanes whose value is undefined."""
        if not self.poison:
            return np.zeros(shape, ty.storage)
        if ty.form is not None:
            return np.full(shape, encode(np.array([np.nan], np.float32), ty.form)[0])
        if ty.floating:
            return np.full(shape, np.nan, ty.np)
        if ty.bits == 1:
            return np.ones(shape, bool)
        return np.frombuffer(bytes([POISON_BYTE]) * ty.size, ty.np).repeat(int(np.prod(shape))).reshape(shape)

    def store(self, pointers: Handle, value: Handle, mask: Handle | None) -> None:
        """Writes ``value`` where the mask is set."""
        ty: Scalar = pointers.ty.element
        lanes = None if mask is None else mask.data
        if not self.check(pointers, lanes, "store", ty.size) or self.address_only:
            return
        addresses = _contiguous(pointers.data)
        active = np.ones(addresses.shape, bool) if lanes is None else _full(lanes, addresses.shape)
        native.store(addresses, _full(_to_storage(value.data, ty), addresses.shape), active)

    def update(self, pointers: Handle, value: Handle, mask: Array | None, change: Change, kind: str) -> Handle:
        """Read-modify-write lane by lane in lane order; gives the values before each lane's own change.

        Lanes that hit one address are served in rounds, one lane per address and round.
        """
        ty: Scalar = pointers.ty.element
        shape = pointers.data.shape
        old = np.zeros(shape, ty.np)
        if not self.check(pointers, mask, kind, ty.size) or self.address_only:
            return Handle(old, ty)
        addresses = _contiguous(pointers.data).ravel()
        values = _full(value.data, shape).ravel()
        flat = old.reshape(-1)
        waiting = np.arange(addresses.size) if mask is None else np.flatnonzero(_full(mask, shape))
        while waiting.size:
            _, first = np.unique(addresses[waiting], return_index=True)
            turn = waiting[first]
            before = self._read(addresses[turn], ty)
            flat[turn] = before
            after = change(before, values[turn])
            everywhere = np.ones(turn.size, bool)
            native.store(addresses[turn], np.ascontiguousarray(_to_storage(after, ty)), everywhere)
            waiting = np.delete(waiting, first) if first.size < waiting.size else waiting[:0]
        return Handle(flat.reshape(shape), ty)

    def _read(self, addresses: Array, ty: Scalar) -> Array:
        everywhere = np.ones(addresses.shape, bool)
        return _from_storage(native.load(addresses, everywhere, np.empty(addresses.shape, ty.storage), ty.storage), ty)


def _signed(difference: int) -> int:
    return difference - 2**64 if difference >= 2**63 else difference


def _full(data: Array, shape: tuple[int, ...]) -> Array:
    return np.ascontiguousarray(np.broadcast_to(data, shape)) if data.shape != shape else _contiguous(data)


def _contiguous(data: Array) -> Array:
    return data if data.flags.c_contiguous else np.ascontiguousarray(data)


def _from_storage(stored: Array, ty: Scalar) -> Array:
    return stored if ty.form is None else decode(stored, ty.form)


def _to_storage(data: Array, ty: Scalar) -> Array:
    if ty.form is None:
        return data if data.dtype == ty.np else data.astype(ty.np)
    return encode(data, ty.form)


def combine_float(ty: Any) -> Change:
    """Addition in the element type ``ty``, rounded once."""
    if ty.form is None:
        return lambda a, b: (a + b).astype(a.dtype, copy=False)
    return lambda a, b: round_to(a + b, ty.form)
