"""The ring of input slots of timed calls: where they lie in memory, other bytes for the same addresses, an empty cache.

In: the arguments of a first call, how those of others are drawn, a seed. Out: a `Ring`. Left to others: timing
(`clock`), which inputs (`evaluate` sends a key just before each burst).

Slots keep their addresses, their bytes are renewed in place before each use, through an alias, so that neither pointer
nor version moves. There are enough for the longest burst, at most 4 GiB and 40 % of free memory. Where a slot lies is
drawn: its tensors in shuffled order, before each a random multiple of 256 B, so that an arm has neither always the
alignment that an allocator gives nor addresses that follow from those of another slot. Renewing and earlier calls
would leave a slot in the cache, and weights stay there in any case; so in mode `cold`, unless one slot alone is four
times the last cache, as much or 256 MB are read, changed and written before each call.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

SLOTS_LEAST, SLOTS_USUAL = 2, 20
RING_BYTES = 4 << 30
MEMORY_SHARE = 0.4
FLUSH_BYTES = 256 << 20
ALIGNED = 256
GAP_BYTES = 1 << 20  # at most before each tensor
CPU_CACHE = 1 << 20  # no processor's: nobody claims anything of times on a CPU, where only the plumbing is tried
CPU_MEMORY = 1 << 30

_synchronize: Any = getattr(torch._C, "_cuda_synchronize", None)
_storage_at: Any = torch._C._construct_storage_from_data_pointer
_add = torch.Tensor.add_
_copy = torch.Tensor.copy_
_clone = torch.Tensor.clone


@contextlib.contextmanager
def unhooked() -> Iterator[None]:
    """Without torch-function hooks: nothing that is done inside calls foreign Python."""
    with torch._C.DisableTorchFunction():
        yield


@dataclass(frozen=True)
class Memory:
    """What there is on the device: bytes of the last cache, and free bytes."""

    cache: int
    free: int


def memory(device: str) -> Memory:
    """The device's last cache and free memory now."""
    if not device.startswith("cuda"):
        return Memory(CPU_CACHE, CPU_MEMORY)
    return Memory(int(torch.cuda.get_device_properties(device).L2_cache_size), int(torch.cuda.mem_get_info(device)[0]))


def slots_for(room: int, found: Memory, most: int = 0) -> int:
    """How many slots a ring has here that take `room` bytes each, gaps included; at most `most`, 0 for as usual."""
    allowed = min(RING_BYTES, MEMORY_SHARE * found.free) // max(1, room)
    return int(max(SLOTS_LEAST, min(most or SLOTS_USUAL, allowed)))


def flush_for(footprint: int, found: Memory, device: str) -> int:
    """Bytes that are written before each cold call; 0 where a slot alone empties the cache."""
    if footprint >= 4 * found.cache:
        return 0
    return max(FLUSH_BYTES, 4 * found.cache) if device.startswith("cuda") else 2 * found.cache


