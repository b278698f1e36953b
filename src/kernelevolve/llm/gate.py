"""One gate per provider in this process, shared by all writers: how fast calls may follow, and when to wait for all.

In: calls that want to go out, and what a provider said about its limits. Out: when each may go. Left to others: what a
call is (`guard`), how many writers there are (`settings`).

When a provider says that there are too many calls, everybody waits, not only who was told; else each of many writers
would have to find out alone, and every try counts against the limit.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time

# After a pause the waiting calls leave within this share of it and not all at once.
_SPREAD = 0.25
_MOST_SPREAD = 5.0


class Gate:
    """Of one provider; any thread and any event loop may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._per_minute = 0.0
        self._next = 0.0
        self._shut_until = 0.0
        self._spread = 0.0

    def limit(self, per_minute: float) -> None:
        """Lets at most so many calls per minute through, evenly spaced; the lowest that anybody asks for holds."""
        with self._lock:
            if per_minute > 0 and (self._per_minute == 0 or per_minute < self._per_minute):
                self._per_minute = per_minute

    def shut(self, seconds: float) -> None:
        """Lets nobody through for so long."""
        with self._lock:
            until = time.monotonic() + seconds
            if until > self._shut_until:
                self._shut_until, self._spread = until, min(seconds * _SPREAD, _MOST_SPREAD)

    async def turn(self) -> float:
        """Waits for this call's turn; how long it waited, in seconds."""
        start = time.monotonic()
        mine: float | None = None
        while True:
            with self._lock:
                now = time.monotonic()
                if mine is None and self._per_minute:
                    mine = max(now, self._next)
                    self._next = mine + 60.0 / self._per_minute
                waits = max((mine or now) - now, 0.0)
                if self._shut_until > now:
                    waits = max(waits, self._shut_until - now + random.uniform(0, self._spread))
            if waits <= 0:
                return time.monotonic() - start
            await asyncio.sleep(waits)


_gates: dict[str, Gate] = {}
_gates_lock = threading.Lock()


def gate_of(service: str) -> Gate:
    """The gate of a service: its provider's name and its address."""
    with _gates_lock:
        return _gates.setdefault(service, Gate())
