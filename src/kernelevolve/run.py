"""Run: ask, write, evaluate, tell; and the driver that keeps writers and seats busy.

In: a folder, a problem, and the equipment that writes and measures. Out: a log, and the graph that it tells. Left to
others: which parents (`search`), which prompt (`propose`), which verdict (`evaluate`), where the log lies (`store`).

Every door uses the same functions: the driver, the command line and a guest agent. The log is the only thing that
changes. A door watches by tailing: `tail` for the log of any run, `Run.feed` for what the owner's work in flight is
doing.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypeVar

from kernelevolve import codec, plugins
from kernelevolve.candidate import Brief, Candidate
from kernelevolve.drive import Driver
from kernelevolve.errors import (
    KernelEvolveError,
    MachineError,
    NoMovesLeft,
    SeatLost,
    StoreError,
    StoreTooNew,
    UsageError,
)
from kernelevolve.evaluation import Evaluation, Verdict
from kernelevolve.events import Asked, Component, Created, Dropped, Entry, Evaluated, Event, Finished, Noted, Written
from kernelevolve.feed import Feed
from kernelevolve.graph import Graph, Node, Reducer, fold, fold_all
from kernelevolve.hardware import HardwareFigures
from kernelevolve.problem import Problem
from kernelevolve.propose import Answer, Translator, Workbench, Writer
from kernelevolve.propose.operator import Articles, Operator
from kernelevolve.search import Policy
from kernelevolve.search.fitness import fitness
from kernelevolve.search.novelty import BinariesReducer, same_source, told_as_duplicate
from kernelevolve.search.termination import rules_for
from kernelevolve.settings import Settings, settings_for
from kernelevolve.store import Lease, Store
from kernelevolve.store.owner import this_process

T = TypeVar("T")
RETRIES = 3


class Evaluator(Protocol):
    """Measures candidates; several `evaluate` calls may wait at the same time, as many as there are seats."""

    async def evaluate(self, candidate: Candidate, *, progress: Callable[[str], None]) -> Evaluation:
        """What the harness found about `candidate`.

        Args:
            progress: called with the name of each rung as it begins.

        Raises:
            MachineError: the machine's fault; the run asks again, which the evaluator answers from another seat.
        """
        ...


def _nothing() -> None:
    """Closes what needs no closing."""


@dataclass(frozen=True)
class Equipment:
    """What a run works with and the log cannot hold: processes, devices, callables.

    Attributes:
        figures: of the objective platform.
        translator: for the built-in writer.
        articles: knowledge for a query, as Markdown.
        close: called once when the run is closed.
    """

    evaluator: Evaluator
    figures: HardwareFigures | None = None
    translator: Translator | None = None
    articles: Articles | None = None
    close: Callable[[], None] = _nothing


Equip = Callable[[Created, Path], Equipment]
"""Makes the equipment for a run from its first event, with the settings now in force, and the folder that holds builds
(siblings share it)."""


@dataclass(frozen=True)
class Parts:
    """The components of a run, rebuilt from its first event."""

    policy: Policy
    operator: Operator
    equipment: Equipment

    @property
    def reducers(self) -> tuple[Reducer, ...]:
        return (BinariesReducer(), *self.policy.reducers, *self.operator.writer.reducers)


class Run:
    """One search, owned by this process until `close`; use it in a `with` statement.

    `create_run` and `open_run` make it. `ask` and `tell` never wait; `write`, `evaluate`, `submit`, `step` and `drive`
    do. One event loop uses a Run; only `stop` may be called from elsewhere.
    """

    def __init__(self, store: Store, lease: Lease, parts: Parts, graph: Graph) -> None:
        self._store, self._lease, self._graph = store, lease, graph
        self._policy, self._operator, self._equipment = parts.policy, parts.operator, parts.equipment
        self._clock = time.monotonic()
        self._stop: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
        self._close = parts.equipment.close
        self.feed = Feed()

    @property
    def graph(self) -> Graph:
        """The graph as of now, to read."""
        return self._graph

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return codec.from_data(Settings, codec.to_data(self._graph.settings))

    def ask(self) -> Brief:
        """The next brief, now pending.

        Raises:
            NoMovesLeft: the policy has nothing to go on from.
            UsageError: the policy selected what is no node, or one node twice.
        """
        graph = self._graph
        rng = random.Random(f"{graph.created.seed}:{graph.asked}:select")
        parents = self._policy.select(graph, rng)
        unknown = [parent for parent in parents if parent not in graph.nodes]
        if unknown or len(set(parents)) != len(parents):
            raise UsageError(f"policy {graph.created.policy.name!r} selected {parents}; parents are different nodes")
        if graph.is_exhausted(parents):
            raise NoMovesLeft("no moves left")
        brief = self._operator.brief(graph, parents)
        self._append(Asked(brief))
        return brief

    async def write(self, brief: Brief) -> Candidate:
        """The writer's candidate for a pending brief, or the one that it has already.

        Raises:
            WriterError: it was not answered and is now dropped (NoMovesLeft: its parents are exhausted).
        """
        pending = self._pending(brief.id)
        if pending is not None:
            return pending
        self.feed.tell(brief.id, "", "write")
        try:
            answer = await self._retried("writer", brief.id, lambda: self._operator.write(brief, self._graph))
        except MachineError:
            raise
        except KernelEvolveError as error:
            self.drop(brief.id, str(error), exhausted=isinstance(error, NoMovesLeft))
            raise
        return self.answered(brief.id, self._operator.writer.name, answer)

    def answered(self, brief: str, writer: str, answer: Answer) -> Candidate:
        """The candidate that `answer` to a pending brief has become, before its evaluation.

        Raises:
            UsageError: no such brief waits for an answer.
        """
        if self._pending(brief) is not None:
            raise UsageError(f"brief {brief!r} is answered already; ask for another one")
        candidate = Candidate(
            f"n{self._graph.written}", brief, writer, answer.source, answer.note, answer.plan, answer.cost
        )
        self._append(Written(candidate))
        self.feed.tell(brief, candidate.id, "wait")
        return candidate

    async def evaluate(self, candidate: Candidate) -> Evaluation:
        """What the harness found; the same source is not measured twice.

        Raises:
            MachineError: the machine failed again and again; the candidate stays pending.
        """
        twin = same_source(self._graph, candidate)
        if twin is not None and twin.evaluation.verdict.family != "not-the-candidate":
            return twin.evaluation

        def progress(rung: str) -> None:
            self.feed.tell(candidate.brief, candidate.id, rung)

        async def once() -> Evaluation:
            found = await self._equipment.evaluator.evaluate(candidate, progress=progress)
            if found.verdict is Verdict.INFRA:
                failed = next((r.message for r in found.rungs if r.status == "failed"), "no rung says more")
                raise SeatLost(f"evaluating {candidate.id}: {failed}")
            return found

        return await self._retried("seat", candidate.id, once)

    def tell(self, candidate: Candidate, evaluation: Evaluation) -> Node:
        """The node that `candidate` has become.

        Raises:
            UsageError: it does not wait for an evaluation; what is in the log stays as it is.
        """
        if self._pending(candidate.brief) != candidate:
            raise UsageError(f"candidate {candidate.id} is not the pending answer to brief {candidate.brief!r}")
        twin, found = told_as_duplicate(self._graph, candidate, evaluation)
        found = replace(found, diagnosis=str(self._operator.diagnose(found)))
        worth = fitness(self._graph.created.problem, found)
        self._append(Evaluated(candidate.id, found, worth, twin))
        self.feed.tell(candidate.brief, candidate.id, "done")
        return self._graph.nodes[candidate.id]

    async def submit(self, brief: str, source: str, note: str = "", *, writer: str = "guest") -> Node:
        """A guest's answer to the pending brief with id `brief`, evaluated and told.

        After a MachineError the same source may be submitted again.

        Raises:
            UsageError: no such brief waits for an answer.
            MachineError: the machine failed again and again.
        """
        candidate = self._pending(brief)
        if candidate is None or candidate.source != source:
            candidate = self.answered(brief, writer, Answer(source, note))
        return self.tell(candidate, await self.evaluate(candidate))

    def drop(self, brief: str, reason: str, *, exhausted: bool = False) -> None:
        """Ends a pending brief without a candidate.

        Raises:
            UsageError: no such brief waits for an answer.
        """
        self._pending(brief)
        self._append(Dropped(brief, reason, exhausted))
        self.feed.tell(brief, "", "dropped")

    async def step(self) -> Node:
        """One turn of the loop; `drive` is many of them side by side."""
        brief = self.ask()
        candidate = await self.write(brief)
        evaluation = await self.evaluate(candidate)
        return self.tell(candidate, evaluation)

    async def drive(self) -> str:
        """Turns the loop until a termination rule says stop; gives its reason, or nothing after `stop`.

        Pending briefs come first. At most `writers + seats - 1` briefs are in flight: enough for all seats while the
        writers think, and with one of each exactly a sequence of steps, so that the run is deterministic.

        Raises:
            MachineError: the machine's fault, RETRIES times over; the run can be resumed.
            KernelEvolveError: what else ends a run: a full disk, a lost lease, an op that nobody can write.
        """
        self._stop = (asyncio.get_running_loop(), asyncio.Event())
        try:
            return await Driver(self, self._stop[1]).drive()
        finally:
            self._stop = None

    def stop(self) -> None:
        """Makes `drive` cancel the work in flight and return; its briefs stay pending. Safe from any thread."""
        if self._stop is not None:
            loop, event = self._stop
            loop.call_soon_threadsafe(event.set)

    def finish(self, reason: str) -> str:
        """Tells the log why the run ended, once; gives `reason`."""
        if self._graph.finished != reason:
            self._append(Finished(reason))
        return reason

    def reason(self) -> str:
        """Why no further brief should be asked; empty to go on."""
        worked = self._graph.active_seconds + time.monotonic() - self._clock
        return rules_for(self.settings).reason(self._graph, worked)

    def close(self) -> None:
        """Gives the run back; it can be opened again. May be called again, e.g. after a full disk made it fail."""
        close, self._close = self._close, _nothing
        try:
            close()
        finally:
            self._lease.release()

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _append(self, event: Event) -> None:
        fold(self._graph, self._store.append(event, self._lease))
        self._clock = time.monotonic()

    def _pending(self, brief: str) -> Candidate | None:
        """The candidate of a pending brief; None if it is not written."""
        if brief not in self._graph.pending:
            known = ", ".join(self._graph.pending) or "none"
            raise UsageError(f"brief {brief!r} waits for no answer; pending: {known}")
        return self._graph.pending[brief].candidate

    async def _retried(self, what: str, name: str, work: Callable[[], Awaitable[T]]) -> T:
        for attempt in range(1, RETRIES + 1):
            try:
                return await work()
            except MachineError as error:
                self._append(Noted(what, f"{name}, attempt {attempt} of {RETRIES + 1}: {error}"))
        return await work()


def create_run(
    folder: Path,
    problem: Problem,
    platform: str,
    equip: Equip,
    *,
    settings: Settings | None = None,
    policy: Component | None = None,
    writer: Component | None = None,
    seed: int = 0,
    store: str = "sqlite",
    builds: Path | None = None,
) -> Run:
    """A new run in `folder`, owned by this process.

    Args:
        platform: name of the objective platform.
        equip: makes evaluator, figures and translator from the run's first event.
        settings: default: those of effort `standard`.
        policy: default: greedy with the settings' number of drafts.
        writer: default: the built-in.
        builds: folder for builds that siblings share; default: in the run's folder.

    Raises:
        StoreError: the folder holds a run already, or cannot be written.
        UnknownName: a policy, writer or store that nobody registered.
    """
    settings = settings or settings_for("standard")
    created = Created(
        run=uuid.uuid4().hex[:12],
        problem=problem,
        platform=platform,
        seed=seed,
        policy=policy or Component("greedy", {"drafts": settings.drafts}),
        writer=writer or Component("built-in"),
        settings=codec.to_data(settings),
        version=version("kernelevolve"),
    )
    log: Store = plugins.load("stores", store)(folder, create=True)
    lease = log.take(this_process())
    with _undone_on_error(lease.release):
        equipment = equip(created, builds or folder / "builds")
        with _undone_on_error(equipment.close):
            parts = _parts(created, equipment)
            graph = Graph(parts.reducers)
            fold(graph, log.append(created, lease))
    return Run(log, lease, parts, graph)


def open_run(
    folder: Path,
    equip: Equip,
    *,
    settings: Settings | None = None,
    by_force: bool = False,
    store: str = "sqlite",
    builds: Path | None = None,
) -> Run:
    """The run in `folder`, replayed and now owned by this process.

    Args:
        settings: in force from now on; default: as before.
        by_force: take the run from a process on another machine that is known to be gone.

    Raises:
        RunBusy: a live process owns it.
        StoreTooNew: it was written by a newer KernelEvolve.
        StoreError: there is no run, or its log is damaged.
    """
    log: Store = plugins.load("stores", store)(folder)
    lease = log.take(this_process(), by_force=by_force)
    with _undone_on_error(lease.release):
        entries = log.read_from(0)
        before = fold_all(entries)
        now = before.settings if settings is None else codec.to_data(settings)
        equipment = equip(replace(before.created, settings=now), builds or folder / "builds")
        with _undone_on_error(equipment.close):
            parts = _parts(before.created, equipment)
            run = Run(log, lease, parts, fold_all(entries, parts.reducers))
            if settings is not None and codec.dumps(now) != codec.dumps(before.settings):
                run._append(Noted("settings", f"effort {settings.effort}", now))
    return run


def holds_run(folder: Path, *, store: str = "sqlite") -> bool:
    """Whether `folder` holds a run; a creation that was cut short is none."""
    try:
        log: Store = plugins.load("stores", store)(folder)
    except StoreTooNew:
        return True
    except StoreError:
        return False
    return bool(log.read_from(0, most=1))


def read_run(folder: Path, *, onto: Graph | None = None, store: str = "sqlite") -> Graph:
    """The graph of the run in `folder` as of now; never owns it, so it works beside a live owner.

    Args:
        onto: a graph that this function gave for the same folder; what is new is folded onto it, and it comes back.
    """
    graph = Graph() if onto is None else onto
    for entry in tail(folder, graph.next_sequence, store=store):
        fold(graph, entry)
    return graph


def tail(folder: Path, sequence: int = 0, *, store: str = "sqlite") -> tuple[Entry, ...]:
    """The entries of the run in `folder` from number `sequence` on; never owns it."""
    log: Store = plugins.load("stores", store)(folder)
    return log.read_from(sequence)


def optimize(
    problem: Problem,
    platforms: tuple[str, ...],
    folder: Path,
    equip: Equip,
    *,
    settings: Settings | None = None,
    policy: Component | None = None,
    writer: Component | None = None,
    seed: int = 0,
) -> tuple[Graph, ...]:
    """The finished graph of one run per platform, in the order given.

    One platform's run lies in `folder`; several are siblings in `folder/PLATFORM`, one after the other, and share their
    builds in `folder/builds`. A run that is there already is resumed.

    Raises:
        UsageError: no platform, or one twice.
        KernelEvolveError: what `Run.drive` raises.
    """
    if not platforms or len(set(platforms)) != len(platforms):
        raise UsageError(f"give one or more different platforms, got {', '.join(platforms) or 'none'}")
    graphs = []
    for platform in platforms:
        place = folder if len(platforms) == 1 else folder / platform
        builds = folder / "builds"
        if holds_run(place):
            run = open_run(place, equip, settings=settings, builds=builds)
        else:
            run = create_run(
                place, problem, platform, equip,
                settings=settings, policy=policy, writer=writer, seed=seed, builds=builds,
            )  # fmt: skip
        with run:
            asyncio.run(run.drive())
            graphs.append(run.graph)
    return tuple(graphs)


@contextmanager
def _undone_on_error(undo: Callable[[], None]) -> Iterator[None]:
    with ExitStack() as stack:
        stack.callback(undo)
        yield
        stack.pop_all()


def _parts(created: Created, equipment: Equipment) -> Parts:
    policy = _build("policies", created.policy)
    workbench = Workbench(created.problem, created.platform, created.seed, equipment.figures, equipment.translator)
    writer: Writer = _build("writers", created.writer, workbench)
    return Parts(policy, Operator(writer, figures=equipment.figures, articles=equipment.articles), equipment)


def _build(kind: plugins.Kind, component: Component, *first: Any) -> Any:
    try:
        return plugins.load(kind, component.name)(*first, **component.args)
    except TypeError as error:
        raise UsageError(f"{kind}: {component.name!r} cannot be built with {dict(component.args)}: {error}") from error