class Ring:
    """Input slots whose addresses stay and whose bytes are renewed.

    Args:
        first: arguments of the first slot.
        draw: gives the arguments of slot 1, 2, ...
        slots: how many; 0 = as many as `slots_for` says.
        most: of them, 0 = as usual.
        seed: draws where the slots lie; None leaves them where they were made.

    Attributes:
        footprint: bytes of one slot's tensors.
        room: bytes that a slot takes at most, with gaps.
        ahead: whether the last burst was submitted before the device began with its calls.
        graphs: by slot, what runs in place of the function in mode `graph`; empty before they are captured.
    """

    def __init__(
        self,
        first: Sequence[Any],
        draw: Callable[[int], Sequence[Any]],
        device: str,
        slots: int = 0,
        seed: int | None = None,
        most: int = 0,
    ) -> None:
        self.device, self.cuda = device, device.startswith("cuda")
        self.footprint = nbytes(first)
        self.room = self.footprint if seed is None else room_of(_extents(first, device).values())
        found = memory(device)
        count = slots or slots_for(self.room, found, most)
        self._arenas: list[Any] = []  # own the memory of the slots
        self.slots: list[Sequence[Any]] = [self._placed(first, seed, 0)]
        del first
        self.slots += [self._placed(draw(i), seed, i) for i in range(1, count)]
        self._aliases = [_aliases(slot) for slot in self.slots]
        self.graphs: list[Callable[[], Any]] = []
        self.ahead = False
        self.flush_bytes = flush_for(self.footprint, found, device)
        self._flush: Any = None

    def _placed(self, arguments: Sequence[Any], seed: int | None, slot: int) -> Sequence[Any]:
        if seed is None:
            return arguments
        placed, arena = place(arguments, self.device, random.Random(f"{seed}/slots/{slot}"))
        self._arenas.append(arena)
        return placed

    def renew(self, slot: int, arguments: Sequence[Any]) -> None:
        """Gives the slot other bytes, in place: its tensors stay the same objects, with pointer and version."""
        leaves = pytree.tree_leaves(list(arguments))
        with torch.no_grad(), unhooked():
            for alias, fresh in zip(self._aliases[slot], leaves, strict=True):
                if alias is not None:
                    _copy(alias, fresh.detach()[tuple(slice(0, n) for n in alias.shape)])

    def chill(self) -> None:
        """Empties the cache: reads, changes and writes `flush_bytes`, and gives up lines that were asked to stay."""
        if self.cuda:
            _reset_persisting()
        if self.flush_bytes:
            if self._flush is None:
                self._flush = torch.zeros(self.flush_bytes // 4, dtype=torch.int32, device=self.device)
            with unhooked():
                _add(self._flush, 1)

    def touch(self, slot: int) -> None:
        """Reads the slot, so that as much of it as fits lies in the cache."""
        with unhooked():
            for alias in self._aliases[slot]:
                if alias is not None and alias.numel():
                    _clone(alias)

    def wait(self) -> None:
        """Until the device has finished."""
        if self.cuda and _synchronize is not None:
            _synchronize()


def place(arguments: Sequence[Any], device: str, drawn: random.Random) -> tuple[Sequence[Any], Any]:
    """The same arguments in one new piece of memory, each tensor at a random multiple of 256 B, and that memory.

    Strides, offsets, zero strides and what shares memory stay as they are; the memory of each tensor is a storage of
    its own and shows nothing of its neighbours. What is no dense tensor, and what lies elsewhere, stays where it is.
    The caller keeps the memory as long as the arguments.
    """
    leaves, tree = pytree.tree_flatten(list(arguments))
    extents = _extents(leaves, device)
    if not extents:
        return arguments, None
    order = list(extents)
    drawn.shuffle(order)
    starts, used = {}, 0
    for key in order:
        used += drawn.randrange(GAP_BYTES // ALIGNED + 1) * ALIGNED
        starts[key] = used
        used += _rounded(extents[key])
    arena = torch.empty(used + ALIGNED, dtype=torch.uint8, device=device)
    first = _rounded(arena.data_ptr()) - arena.data_ptr()  # a CPU's memory begins where it likes
    storages = {}
    with torch.no_grad(), unhooked():
        moved = list(leaves)
        for number, leaf in enumerate(leaves):
            if not _movable(leaf, device):
                continue
            key = leaf.untyped_storage().data_ptr()
            if key not in storages:
                offset, size = first + starts[key], extents[key]
                was = torch.empty(0, dtype=torch.uint8, device=device).set_(leaf.untyped_storage(), 0, (size,))
                _copy(arena[offset : offset + size], was)
                storages[key] = _storage_at(arena.data_ptr() + offset, arena.device, size)
            moved[number] = _at(leaf, storages[key])
    return list(pytree.tree_unflatten(moved, tree)), arena


def room_of(extents: Any) -> int:
    """Bytes that tensors of these extents take at most once they are placed."""
    return sum(_rounded(size) + GAP_BYTES for size in extents) + ALIGNED


def _at(leaf: Any, storage: Any) -> Any:
    made = torch.empty(0, dtype=leaf.dtype, device=leaf.device)
    made.set_(storage, leaf.storage_offset(), leaf.shape, leaf.stride())
    return made.requires_grad_(leaf.requires_grad)


def _extents(arguments: Sequence[Any], device: str) -> Mapping[int, int]:
    """By the address of each storage of the tensors that can be moved: bytes up to the last element that one uses."""
    found: dict[int, int] = {}
    for leaf in (one for one in pytree.tree_leaves(list(arguments)) if _movable(one, device)):
        last = leaf.storage_offset() + sum((n - 1) * s for n, s in zip(leaf.shape, leaf.stride(), strict=True))
        key = leaf.untyped_storage().data_ptr()
        found[key] = max(found.get(key, 0), (last + 1) * leaf.element_size())
    return found


def _movable(leaf: Any, device: str) -> bool:
    """Whether it is a plain dense tensor with elements in this device's memory."""
    return (
        type(leaf) is torch.Tensor
        and leaf.device.type == device.partition(":")[0]
        and leaf.layout is torch.strided
        and leaf.is_leaf
        and not (leaf.is_quantized or leaf.is_conj() or leaf.is_neg())
        and leaf.numel() > 0
    )


def _rounded(size: int) -> int:
    return -(-size // ALIGNED) * ALIGNED


def _aliases(arguments: Sequence[Any]) -> list[Any]:
    """For each leaf a view of the same memory whose version counter is its own; None for what is no tensor.

    Elements that a zero stride repeats are in the view once.
    """
    made: list[Any] = []
    for leaf in pytree.tree_leaves(list(arguments)):
        alias = leaf.data if isinstance(leaf, torch.Tensor) else None
        made.append(None if alias is None else _once(alias))
    return made


def _once(values: Any) -> Any:
    """`values` with each place in memory once, where dimensions repeat it by a zero stride."""
    if not values.numel():
        return values
    shape = [1 if s == 0 else n for s, n in zip(values.stride(), values.shape, strict=True)]
    return values.as_strided(shape, values.stride(), values.storage_offset())


def nbytes(arguments: Any) -> int:
    """Bytes of all tensors in a pytree."""
    return sum(t.numel() * t.element_size() for t in pytree.tree_leaves(arguments) if isinstance(t, torch.Tensor))


def _reset_persisting() -> None:
    """Gives up lines that a kernel asked the last cache to keep; what has no such lines says so and nothing happens."""
    if (reset := _persisting_reset()) is not None:
        reset()


@functools.cache
def _persisting_reset() -> Callable[[], int] | None:
    """The driver's function for it; None where there is none, as on AMD."""
    try:
        found: Callable[[], int] = ctypes.CDLL("libcuda.so.1").cuCtxResetPersistingL2Cache
    except (OSError, AttributeError):
        return None
    return found
