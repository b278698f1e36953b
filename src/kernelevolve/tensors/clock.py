"""Cold-cache timing of one callable on one device: a ring of input slots, warm-up, bursts of single timed calls.

In: a function, a way to draw arguments from a seed, a device. Out: milliseconds per call. Left to others: interleaving
two arms (the host, ABBA), statistics, deciding what is faster. Judge (baselines) and worker (candidate) share it.

Ring: R = max(8, ceil(4 L2 / footprint)) slots of differing values, at most 256, at most 40 % of free memory, at least
2. Visiting R slots in a shuffled order leaves little of a slot in the cache when it comes round again; where memory
does not allow such a ring, 256 MB or more are read, modified and written before each call instead. A call is timed by
two CUDA events behind a short busy wait that hides the launch latency; on the CPU by `time.perf_counter`.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

SLOTS_LEAST, SLOTS_USUAL, SLOTS_MOST = 2, 8, 256
MEMORY_SHARE = 0.4
FLUSH_BYTES = 256 << 20
SPIN_CYCLES = 200_000  # about 0.1 ms at 2 GHz
WARM_CALLS = 3
SLOTS_SECONDS = 2.0  # at most, for seeing every slot once
CPU_CACHE = 32 << 20
CPU_MEMORY = 1 << 30

Draw = Callable[[int], Sequence[Any]]


@dataclass(frozen=True)
class Warmed:
    """What warming up took.

    Attributes:
        calls, seconds: in all.
        first: seconds of the first call, with compilation.
        slots: of the ring.
        flush: bytes written before each call because the ring alone does not empty the cache; 0 if it does.
        footprint: bytes of one slot.
    """

    calls: int
    seconds: float
    first: float
    slots: int
    flush: int
    footprint: int


class Ring:
    """Input slots visited in shuffled order."""

    def __init__(self, draw: Draw, seed: int, device: str) -> None:
        self.device, self.cuda = device, device.startswith("cuda")
        self.seed, self.draw = seed, draw
        first = draw(seed)
        self.footprint = _bytes(first)
        self.cache, free = self._memory()
        wanted = max(SLOTS_USUAL, math.ceil(4 * self.cache / max(1, self.footprint)))
        allowed = int(MEMORY_SHARE * free / max(1, self.footprint))
        count = max(SLOTS_LEAST, min(wanted, allowed, SLOTS_MOST))
        self.slots: list[Sequence[Any]] = [first, *(draw(seed + i) for i in range(1, count))]
        cold = count * self.footprint >= 4 * self.cache
        self.flush_bytes = 0 if cold else max(FLUSH_BYTES, 4 * self.cache) if self.cuda else 2 * self.cache
        self._flush: Any = None
        self._order = random.Random(seed)
        self._left: list[int] = []

    def _memory(self) -> tuple[int, int]:
        if not self.cuda:
            return CPU_CACHE, CPU_MEMORY
        properties = torch.cuda.get_device_properties(self.device)
        return int(properties.L2_cache_size), int(torch.cuda.mem_get_info(self.device)[0])

    def next(self) -> Sequence[Any]:
        """The arguments of the next slot; each slot comes once per round, rounds are shuffled."""
        if not self._left:
            self._left = list(range(len(self.slots)))
            self._order.shuffle(self._left)
        return self.slots[self._left.pop()]

    def chill(self) -> None:
        """Empties the cache where the ring alone does not: reads, modifies and writes `flush_bytes`."""
        if not self.flush_bytes:
            return
        if self._flush is None:
            self._flush = torch.zeros(self.flush_bytes // 4, dtype=torch.int32, device=self.device)
        self._flush.add_(1)

    def wait(self) -> None:
        """Until the device has finished."""
        if self.cuda:
            torch.cuda.synchronize(self.device)


def warm(function: Callable[..., Any], ring: Ring, seconds: float) -> Warmed:
    """Calls `function` at least three times, once per slot, and for `seconds` of wall time."""
    start = time.perf_counter()
    function(*ring.next())
    ring.wait()
    first = time.perf_counter() - start
    calls = 1
    while calls < max(WARM_CALLS, len(ring.slots)) or time.perf_counter() - start < seconds:
        function(*ring.next())
        calls += 1
        if calls % 8 == 0:
            ring.wait()
        if time.perf_counter() - start > max(10 * seconds, SLOTS_SECONDS) + first and calls >= WARM_CALLS:
            break  # a slow function need not see every slot
    ring.wait()
    return Warmed(calls, time.perf_counter() - start, first, len(ring.slots), ring.flush_bytes, ring.footprint)


def burst(function: Callable[..., Any], ring: Ring, calls: int) -> list[float]:
    """Milliseconds of each of `calls` calls, each on another slot with a cold cache; the results are dropped."""
    return _burst_cuda(function, ring, calls) if ring.cuda else _burst_cpu(function, ring, calls)


def _burst_cuda(function: Callable[..., Any], ring: Ring, calls: int) -> list[float]:
    with torch.cuda.device(ring.device):
        events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(calls)]
        torch.cuda.synchronize()
        for start, end in events:
            arguments = ring.next()
            ring.chill()
            torch.cuda._sleep(SPIN_CYCLES)
            start.record()
            function(*arguments)
            end.record()
        torch.cuda.synchronize()
        return [float(start.elapsed_time(end)) for start, end in events]


def _burst_cpu(function: Callable[..., Any], ring: Ring, calls: int) -> list[float]:
    times = []
    for _ in range(calls):
        arguments = ring.next()
        ring.chill()
        start = time.perf_counter()
        function(*arguments)
        times.append((time.perf_counter() - start) * 1e3)
    return times


def _bytes(arguments: Sequence[Any]) -> int:
    return sum(t.numel() * t.element_size() for t in pytree.tree_leaves(list(arguments)) if isinstance(t, torch.Tensor))
