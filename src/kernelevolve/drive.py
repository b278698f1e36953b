"""The driver: keeps writers and seats busy at the same time.

In: a run's ask, write, evaluate and tell. Out: turns of that loop, many side by side, until the run gives a reason to
end. Left to others: what each step does (`run`), when it is enough (`search.termination`).

Writers and seats are two limits. Between them candidates wait for a seat; how many may is bounded, so a writer is set
to work only where its answer has room (`Driver._room`). What is pending in the log and not in the driver's hands is a
guest's: the driver waits for it, takes it over, or drops it (`Driver._watch`). docs/search.md has the rules.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Protocol

from kernelevolve.candidate import Brief, Candidate
from kernelevolve.errors import BudgetSpent, LateAnswer, MachineError, NoMovesLeft, WriterError
from kernelevolve.evaluation import Evaluation
from kernelevolve.events import Finished
from kernelevolve.feed import Feed
from kernelevolve.graph import Graph, Node
from kernelevolve.settings import Settings

_REMEMBERED = 64  # latest times by which writers and seats are compared
_INBOX_SECONDS = 1.0  # after which the run's inbox is looked at again
_GRACE = 1.0  # seconds for a writer to heed that it is cancelled
_UNHEEDED: set[asyncio.Task[Candidate]] = set()  # those that did not yet; asyncio itself keeps no task alive


class Seats:
    """At most `count` at the same time, first come first served, in whichever event loop.

    Attributes:
        held: how long the latest ones stayed, in seconds.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.held: deque[float] = deque(maxlen=_REMEMBERED)
        self._free: tuple[asyncio.AbstractEventLoop, asyncio.Semaphore] | None = None

    @asynccontextmanager
    async def seat(self) -> AsyncIterator[None]:
        """Waits for a free one and holds it."""
        loop = asyncio.get_running_loop()
        if self._free is None or self._free[0] is not loop:  # a semaphore belongs to one loop
            self._free = (loop, asyncio.Semaphore(self.count))
        async with self._free[1]:
            start = time.monotonic()
            try:
                yield
            finally:
                self.held.append(time.monotonic() - start)


class Loop(Protocol):
    """What the driver uses of a `Run`."""

    feed: Feed
    seats: Seats

    @property
    def graph(self) -> Graph: ...

    @property
    def settings(self) -> Settings: ...

    def ask(self) -> Brief: ...

    async def write(self, brief: Brief) -> Candidate: ...

    async def evaluate(self, candidate: Candidate) -> Evaluation: ...

    def tell(self, candidate: Candidate, evaluation: Evaluation) -> Node: ...

    def drop(self, brief: str, reason: str) -> None: ...

    def collect(self) -> int: ...

    def reason(self) -> Finished | None: ...

    async def confirm(self) -> None: ...

    def finish(self, ended: Finished) -> str: ...


