"""Who is on a device now: several candidates whose values are compared, or one that is timed, and then nobody else.

In: how much of the device's memory a candidate will take, and when it is to be timed. Out: contexts that wait for their
turn. Left to others: what is done there (`ladder`, `measure`). A Seat knows nothing of devices.

Comparing values is mostly waiting for processes, so candidates do it side by side; a time counts only while nobody else
submits work. So each candidate holds a `Share`, gives way between two pieces of work as soon as somebody is to be
timed, and is timed `alone`. Several that are ready are timed one after the other before the rest goes on: each change
of turn waits for the longest piece of work under way.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

SIDE_BY_SIDE = 16  # candidates on one device, if its memory holds them
WAITING = 12  # with a process on the device and no place yet
READY = 8  # that wait to be timed before the others have to give way, unless there are no others
PATIENCE = 8.0  # seconds after which they give way to fewer
SOON = 1.0  # the same for somebody on whom several others wait


class Stay(Protocol):
    """How those who work on a device let others by; see `Share`."""

    def give_way(self) -> None: ...

    def alone(self) -> AbstractContextManager[None]: ...

    def holding(self, lock: Any) -> AbstractContextManager[Any]: ...

    def aside(self) -> AbstractContextManager[None]: ...


class Undisturbed:
    """A stay where nobody else is."""

    def give_way(self) -> None:
        """There is nobody to be let by."""

    def alone(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    def holding(self, lock: Any) -> AbstractContextManager[Any]:
        return lock  # type: ignore[no-any-return]

    def aside(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()


class Seat:
    """One device.

    Args:
        most: candidates that share it at a time.
        ready: of them wait to be timed before the others have to give way.
        patience: seconds after which the others give way to fewer.
    """

    def __init__(self, most: int = SIDE_BY_SIDE, ready: int = READY, patience: float = PATIENCE) -> None:
        self._most, self._ready, self._patience = most, ready, patience
        self._turn = threading.Condition()
        self._queue: deque[object] = deque()  # who waits for a place, in order
        self._weights: list[float] = []
        self._present: list[Share] = []
        self._active = 0  # shares under way
        self._waiting = 0  # shares that want to be alone
        self._alone = False
        self._timing = False  # from when enough are ready until all of those were timed
        self._outside = 0  # who is getting ready without a place
        self._since = time.monotonic()  # when who is present last changed
        self._undisturbed = False  # whether somebody has the device from the beginning
        self._anteroom = threading.BoundedSemaphore(WAITING)

    @contextlib.contextmanager
    def shared(self, weight: float) -> Iterator[Share]:
        """A place beside others, in the order of asking.

        Args:
            weight: share of the device's memory, above 0; what is above 1 counts as 1.
        """
        weight, ticket = min(1.0, weight), object()
        with self._turn:
            self._queue.append(ticket)
            try:
                self._turn.wait_for(lambda: self._queue[0] is ticket and self._fits(weight) and not self._timing)
            finally:
                self._queue.remove(ticket)
                self._turn.notify_all()
            self._weights.append(weight)
            share = self._enter()
        try:
            yield share
        finally:
            with self._turn:
                self._weights.remove(weight)
                self._leave(share)

    @contextlib.contextmanager
    def alone(self) -> Iterator[Share]:
        """The whole device from the beginning.

        Until its place is free others get ready as ever: whoever has a place may wait for one of them.
        """
        with self.shared(1.0) as share:
            with self._turn:
                self._undisturbed = True  # from now on nobody gets ready
                self._active -= 1
                self._turn.notify_all()
                self._turn.wait_for(lambda: not self._outside and not self._timing)
                self._active += 1
            try:
                yield share
            finally:
                with self._turn:
                    self._undisturbed = False
                    self._turn.notify_all()

    @contextlib.contextmanager
    def doorstep(self) -> Iterator[None]:
        """Before a place is asked for: what takes time, memory and a context on the device, but submits no work that
        lasts. It goes on beside those who are timed as shares; never beside somebody who has the device from the
        beginning."""
        with self._turn:
            self._turn.wait_for(lambda: not self._undisturbed)
            self._outside += 1
        try:
            yield
        finally:
            with self._turn:
                self._outside -= 1
                self._turn.notify_all()

    def anteroom(self) -> AbstractContextManager[object]:
        """For candidates that hold a process on the device before they have a place: as many as may, since that memory
        is not part of anybody's weight. To be left once the place is there."""
        return self._anteroom

    @contextlib.contextmanager
    def unplaced(self) -> Iterator[Share]:
        """Beside all others without a place of its own: for judges, whose memory is set aside, so that whoever holds a
        place may wait for them. Never beside somebody who has the device from the beginning."""
        with self.doorstep():
            with self._turn:
                self._turn.wait_for(lambda: not self._timing)
                share = self._enter()
            try:
                yield share
            finally:
                with self._turn:
                    self._leave(share)

    def _enter(self) -> Share:
        share = Share(self)
        self._credit()
        self._present.append(share)
        if len(self._present) > 1:
            for one in self._present:
                one.crowded = True
        self._active += 1
        return share

    def _leave(self, share: Share) -> None:
        self._credit()
        self._present.remove(share)
        self._active -= 1
        self._turn.notify_all()

    def _credit(self) -> None:
        """Shares out the time since the last change among those present, so that their sum is the time it was held."""
        now = time.monotonic()
        for share in self._present:
            share.seconds += (now - self._since) / len(self._present)
        self._since = now

    def _fits(self, weight: float) -> bool:
        return not self._weights or (len(self._weights) < self._most and sum(self._weights) + weight <= 1.0)

    def give_way(self) -> None:
        """For a share under way: waits while others are timed."""
        with self._turn:
            if self._timing:
                self._active -= 1
                self._turn.notify_all()
                self._turn.wait_for(lambda: not self._timing)
                self._active += 1

    @contextlib.contextmanager
    def holding(self, lock: Any) -> Iterator[None]:
        """For a share under way: inside it holds a lock, for which it waits without keeping anybody from being timed.
        Whoever is timed may need that lock, so it is given up again until that is over."""
        with self._turn:
            self._active -= 1
            self._turn.notify_all()
        while True:
            lock.acquire()
            with self._turn:
                if not self._timing:
                    self._active += 1
                    break
            lock.release()
            with self._turn:
                self._turn.wait_for(lambda: not self._timing)
        try:
            yield
        finally:
            lock.release()

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """For a share under way: nothing is submitted inside, so others may be timed; nobody is when it goes on."""
        with self._turn:
            self._active -= 1
            self._turn.notify_all()
        try:
            yield
        finally:
            with self._turn:
                self._turn.wait_for(lambda: not self._timing)
                self._active += 1

    @contextlib.contextmanager
    def only(self, patience: float | None = None) -> Iterator[None]:
        """For a share under way: nobody else is under way inside. It goes on once all who were ready had their turn.

        Args:
            patience: in place of the seat's.
        """
        patience = self._patience if patience is None else min(patience, self._patience)
        with self._turn:
            self._active -= 1
            self._waiting += 1
            self._timing = self._timing or self._waiting >= self._ready
            self._turn.notify_all()
            if not self._turn.wait_for(lambda: not self._alone and self._active == 0, patience):
                self._timing = True
                self._turn.wait_for(lambda: not self._alone and self._active == 0)
            self._waiting -= 1
            self._alone = self._timing = True
        try:
            yield
        finally:
            with self._turn:
                self._alone, self._timing = False, self._waiting > 0
                self._turn.notify_all()
                self._turn.wait_for(lambda: not self._timing)
                self._active += 1


class Share:
    """A candidate's place on a device.

    Attributes:
        crowded: whether anybody else ever had a place at the same time.
        seconds: for which it held the device, each divided among all who did; complete once the place is given back.
    """

    def __init__(self, seat: Seat) -> None:
        self._seat, self._timed = seat, False
        self.crowded = False
        self.seconds = 0.0

    def give_way(self) -> None:
        """To be called between two pieces of work, holding nothing that somebody who is timed could need."""
        self._seat.give_way()

    @contextlib.contextmanager
    def alone(self, patience: float | None = None) -> Iterator[None]:
        """Nobody else submits work to the device inside.

        Args:
            patience: seconds after which the others give way to this one only; the seat's if None.
        """
        with self._seat.only(patience):
            self._timed = True
            try:
                yield
            finally:
                self._timed = False

    def aside(self) -> AbstractContextManager[None]:
        """Waits inside for something that needs no work on the device from here; keeps nobody from being timed."""
        return self._seat.aside()

    def holding(self, lock: Any) -> AbstractContextManager[Any]:
        """Holds a lock inside; who waits for it keeps nobody from being timed.

        Args:
            lock: with `acquire` and `release`; one that this thread does not hold yet.
        """
        return lock if self._timed else self._seat.holding(lock)
