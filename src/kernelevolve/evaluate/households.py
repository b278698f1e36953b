"""Whose judges have memory on a device: those of as many problems at a time as fit in the part set aside for judges.

In: a problem's key, its share of that part, how to end its judges there. Out: contexts inside which they may be there.
Left to others: what the judges do (`measure`), candidates' places (`seat`).

A household stays when nobody is inside any more, since the next candidate of the problem needs its judges again; it is
ended once another one needs the room. Who enters must hold nothing that somebody inside could be waiting for.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

IDLE = 20.0  # seconds for which nobody was inside, before another takes the room
FAIR = 60.0  # seconds for which others may be let in before somebody who waits for room
_LOOK = 0.5


@dataclass(eq=False)
class _Ticket:
    """Somebody who waits."""

    key: str
    since: float = field(default_factory=time.monotonic)


@dataclass
class _Household:
    weight: float
    leave: Callable[[], None]
    inside: int = 0
    since: float = 0.0  # when somebody was inside last
    ending: bool = False


class Households:
    """Of one device; thread-safe.

    Args:
        idle, fair: in place of `IDLE` and `FAIR`.
    """

    def __init__(self, idle: float = IDLE, fair: float = FAIR) -> None:
        self._idle, self._fair = idle, fair
        self._turn = threading.Condition()
        self._there: dict[str, _Household] = {}
        self._queue: list[_Ticket] = []

    @contextlib.contextmanager
    def of(
        self,
        key: str,
        weight: float,
        leave: Callable[[], None],
        *,
        yields: bool = True,
        go_on: Callable[[], None] = lambda: None,
    ) -> Iterator[None]:
        """Inside the judges of `key` may have memory on the device.

        Args:
            weight: share of the part set aside for judges; it fits where nobody else is, however large it is.
            leave: ends what they have there; called while nobody is inside, by whoever needs the room.
            yields: whether somebody else who has waited for long comes first; not so for whom others inside wait.
            go_on: asked now and then while waiting; raises once nobody wants it any more.
        """
        self._enter(_Ticket(key), weight, leave, yields, go_on)
        try:
            yield
        finally:
            with self._turn:
                household = self._there[key]
                household.inside, household.since = household.inside - 1, time.monotonic()
                self._turn.notify_all()

    def lighter(self, key: str, weight: float) -> None:
        """The judges of `key` hold no more than that from now on."""
        with self._turn:
            if household := self._there.get(key):
                household.weight = min(household.weight, weight)
            self._turn.notify_all()

    def gone(self, key: str) -> None:
        """The judges of `key` were ended, and nobody will be inside any more."""
        with self._turn:
            household = self._there.get(key)
            if household is not None and not household.inside and not household.ending:
                del self._there[key]
            self._turn.notify_all()

    def _enter(
        self, ticket: _Ticket, weight: float, leave: Callable[[], None], yields: bool, go_on: Callable[[], None]
    ) -> None:
        with self._turn:
            self._queue.append(ticket)
            try:
                while not self._admitted(ticket, weight, yields):
                    go_on()
                    if (idle := self._idle_one(ticket)) is None:
                        self._turn.wait(_LOOK)
                    else:
                        self._end(idle)
                self._there.setdefault(ticket.key, _Household(weight, leave)).inside += 1
            finally:
                self._queue.remove(ticket)
                self._turn.notify_all()

    def _admitted(self, ticket: _Ticket, weight: float, yields: bool) -> bool:
        household = self._there.get(ticket.key)
        if household is not None:
            return not household.ending and not (yields and self._kept_waiting(ticket))
        taken = sum(h.weight for h in self._there.values())
        return not self._there or (taken + weight <= 1.0 and not self._kept_waiting(ticket))

    def _kept_waiting(self, ticket: _Ticket) -> bool:
        """Whether somebody without a household was there before, and has waited for long."""
        late = time.monotonic() - self._fair
        return any(t.since < min(late, ticket.since) and t.key not in self._there for t in self._queue)

    def _idle_one(self, ticket: _Ticket) -> str | None:
        """A household to end for who waits longest for room: the one that was left first, if that was long ago."""
        first = next((t for t in self._queue if t.key not in self._there), None)
        if first is not ticket:
            return None
        now = time.monotonic()
        least = 0.0 if now - ticket.since > self._fair else self._idle
        left = [(h.since, k) for k, h in self._there.items() if not h.inside and not h.ending]
        return min(left)[1] if left and now - min(left)[0] >= least else None

    def _end(self, key: str) -> None:
        household = self._there[key]
        household.ending = True  # its room is taken until that is done
        self._turn.release()
        try:
            household.leave()
        finally:
            self._turn.acquire()
            del self._there[key]
            self._turn.notify_all()
