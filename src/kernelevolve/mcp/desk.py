"""The desk that guests come to: which runs are open here, what of their answers is being evaluated.

In: names of runs, briefs and answers. Out: open runs, tickets. Left to others: protocols and texts (`server`, `told`),
the loop (`Run`).

A ticket is a brief's id: whether it waits, is evaluated, or has become a node is in the run's log, so it survives the
guest, the desk and the process. A run is opened when somebody needs to write to it, and given back when nobody has
come for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from kernelevolve import (
    Answer,
    Brief,
    Cost,
    Equipment,
    Finished,
    Graph,
    KernelEvolveError,
    LateAnswer,
    Node,
    Problem,
    Run,
    RunBusy,
    Settings,
    UsageError,
    create_run,
    holds_run,
    on_demand,
    open_run,
    read_run,
    save_receipt,
)
from kernelevolve.cli import places

Equipped = Callable[[Problem], AbstractContextManager[Callable[..., Equipment]]]
Progress = Callable[["Ticket"], None]

GUEST = "guest"
State = Literal["asked", "evaluating", "stopped", "done", "dropped"]
ASKED: State = "asked"
EVALUATING: State = "evaluating"
STOPPED: State = "stopped"
DONE: State = "done"
DROPPED: State = "dropped"
MOST_OPEN = 6
IDLE_SECONDS = 1800.0
_LOOK_SECONDS = 0.2


class RunEnded(UsageError):
    """A run whose limits are reached gives no further briefs."""


class ForeignBrief(UsageError):
    """An answer to a brief of another run."""


@dataclass(frozen=True)
class Ticket:
    """What became of a brief.

    Attributes:
        state: `asked` (waits for an answer), `evaluating`, `stopped` (written, and nobody evaluates it: submit the same
            source again), `done`, or `dropped`.
        stage: what is being done while it is evaluated: `wait` (for a seat), `start`, or a rung's name.
        candidate: id of the candidate; empty while there is none.
        node: what it has become.
        said: why it stopped or was dropped.
        seconds: since the evaluation began here.
    """

    run: str
    brief: str
    state: State
    stage: str = ""
    candidate: str = ""
    node: Node | None = None
    said: str = ""
    seconds: float = 0.0

    @property
    def ended(self) -> bool:
        """Whether waiting longer changes nothing."""
        return self.state in (DONE, DROPPED, STOPPED)


@dataclass
class _Open:
    """A run that this process owns, and what it does for guests."""

    folder: Path
    run: Run
    closing: ExitStack
    tasks: dict[str, asyncio.Task[Any]] = field(default_factory=dict)
    begun: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    used: float = field(default_factory=time.monotonic)

    @property
    def idle(self) -> bool:
        return all(task.done() for task in self.tasks.values())


class Desk:
    """Where guests ask and submit; one event loop uses it. Close it at the end.

    Args:
        equipped: gives what the runs of a problem work with.
        runs: the folder in which runs are looked for and made.
        most: runs that are open at the same time.
        idle_seconds: after which a run that nobody asks about is given back.
    """

    def __init__(
        self, equipped: Equipped, runs: Path, *, most: int = MOST_OPEN, idle_seconds: float = IDLE_SECONDS
    ) -> None:
        self.runs = runs
        self._equipped, self._most, self._idle = equipped, most, idle_seconds
        self._open: dict[Path, _Open] = {}
        self._opening: dict[Path, asyncio.Lock] = {}
        self._starting: set[ExitStack] = set()

    def folder(self, name: str) -> Path:
        """The folder of the run called `name`: a path, or a folder in the folder of runs.

        Raises:
            UsageError: there is none; the message lists those that there are.
        """
        given = Path(name).expanduser()
        for folder in (given, self.runs / given):
            if name and holds_run(folder):
                return folder.resolve()
        known = [str(place.relative_to(self.runs)) for place in places.all_runs(self.runs)] if name else []
        raise UsageError(
            f"{name!r} is no run; runs in {self.runs}: {', '.join(known[-10:]) or 'none'}; create one for a problem "
            "first, or name the folder of one"
        )

    async def create(
        self,
        folder: Path,
        problem: Problem,
        platform: str,
        settings: Settings,
        *,
        seed: int = 0,
        built_in: bool = True,
        admit_anyway: bool = False,
    ) -> Path:
        """A new run in `folder`, open here; starting its processes takes a while.

        Args:
            built_in: have the built-in engineer answer the first brief, on the side, so that nobody begins on an empty
                page.

        Raises:
            KernelEvolveError: what `create_run` raises.
        """
        folder = folder.expanduser().resolve()
        async with self._lock(folder):
            await self._make_room()
            closing = ExitStack()
            with self._undone(closing):
                equip = closing.enter_context(self._equipped(problem))
                run = await asyncio.to_thread(
                    create_run, folder, problem, platform, equip,
                    settings=settings, seed=seed, admit_anyway=admit_anyway, findable=False,
                )  # fmt: skip
                closing.callback(run.close)
            self._open[folder] = opened = _Open(folder, run, closing)
        if built_in:
            self._begin(opened, run.ask().id)
        return folder

    def read(self, folder: Path) -> Graph:
        """The graph of a run, owned or not."""
        opened = self._open.get(folder)
        return opened.run.graph if opened is not None else read_run(folder)

    def is_open(self, folder: Path) -> bool:
        """Whether this process owns the run."""
        return folder in self._open

    async def run(self, folder: Path) -> Run:
        """The run in `folder`, owned by this process; what was written and not evaluated is taken up.

        Raises:
            RunBusy: another process owns it.
            StoreError: see `open_run`.
        """
        return (await self._opened(folder)).run

    async def ask(self, folder: Path, count: int = 1, writer: str = GUEST, *, again: bool = False) -> tuple[Brief, ...]:
        """Briefs for a guest.

        Args:
            again: those that still wait for an answer, rather than new ones.

        Raises:
            RunEnded: a limit is reached and nothing waits.
            NoMovesLeft: the policy has nothing to go on from.
        """
        run = (await self._opened(folder)).run
        if again:
            return tuple(w.brief for w in run.graph.pending.values() if w.candidate is None and _is_guests(w.brief))
        briefs: list[Brief] = []
        for _ in range(count):
            if (why := run.reason()) is not None:
                if briefs:
                    break
                raise self._ended(folder, run, why)
            briefs.append(run.ask(writer))
        return tuple(briefs)

    def _ended(self, folder: Path, run: Run, why: Finished) -> RunEnded:
        waits = [name for name, waits in run.graph.pending.items() if waits.candidate is None]
        if not run.graph.pending:
            run.finish(why)
        left = f"; briefs that still wait for an answer: {', '.join(waits)}" if waits else ""
        return RunEnded(f"the run has reached its limit, {why.reason}{left}; more is given by: "
                        f"kernelevolve ask {folder} --candidates N")  # fmt: skip

    async def submit(
        self, folder: Path, brief: str, source: str, note: str = "", *, writer: str = GUEST, cost: Cost | None = None
    ) -> Ticket:
        """Hands in an answer; it is evaluated on the side, whatever becomes of the guest.

        The same answer may be handed in again: it is the same ticket.

        Raises:
            LateAnswer: the brief has another answer, or was dropped.
            UsageError: no such brief was ever asked.
            ForeignBrief: it is another run's.
        """
        opened = await self._opened(folder)
        brief = self.brief(opened.run.graph, brief)
        ticket = self._ticket(opened, brief)
        if ticket.node is not None and ticket.node.candidate.source == source:
            return ticket
        waits = opened.run.graph.pending.get(brief)
        if waits is None or waits.candidate is None or waits.candidate.source != source:
            _answer(opened.run, ticket, source, note, writer, cost)
        self._begin(opened, brief)
        return self._ticket(opened, brief)

    async def ticket(
        self, folder: Path, brief: str, wait: float = 0.0, progress: Callable[[Ticket], Any] | None = None
    ) -> Ticket:
        """What became of a brief, after at most `wait` seconds.

        Args:
            progress: called, and awaited, with the ticket each time its stage changes.

        Raises:
            UsageError: no such brief was ever asked; ForeignBrief: it is another run's.
        """
        opened = self._open.get(folder)
        if opened is None:
            graph = read_run(folder)
            name = self.brief(graph, brief)
            if name not in graph.pending or graph.pending[name].candidate is None:
                return _closed_ticket(graph, name)
            try:
                opened = await self._opened(folder)
            except RunBusy:
                return replace(_closed_ticket(graph, name), state=EVALUATING, said="another process has it in hand")
        opened.used = time.monotonic()
        name = self.brief(opened.run.graph, brief)
        until, stage = time.monotonic() + wait, None
        while True:
            ticket = self._ticket(opened, name)
            if progress is not None and (ticket.state, ticket.stage) != stage:
                stage = (ticket.state, ticket.stage)
                await progress(ticket)
            left = until - time.monotonic()
            task = opened.tasks.get(name)
            if ticket.ended or left <= 0 or task is None:
                return ticket
            await asyncio.wait({task}, timeout=min(left, _LOOK_SECONDS))

    def brief(self, graph: Graph, given: str) -> str:
        """The brief's id in its run, from `b3`, or from `RUN/b3` as it was given to the guest.

        Raises:
            ForeignBrief: it is another run's.
            UsageError: no such brief was ever asked.
        """
        run, slash, name = given.strip().rpartition("/")
        if slash and run != graph.created.run:
            raise ForeignBrief(
                f"brief {given!r} is of run {run}, and this is run {graph.created.run}, for problem "
                f"{graph.created.problem.name!r}; submit it to its own run"
            )
        if not (name[:1] == "b" and name[1:].isdecimal() and int(name[1:]) < graph.asked):
            waits = [w.brief.id for w in graph.pending.values() if w.candidate is None]
            raise UsageError(
                f"unknown brief {name!r}: this run has asked {graph.asked}; waiting for an answer: "
                f"{', '.join(waits) or 'none, ask for one first'}"
            )
        return name

    async def best(self, folder: Path) -> tuple[Node | None, Path | None, Path | None]:
        """The best correct node, the file with it at its tuned choice, and its receipt, as far as there are any."""
        graph = self.read(folder)
        opened = self._open.get(folder)
        kernel = places.save_kernel(graph, folder)
        receipt = save_receipt(folder, graph, opened.run.artefacts) if opened is not None else None
        kept = folder / "receipt.json"
        return graph.best, kernel, receipt or (kept if kept.is_file() else None)

    async def give_back(self, folder: Path) -> None:
        """Closes a run; what is being evaluated goes on when it is opened again."""
        opened = self._open.pop(folder, None)
        if opened is not None:
            await _closed(opened)

    async def close(self) -> None:
        """Gives all runs back and ends their processes."""
        for closing in tuple(self._starting):
            await asyncio.to_thread(closing.close)
        for folder in tuple(self._open):
            await self.give_back(folder)

    async def _opened(self, folder: Path) -> _Open:
        async with self._lock(folder):
            opened = self._open.get(folder)
            if opened is None:
                await self._make_room()
                closing = ExitStack()
                with self._undone(closing):
                    problem = (await asyncio.to_thread(read_run, folder)).created.problem
                    equip = on_demand(closing.enter_context(self._equipped(problem)))
                    builds = places.builds(folder)
                    run = await asyncio.to_thread(open_run, folder, equip, builds=builds)
                    closing.callback(run.close)
                self._open[folder] = opened = _Open(folder, run, closing)
                for brief, waits in run.graph.pending.items():
                    if waits.candidate is not None or not _is_guests(waits.brief):
                        self._begin(opened, brief)
            opened.used = time.monotonic()
            return opened

    @contextlib.contextmanager
    def _undone(self, closing: ExitStack) -> Any:
        """Closes what was begun unless the block ends well; `close` may do it meanwhile."""
        self._starting.add(closing)
        try:
            yield
        except BaseException:
            closing.close()
            raise
        finally:
            self._starting.discard(closing)

    async def _make_room(self) -> None:
        """Gives back what nobody has asked about for a while, and the least recently used where there are too many."""
        now = time.monotonic()
        by_age = sorted((o for o in self._open.values() if o.idle), key=lambda o: o.used)
        stale = [o for o in by_age if now - o.used > self._idle]
        surplus = by_age[: max(len(self._open) + 1 - self._most, 0)]
        for opened in {id(o): o for o in (*stale, *surplus)}.values():
            await self.give_back(opened.folder)
        if len(self._open) >= self._most:
            raise UsageError(
                f"{len(self._open)} runs are evaluating already, and at most {self._most} are open at the same time; "
                "wait for one of them"
            )

    def _lock(self, folder: Path) -> asyncio.Lock:
        return self._opening.setdefault(folder, asyncio.Lock())

    def _begin(self, opened: _Open, brief: str) -> None:
        """Has a brief carried on to its node by a task of its own, unless one does already."""
        task = opened.tasks.get(brief)
        if task is not None and not task.done():
            return
        opened.failed.pop(brief, None)
        opened.begun[brief] = time.monotonic()
        opened.tasks[brief] = asyncio.create_task(_carried(opened, brief))

    def _ticket(self, opened: _Open, brief: str) -> Ticket:
        graph, task = opened.run.graph, opened.tasks.get(brief)
        waits = graph.pending.get(brief)
        if waits is None:
            return _closed_ticket(graph, brief, opened.failed.get(brief, ""))
        candidate = waits.candidate.id if waits.candidate is not None else ""
        at = Ticket(graph.created.run, brief, ASKED, candidate=candidate)
        if task is not None and not task.done():
            now = opened.run.feed.now.get(brief)
            seconds = time.monotonic() - opened.begun[brief]
            return replace(at, state=EVALUATING, stage=now.stage if now else "wait", seconds=seconds)
        if not candidate:
            return at
        return replace(at, state=STOPPED, said=opened.failed.get(brief, "its evaluation was interrupted"))


def _answer(run: Run, ticket: Ticket, source: str, note: str, writer: str, cost: Cost | None) -> None:
    if not source.strip():
        raise UsageError(f"the answer to brief {ticket.brief!r} is empty; give a file that defines ModelNew")
    try:
        run.answered(ticket.brief, writer, Answer(source, note, cost=cost or Cost()))
    except LateAnswer as error:
        became = f"it became {ticket.candidate}" if ticket.candidate else "it was dropped"
        judged = f", {ticket.node.verdict}" if ticket.node is not None else ""
        raise LateAnswer(
            f"brief {ticket.brief!r} waits for no answer: {became}{judged}; this answer is kept in the log and not "
            "evaluated; ask for another brief"
        ) from error


async def _carried(opened: _Open, brief: str) -> None:
    """Written where it is the built-in engineer's, evaluated, told; what stops it is kept for the ticket."""
    run = opened.run
    try:
        waits = run.graph.pending[brief]
        candidate = waits.candidate or await run.write(waits.brief)
        found = await run.evaluate(candidate)
        if candidate.id not in run.graph.nodes:
            run.tell(candidate, found)
    except KernelEvolveError as error:
        opened.failed[brief] = f"{type(error).__name__}: {error}"


def _is_guests(brief: Brief) -> bool:
    return brief.writer.partition(":")[0] == GUEST


def _closed_ticket(graph: Graph, brief: str, said: str = "") -> Ticket:
    """The ticket of a brief that nobody here has in hand."""
    waits = graph.pending.get(brief)
    run = graph.created.run
    if waits is not None:
        written = waits.candidate.id if waits.candidate is not None else ""
        return Ticket(run, brief, STOPPED if written else ASKED, candidate=written)
    node = next((node for node in graph.nodes.values() if node.candidate.brief == brief), None)
    if node is not None:
        return Ticket(run, brief, DONE, candidate=node.id, node=node)
    return Ticket(run, brief, DROPPED, said=said or "it was dropped without an evaluation")


async def _closed(opened: _Open) -> None:
    for task in opened.tasks.values():
        task.cancel()
    await asyncio.gather(*opened.tasks.values(), return_exceptions=True)
    await asyncio.to_thread(opened.closing.close)
