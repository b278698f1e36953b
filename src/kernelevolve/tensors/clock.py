"""The clock of timed calls: timing functions as they were before any foreign code, warming up, bursts.

In: a function, a ring of input slots, a device. Out: milliseconds per call, with the results handed on. Left to others:
the slots and the cache (`ring`), which inputs (`evaluate` sends a key just before each burst), capturing graphs
(`graphs`), holding results (`held`), interleaving two arms and statistics (`evaluate.timing`). Judge (baselines) and
worker (candidate) share it.

What is captured at import cannot be replaced by name afterwards; `replaced` says what somebody has tried to. In the
process that holds a candidate all of it remains that process's claim: the host's own clock checks it
(`evaluate.consistency`).

`lead` of a burst is a busy wait in front of all its calls, so long that they are submitted while it lasts: what the
device then does takes as long as the calls and what lies between them, and not as long as submitting them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from kernelevolve.tensors import native
from kernelevolve.tensors.ring import Ring as Ring
from kernelevolve.tensors.ring import memory, nbytes
from kernelevolve.tensors.ring import unhooked as unhooked

Mode = Literal["cold", "hot", "burst", "graph"]
CYCLES_PER_MS = 2_000_000  # of the busy wait; a clock below 2 GHz waits longer
SPIN_MS = 0.1
WARM_CALLS = 3
WARM_LONGEST = 2.0  # seconds for seeing every slot once, at most

_perf_counter, _altered = time.perf_counter, native.altered
_ON_DEVICE = torch.version.cuda is not None or torch.version.hip is not None
_EventBase: Any = getattr(torch._C, "_CudaEventBase", torch.cuda.Event)
_record: Any = getattr(_EventBase, "record", None)
_elapsed: Any = getattr(_EventBase, "elapsed_time", None)
_query: Any = getattr(_EventBase, "query", None)
_sleep: Any = getattr(torch._C, "_cuda_sleep", None)
_WATCHED: tuple[tuple[str, Any, str, Any], ...] = tuple(
    (f"{owner.__name__}.{name}", owner, name, getattr(owner, name, None))
    for owner, names in (
        (time, ("perf_counter", "perf_counter_ns", "monotonic", "monotonic_ns", "time", "time_ns")),
        (torch.cuda, ("Event", "synchronize", "current_stream", "_sleep")),
        (torch.cuda.Event, ("record", "elapsed_time", "synchronize", "query", "__new__")),
        (torch.cuda.Stream, ("synchronize", "record_event")),
        (torch.cuda.CUDAGraph, ("replay", "capture_begin", "capture_end")),
        (torch._C, ("_cuda_synchronize", "_cuda_sleep", "_cuda_getCurrentStream")),
    )
    for name in names
)


def replaced() -> list[str]:
    """Names of timing functions that are no longer what they were before foreign code ran, or their files' code."""
    names = [label for label, owner, name, was in _WATCHED if getattr(owner, name, None) is not was and was is not None]
    return [*names, *(_altered() if _ON_DEVICE else ())]


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
    lead: float = 0.0,
) -> list[float]:
    """Milliseconds of each call on the slots `timed`, after calls on the slots `untimed`.

    Args:
        mode: `cold` and `hot` time each call by itself, on an empty cache or on inputs just read; `burst` times all
            of them back to back and gives each the same share; `graph` is `cold` with the replay of each slot's graph
            in place of a call.
        hold: is given each timed result as soon as its call is timed (`burst`: once all are).
        lead: milliseconds of busy wait on a device before the first timed call, in place of those before each call;
            `ring.ahead` then says whether all calls were submitted while it lasted.

    Raises:
        RuntimeError: mode `graph`, and nothing was captured.
    """
    calls = [_call(function, ring, slot, mode) for slot in timed]
    for slot in untimed:
        _call(function, ring, slot, mode)()
    ring.wait()
    if not ring.cuda:
        return _burst_cpu(calls, ring, timed, mode, hold)
    with torch.cuda.device(ring.device):
        if mode == "burst":
            return _back_to_back(calls, ring, hold, lead)
        return _one_by_one(calls, ring, timed, mode, hold, lead)


def _call(function: Callable[..., Any], ring: Ring, slot: int, mode: Mode) -> Callable[[], Any]:
    """What is called for one slot; made before the clock runs, and no more work for a graph than for a call."""
    if mode != "graph":
        arguments = ring.slots[slot]
        return lambda: function(*arguments)
    if not ring.graphs:
        raise RuntimeError("nothing was captured: ask `capture` before bursts of mode `graph`")
    return ring.graphs[slot]


def _back_to_back(
    calls: Sequence[Callable[[], Any]], ring: Ring, hold: Callable[[Any], None], lead: float
) -> list[float]:
    start, end, stream = _event(), _event(), torch.cuda.current_stream()
    results = []
    _wait_on_device(max(lead, SPIN_MS))
    _record(start, stream)
    for call in calls:
        results.append(call())
    _record(end, stream)
    for result in results:
        hold(result)
    ring.wait()
    return [float(_elapsed(start, end)) / len(calls)] * len(calls)


def _one_by_one(
    calls: Sequence[Callable[[], Any]],
    ring: Ring,
    timed: Sequence[int],
    mode: Mode,
    hold: Callable[[Any], None],
    lead: float,
) -> list[float]:
    pairs, stream, waited = [(_event(), _event()) for _ in calls], torch.cuda.current_stream(), _event()
    if lead:
        _wait_on_device(lead)
        _record(waited, stream)
    for (start, end), call, slot in zip(pairs, calls, timed, strict=True):
        _ready(ring, slot, mode)
        if not lead:
            _wait_on_device(SPIN_MS)
        _record(start, stream)
        result = call()
        _record(end, stream)
        hold(result)
        del result
    ring.ahead = bool(lead) and not _query(waited)
    ring.wait()
    return [float(_elapsed(start, end)) for start, end in pairs]


def _ready(ring: Ring, slot: int, mode: Mode) -> None:
    """The cache as the mode wants it."""
    if mode == "hot":
        ring.touch(slot)
    else:
        ring.chill()


def _wait_on_device(milliseconds: float) -> None:
    _sleep(int(milliseconds * CYCLES_PER_MS))


def _event() -> Any:
    return _EventBase(enable_timing=True, blocking=False, interprocess=False)


def _burst_cpu(
    calls: Sequence[Callable[[], Any]], ring: Ring, timed: Sequence[int], mode: Mode, hold: Callable[[Any], None]
) -> list[float]:
    if mode == "burst":
        start, results = _perf_counter(), []
        for call in calls:
            results.append(call())
        took = (_perf_counter() - start) * 1e3
        for result in results:
            hold(result)
        return [took / len(calls)] * len(calls)
    times = []
    for call, slot in zip(calls, timed, strict=True):
        _ready(ring, slot, mode)
        start = _perf_counter()
        result = call()
        times.append((_perf_counter() - start) * 1e3)
        hold(result)
        del result
    return times
