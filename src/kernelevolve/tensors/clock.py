"""The clock of timed calls: timing functions as they were before any foreign code, a ring of input slots, bursts.

In: a function, its inputs for each call, a device. Out: milliseconds per call, with the results handed on. Left to
others: which inputs (`evaluate` sends a key just before each burst), holding results (`held`), interleaving two arms
and statistics (`evaluate.timing`). Judge (baselines) and worker (candidate) share it.

What is captured at import cannot be replaced by name afterwards; `replaced` says what somebody has tried to. In the
process that holds a candidate all of it remains that process's claim: the host's own clock checks it
(`evaluate.consistency`).

Ring: slots keep their addresses, their bytes are renewed in place before each use, through an alias, so that neither
pointer nor version moves. There are enough for the longest burst, at most 4 GiB and 40 % of free memory. Renewing and
earlier calls would leave a slot in the cache, and weights stay there in any case; so in mode `cold`, unless one slot
alone is four times the last cache, as much or 256 MB are read, changed and written before each call.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.utils import _pytree as pytree

Mode = Literal["cold", "hot", "burst"]
SLOTS_LEAST, SLOTS_USUAL = 2, 20
RING_BYTES = 4 << 30
MEMORY_SHARE = 0.4
FLUSH_BYTES = 256 << 20
SPIN_CYCLES = 200_000  # about 0.1 ms at 2 GHz
WARM_CALLS = 3
WARM_LONGEST = 2.0  # seconds for seeing every slot once, at most
CPU_CACHE = 1 << 20  # no processor's: nobody claims anything of times on a CPU, where only the plumbing is tried
CPU_MEMORY = 1 << 30

_perf_counter = time.perf_counter
_EventBase: Any = getattr(torch._C, "_CudaEventBase", torch.cuda.Event)
_record: Any = getattr(_EventBase, "record", None)
_elapsed: Any = getattr(_EventBase, "elapsed_time", None)
_synchronize: Any = getattr(torch._C, "_cuda_synchronize", None)
_sleep: Any = getattr(torch._C, "_cuda_sleep", None)
_add = torch.Tensor.add_
_copy = torch.Tensor.copy_
_clone = torch.Tensor.clone
_WATCHED: tuple[tuple[str, Any, str, Any], ...] = tuple(
    (f"{owner.__name__}.{name}", owner, name, getattr(owner, name, None))
    for owner, names in (
        (time, ("perf_counter", "perf_counter_ns", "monotonic", "monotonic_ns", "time", "time_ns")),
        (torch.cuda, ("Event", "synchronize", "current_stream", "_sleep")),
        (torch.cuda.Event, ("record", "elapsed_time", "synchronize", "query", "__new__")),
        (torch.cuda.Stream, ("synchronize", "record_event")),
        (torch._C, ("_cuda_synchronize", "_cuda_sleep", "_cuda_getCurrentStream")),
    )
    for name in names
)


def replaced() -> list[str]:
    """Names of timing functions that are no longer what they were before foreign code ran."""
    return [label for label, owner, name, was in _WATCHED if getattr(owner, name, None) is not was and was is not None]


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


def slots_for(footprint: int, found: Memory) -> int:
    """How many slots of `footprint` bytes a ring has here."""
    allowed = min(RING_BYTES, MEMORY_SHARE * found.free) // max(1, footprint)
    return int(max(SLOTS_LEAST, min(SLOTS_USUAL, allowed)))


def flush_for(footprint: int, found: Memory, device: str) -> int:
    """Bytes that are written before each cold call; 0 where a slot alone empties the cache."""
    if footprint >= 4 * found.cache:
        return 0
    return max(FLUSH_BYTES, 4 * found.cache) if device.startswith("cuda") else 2 * found.cache


@dataclass(frozen=True)
class Warmed:
    """What warming up took.

    Attributes:
        calls, seconds: in all.
        first: seconds of the first call, with compilation.
        slots: of the ring.
        flush: bytes written before each cold call.
        footprint: bytes of one slot.
        output: bytes of one call's results.
        free: bytes of device memory that are free now.
    """

    calls: int
    seconds: float
    first: float
    slots: int
    flush: int
    footprint: int
    output: int = 0
    free: int = 0


class Ring:
    """Input slots whose addresses stay and whose bytes are renewed.

    Args:
        first: arguments of the first slot.
        draw: gives the arguments of slot 1, 2, ...
        slots: how many; 0 = as many as `slots_for` says.
    """

    def __init__(self, first: Sequence[Any], draw: Callable[[int], Sequence[Any]], device: str, slots: int = 0) -> None:
        self.device, self.cuda = device, device.startswith("cuda")
        self.footprint = nbytes(first)
        found = memory(device)
        count = slots or slots_for(self.footprint, found)
        self.slots: list[Sequence[Any]] = [first, *(draw(i) for i in range(1, count))]
        self._aliases = [_aliases(slot) for slot in self.slots]
        self.flush_bytes = flush_for(self.footprint, found, device)
        self._flush: Any = None

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


def warm(function: Callable[..., Any], ring: Ring, seconds: float) -> tuple[Warmed, Any]:
    """Calls `function` at least three times, once per slot, and for `seconds` of wall time; also the last result."""
    start = _perf_counter()
    result = function(*ring.slots[0])
    ring.wait()
    first = _perf_counter() - start
    calls = 1
    while calls < max(WARM_CALLS, len(ring.slots)) or _perf_counter() - start < seconds:
        result = function(*ring.slots[calls % len(ring.slots)])
        calls += 1
        if calls % 8 == 0:
            ring.wait()
        if _perf_counter() - start > max(10 * seconds, WARM_LONGEST) + first and calls >= WARM_CALLS:
            break  # a slow function need not see every slot
    ring.wait()
    took = _perf_counter() - start
    size, free = nbytes(result), memory(ring.device).free
    return Warmed(calls, took, first, len(ring.slots), ring.flush_bytes, ring.footprint, size, free), result


def burst(
    function: Callable[..., Any],
    ring: Ring,
    untimed: Sequence[int],
    timed: Sequence[int],
    mode: Mode,
    hold: Callable[[Any], None],
) -> list[float]:
    """Milliseconds of each call on the slots `timed`, after calls on the slots `untimed`.

    Args:
        mode: `cold` and `hot` time each call by itself, on an empty cache or on inputs just read; `burst` times all
            of them back to back and gives each the same share.
        hold: is given each timed result as soon as its call is timed (`burst`: once all are).
    """
    for slot in untimed:
        function(*ring.slots[slot])
    ring.wait()
    if not ring.cuda:
        return _burst_cpu(function, ring, timed, mode, hold)
    with torch.cuda.device(ring.device):
        return _burst_cuda(function, ring, timed, mode, hold)


def _burst_cuda(
    function: Callable[..., Any], ring: Ring, timed: Sequence[int], mode: Mode, hold: Callable[[Any], None]
) -> list[float]:
    pairs = [(_event(), _event()) for _ in (timed if mode != "burst" else timed[:1])]
    stream = torch.cuda.current_stream()
    if mode == "burst":
        (start, end), results = pairs[0], []
        _sleep(SPIN_CYCLES)
        _record(start, stream)
        for slot in timed:
            results.append(function(*ring.slots[slot]))
        _record(end, stream)
        for result in results:
            hold(result)
        ring.wait()
        return [float(_elapsed(start, end)) / len(timed)] * len(timed)
    for (start, end), slot in zip(pairs, timed, strict=True):
        arguments = ring.slots[slot]
        if mode == "cold":
            ring.chill()
        else:
            ring.touch(slot)
        _sleep(SPIN_CYCLES)
        _record(start, stream)
        result = function(*arguments)
        _record(end, stream)
        hold(result)
        del result
    ring.wait()
    return [float(_elapsed(start, end)) for start, end in pairs]


def _event() -> Any:
    return _EventBase(enable_timing=True, blocking=False, interprocess=False)


def _burst_cpu(
    function: Callable[..., Any], ring: Ring, timed: Sequence[int], mode: Mode, hold: Callable[[Any], None]
) -> list[float]:
    if mode == "burst":
        start, results = _perf_counter(), []
        for slot in timed:
            results.append(function(*ring.slots[slot]))
        took = (_perf_counter() - start) * 1e3
        for result in results:
            hold(result)
        return [took / len(timed)] * len(timed)
    times = []
    for slot in timed:
        arguments = ring.slots[slot]
        if mode == "cold":
            ring.chill()
        else:
            ring.touch(slot)
        start = _perf_counter()
        result = function(*arguments)
        times.append((_perf_counter() - start) * 1e3)
        hold(result)
        del result
    return times


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