class Driver:
    """One `Run.drive`: the tasks in flight and the limits on them.

    Args:
        loop: the run. It calls `changed` after each entry of its log.
    """

    def __init__(self, loop: Loop) -> None:
        self._run, self._settings = loop, loop.settings
        self._loop = asyncio.get_running_loop()
        self._wake, self._stop = asyncio.Event(), asyncio.Event()
        self._resumed = deque(pending.brief for pending in loop.graph.pending.values())
        self._flight: dict[str, asyncio.Task[None]] = {}
        self._errors: list[BaseException] = []
        self._writing: set[str] = set()  # briefs with a writer at work
        self._answers: dict[str, asyncio.Task[Candidate]] = {}
        self._wrote: deque[float] = deque(maxlen=_REMEMBERED)
        self._guests: dict[tuple[str, bool], float] = {}  # pending elsewhere, written or not, and since when
        self._through = {"writer": 0, "seat": 0}

    def stop(self) -> None:
        """Makes `drive` cancel the work in flight and return; from any thread."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._loop.call_soon_threadsafe(self._wake.set)

    def call(self, work: Any, *args: Any) -> None:
        """Has `work` done by the driver's event loop; from any thread."""
        self._loop.call_soon_threadsafe(work, *args)

    def changed(self) -> None:
        """Tells the driver that the log is longer."""
        self._wake.set()

    async def drive(self) -> str:
        """The reason for which the run ended, or nothing after `stop`; see `Run.drive`."""
        try:
            while True:
                if self._errors:
                    raise self._errors[0]
                if self._stop.is_set():
                    return ""
                self._run.collect()
                waits = self._watch()
                why = self._fill()
                if why is not None and not self._flight and not self._guests:
                    return self._run.finish(why) if await self._confirmed() else ""
                self._wake.clear()
                await _until(self._wake, _INBOX_SECONDS if waits is None else min(waits, _INBOX_SECONDS))
        finally:
            left = dict(self._flight)
            await _cancel(left.values())
            self._stopped(left)

    async def _confirmed(self) -> bool:
        """Whether the best was measured again before somebody said stop."""
        confirming, stopped = asyncio.create_task(self._run.confirm()), asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({confirming, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not confirming.done():
                return False
            confirming.result()
            return True
        finally:
            await _cancel((confirming, stopped))

    def _fill(self) -> Finished | None:
        """Starts as many briefs as there is room for; why no more will come, once nothing is in flight."""
        run, graph = self._run, self._run.graph
        while True:
            brief = self._next_resumed()
            if brief is None:
                taken = len(self._flight) + sum(written for _, written in self._guests)
                if self._resumed or len(self._writing) >= self._settings.writers or taken >= self._room():
                    return None
                if why := run.reason():
                    return why
                try:
                    brief = run.ask()
                except NoMovesLeft as error:
                    return Finished(str(error), "no moves")
            if graph.pending[brief.id].candidate is None:
                self._writing.add(brief.id)
            self._flight[brief.id] = task = asyncio.create_task(self._carry(brief))
            task.add_done_callback(partial(self._landed, brief.id))

    def _next_resumed(self) -> Brief | None:
        """The next of the briefs that were pending at the start, if there is a writer for it or it needs none."""
        while self._resumed:
            pending = self._run.graph.pending.get(self._resumed[0].id)
            if pending is not None and pending.candidate is None and len(self._writing) >= self._settings.writers:
                return None
            brief = self._resumed.popleft()
            if pending is not None:
                return brief
        return None

    def _room(self) -> int:
        """How many briefs may be in hand here: one for each seat, and as many candidates as may wait for one.

        Once writers and seats are known, no more than keep the seats busy: by Little's law (Operations Research 9(3),
        1961) seats x (1 + time of a writer / time on a seat) of them, and the next candidate for each seat at hand.
        """
        settings, seats = self._settings, self._run.seats
        room = settings.seats + settings.most_waiting
        if len(self._wrote) < min(settings.writers, _REMEMBERED) or len(seats.held) < min(settings.seats, _REMEMBERED):
            return room
        ratio = sum(self._wrote) / len(self._wrote) / max(sum(seats.held) / len(seats.held), 1e-9)
        return min(room, math.ceil(min(settings.seats * (2 + ratio), room)))

    def _watch(self) -> float | None:
        """Looks after what others do to pending briefs; seconds until it must look again, None for until something
        changes.

        A brief that is no longer pending, or that somebody else answered, takes its task along. What a guest has in
        hand is waited for; after `answer_seconds` it is dropped, or evaluated here where it is written.
        """
        pending, now = self._run.graph.pending, time.monotonic()
        for name, task in self._flight.items():
            answer = self._answers.get(name)
            answered = answer is not None and pending.get(name) is not None and pending[name].candidate is not None
            # Where its own writer has just ended, the task itself is the one who says what that means.
            if (name not in pending or answered) and not (answer is not None and answer.done()):
                task.cancel()
        resumed = {brief.id for brief in self._resumed}
        elsewhere = {
            (name, waits.candidate is not None): waits.brief
            for name, waits in pending.items()
            if name not in self._flight and name not in resumed
        }
        self._guests = {key: self._guests.get(key, now) for key in elsewhere}
        for (name, written), since in list(self._guests.items()):
            if now - since >= self._settings.answer_seconds:
                del self._guests[name, written]
                if written:
                    self._resumed.append(elsewhere[name, written])
                else:
                    self._run.drop(name, f"no guest answered within {self._settings.answer_seconds:g} s")
        left = [since + self._settings.answer_seconds - now for since in self._guests.values()]
        return max(min(left), 0.0) if left else None

    def _landed(self, name: str, task: asyncio.Task[None]) -> None:
        self._flight.pop(name, None)
        self._writing.discard(name)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._errors.append(error)
            self._stopped((name,))
        self._wake.set()

    def _stopped(self, briefs: Iterable[str]) -> None:
        for name in briefs:
            if name in self._run.feed.now:
                self._run.feed.tell(name, "", "stopped")

    async def _carry(self, brief: Brief) -> None:
        run, stage = self._run, "writer"
        through = dict(self._through)
        try:
            candidate = run.graph.pending[brief.id].candidate or await self._write(brief)
            if candidate is None:
                return
            stage = "seat"
            found = await run.evaluate(candidate)
            self._through[stage] += 1
            await asyncio.sleep(0)  # whoever gets the seat now begins before this one is told
            waits = run.graph.pending.get(brief.id)
            if waits is not None and waits.candidate == candidate:
                run.tell(candidate, found)
        except MachineError as error:
            if brief.id not in run.graph.pending:
                return
            # The machine works for others, so it is this one; where nobody gets through, the run stops.
            if self._through[stage] == through[stage]:
                raise
            run.drop(brief.id, f"the machine failed it again and again, and no other: {error}")

    async def _write(self, brief: Brief) -> Candidate | None:
        """The candidate; None where the brief was dropped, or somebody else answered it."""
        start, most = time.monotonic(), self._settings.answer_seconds
        self._answers[brief.id] = writing = asyncio.create_task(self._run.write(brief))
        try:
            await asyncio.wait({writing}, timeout=most)
            if not writing.done():
                self._run.drop(brief.id, f"no answer within {most:g} s")
                return None
            candidate = writing.result()
            self._through["writer"] += 1
            return candidate
        except (WriterError, BudgetSpent, LateAnswer):
            return None
        except asyncio.CancelledError:
            self._freed(brief.id)
            await _given_up(writing, _GRACE)
            raise
        finally:
            self._wrote.append(time.monotonic() - start)
            self._freed(brief.id)
            if not writing.done():
                await _given_up(writing, 0.0)

    def _freed(self, brief: str) -> None:
        self._writing.discard(brief)
        self._answers.pop(brief, None)
        self._wake.set()


async def _given_up(writing: asyncio.Task[Candidate], grace: float) -> None:
    """Cancels a writer and waits for it a little: it may not let itself be cancelled. What it still says is late."""
    _UNHEEDED.add(writing)
    writing.add_done_callback(_UNHEEDED.discard)
    writing.add_done_callback(lambda task: task.cancelled() or task.exception())
    writing.cancel()
    await asyncio.wait({writing}, timeout=grace)


async def _until(event: asyncio.Event, seconds: float | None) -> None:
    if seconds is None:
        await event.wait()
        return
    waiting = asyncio.create_task(event.wait())
    try:
        await asyncio.wait({waiting}, timeout=seconds)
    finally:
        await _cancel((waiting,))


async def _cancel(tasks: Iterable[asyncio.Task[Any]]) -> None:
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
