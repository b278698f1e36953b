"""The driver: keeps writers and seats busy at the same time.

In: a run's ask, write, evaluate and tell. Out: turns of that loop, many side by side, until the run gives a reason to
end. Left to others: what each step does (`run`), when it is enough (`search.termination`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Protocol

from kernelevolve.candidate import Brief, Candidate
from kernelevolve.errors import NoMovesLeft, WriterError
from kernelevolve.evaluation import Evaluation
from kernelevolve.events import Finished
from kernelevolve.feed import Feed
from kernelevolve.graph import Graph, Node
from kernelevolve.settings import Settings


class Loop(Protocol):
    """What the driver uses of a `Run`."""

    feed: Feed

    @property
    def graph(self) -> Graph: ...

    @property
    def settings(self) -> Settings: ...

    def ask(self) -> Brief: ...

    async def write(self, brief: Brief) -> Candidate: ...

    async def evaluate(self, candidate: Candidate) -> Evaluation: ...

    def tell(self, candidate: Candidate, evaluation: Evaluation) -> Node: ...

    def reason(self) -> Finished | None: ...

    async def confirm(self) -> None: ...

    def finish(self, ended: Finished) -> str: ...


class Driver:
    """One `Run.drive`: the tasks in flight and the two limits.

    Args:
        loop: the run.
        stop: once set, the work in flight is cancelled and `drive` returns.
    """

    def __init__(self, loop: Loop, stop: asyncio.Event) -> None:
        self._run, self._stop = loop, stop
        settings = loop.settings
        self._writers, self._seats = asyncio.Semaphore(settings.writers), asyncio.Semaphore(settings.seats)
        self._most = settings.writers + settings.seats - 1
        self._resumed = deque(pending.brief for pending in loop.graph.pending.values())
        self._flight: set[asyncio.Task[None]] = set()

    async def drive(self) -> str:
        """The reason for which the run ended, or nothing after `stop`; see `Run.drive`."""
        stopped = asyncio.create_task(self._stop.wait())
        try:
            while True:
                why = self._fill()
                if why is not None and not self._flight:
                    return self._run.finish(why) if await self._confirmed(stopped) else ""
                await asyncio.wait({*self._flight, stopped}, return_when=asyncio.FIRST_COMPLETED)
                done = {task for task in self._flight if task.done()}
                self._flight -= done
                errors = [error for task in done if (error := task.exception()) is not None]
                if errors:
                    raise errors[0]
                if stopped.done():
                    return ""
        finally:
            await _cancel({*self._flight, stopped})

    async def _confirmed(self, stopped: asyncio.Task[Any]) -> bool:
        """Whether the best was measured again before somebody said stop."""
        confirming = asyncio.create_task(self._run.confirm())
        try:
            await asyncio.wait({confirming, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not confirming.done():
                return False
            confirming.result()
            return True
        finally:
            await _cancel({confirming})

    def _fill(self) -> Finished | None:
        """Starts as many briefs as fit; why no more will come, once nothing is in flight."""
        while len(self._flight) < self._most:
            if self._resumed:
                brief = self._resumed.popleft()
                if brief.id not in self._run.graph.pending:
                    continue
            elif why := self._run.reason():
                return why
            else:
                try:
                    brief = self._run.ask()
                except NoMovesLeft as error:
                    return Finished(str(error), "no moves")
            self._flight.add(asyncio.create_task(self._carry(brief)))
        return None

    async def _carry(self, brief: Brief) -> None:
        run = self._run
        finished = False
        try:
            async with self._writers:
                candidate = await self._write(brief)
            if candidate is not None:
                async with self._seats:
                    run.tell(candidate, await run.evaluate(candidate))
            finished = True
        finally:
            if not finished:
                run.feed.tell(brief.id, "", "stopped")

    async def _write(self, brief: Brief) -> Candidate | None:
        try:
            return await self._run.write(brief)
        except WriterError:
            return None


async def _cancel(tasks: set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
