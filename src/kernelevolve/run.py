"""Run: ask, write, evaluate, tell; and the driver that keeps writers and seats busy.

In: an owned log, and the equipment that writes and measures. Out: a longer log, and the graph that it tells. Left to
others: which parents (`search`), which prompt (`propose`), which verdict (`evaluate`), where runs lie (`runs`).

Every door uses the same functions: the driver, the command line and a guest agent. The log is the only thing that
changes. A door watches by tailing: `runs.tail` for the log of any run, `Run.feed` for what the owner's work in flight
is doing.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Protocol, TypeVar

from kernelevolve import codec
from kernelevolve.candidate import Brief, Candidate, Cost
from kernelevolve.drive import Driver, Seats
from kernelevolve.errors import (
    BudgetSpent,
    KernelEvolveError,
    LateAnswer,
    MachineError,
    NoMovesLeft,
    SeatLost,
    UsageError,
    WriterError,
)
from kernelevolve.evaluation import Evaluation, Verdict
from kernelevolve.events import LATE, Asked, Created, Dropped, Evaluated, Event, Finished, Noted, Written
from kernelevolve.family import Family
from kernelevolve.feed import Feed
from kernelevolve.graph import Graph, Node, Reducer, fold
from kernelevolve.hardware import HardwareFigures
from kernelevolve.knowledge.library import Library
from kernelevolve.llm.ledger import Ledger
from kernelevolve.propose import Answer, Translator
from kernelevolve.propose.operator import Operator
from kernelevolve.propose.steering import refuse_unfitting_note
from kernelevolve.search import Policy, choosing, contenders
from kernelevolve.search.arms import Arm
from kernelevolve.search.bandit import Chooser, First
from kernelevolve.search.control import ControlReducer, is_controls_turn, view
from kernelevolve.search.fitness import fitness
from kernelevolve.search.novelty import (
    BinariesReducer,
    ProgramsReducer,
    first_of_its_kind,
    same_text,
    told_as_duplicate,
)
from kernelevolve.search.program import program_digest
from kernelevolve.search.progress import ProgressReducer
from kernelevolve.search.termination import rules_for
from kernelevolve.settings import Settings
from kernelevolve.store import Lease, Store, inbox
from kernelevolve.store.artefacts import Artefacts
from kernelevolve.store.blobs import Blobs
from kernelevolve.tools import Tools

T = TypeVar("T")
RETRIES = 3


class Evaluator(Protocol):
    """Measures candidates; several `evaluate` calls may wait at the same time, as many as there are seats."""

    async def evaluate(
        self, candidate: Candidate, *, progress: Callable[[str], None], keep: Callable[[bytes], str]
    ) -> Evaluation:
        """What the harness found about `candidate`.

        Args:
            progress: called with the name of each rung as it begins.
            keep: stores what is too large for the log and gives the reference for `Evaluation.artefacts`; from any
                thread.

        Raises:
            StoreError: raised by `keep`, and passed on.
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
        rules: of the objective platform for writers, as Markdown.
        translator: for the built-in writer.
        library: what is known before the run; None where nothing is.
        notes: what was found out on the way and belongs in the run's log.
        confirm: gives an evaluator that measures a node's evaluation again, as one of so many; None where no device
            measures.
        close: called once when the run is closed.
        family: of the problem; None where it cannot be told.
        measures: whether an accelerator takes the times.
        tools: for writers and guests.
    """

    evaluator: Evaluator
    figures: HardwareFigures | None = None
    translator: Translator | None = None
    library: Library | None = None
    notes: tuple[Noted, ...] = ()
    confirm: Callable[[Evaluation, int], Evaluator] | None = None
    close: Callable[[], None] = _nothing
    family: Callable[[], Family | None] = _nothing
    measures: bool = True
    tools: Tools | None = None
    rules: str = ""


Equip = Callable[[Created, Path], Equipment]
"""Makes the equipment for a run from its first event, with the settings now in force, and the folder that holds builds
(siblings share it)."""


@dataclass(frozen=True)
class Parts:
    """The components of a run, rebuilt from its first event."""

    policy: Policy
    operator: Operator
    equipment: Equipment
    chooser: Chooser = field(default_factory=First)
    control: bool = False
    ledger: Ledger = field(default_factory=Ledger)

    @property
    def reducers(self) -> tuple[Reducer, ...]:
        novelty, operator = (BinariesReducer(), ProgramsReducer()), self.operator.reducers
        search = (*self.policy.reducers, *self.chooser.reducers, *operator)
        if self.control:
            apart = ControlReducer((*novelty, *search), (*novelty, *self.chooser.reducers, *operator))
            return (*novelty, ProgressReducer(), apart)
        return (*novelty, ProgressReducer(), *search)


class Run:
    """One search, owned by this process until `close`; use it in a `with` statement.

    `create_run` and `open_run` make it. `ask` and `tell` never wait; `write`, `evaluate`, `submit`, `step` and `drive`
    do. One event loop uses a Run; only `stop` and `cancel` may be called from elsewhere.
    """

    def __init__(
        self,
        store: Store,
        lease: Lease,
        parts: Parts,
        graph: Graph,
        blobs: Blobs,
        keep: Callable[[Graph], object],
        folder: Path | None = None,
    ) -> None:
        self._store, self._lease, self._graph, self._blobs, self._keep = store, lease, graph, blobs, keep
        self._policy, self._operator, self._equipment = parts.policy, parts.operator, parts.equipment
        self._chooser, self._folder = parts.chooser, folder
        self.ledger = parts.ledger
        self._clock = time.monotonic()
        self._driver: Driver | None = None
        self._spent: Finished | None = None
        self._settings = _settings_of(graph)
        self._close = parts.equipment.close
        self.feed, self.seats = Feed(), Seats(self._settings.seats)

    @property
    def graph(self) -> Graph:
        """The graph as of now, to read."""
        return self._graph

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._settings

    @property
    def tools(self) -> Tools | None:
        """What may be asked about a source before it is submitted; None where this run's equipment has no tools."""
        return self._equipment.tools

    @property
    def artefacts(self) -> Artefacts:
        """What the evaluations of this run refer to: launch plans, raw samples, whole error texts."""
        return Artefacts(self._graph, self._blobs)

    async def step(self) -> Node:
        """One turn of the loop; `drive` is many of them side by side."""
        brief = self.ask()
        candidate = await self.write(brief)
        evaluation = await self.evaluate(candidate)
        return self.tell(candidate, evaluation)

    def ask(self, writer: str = "") -> Brief:
        """The next brief, now pending.

        Args:
            writer: who will answer it, such as a guest; default: the run's chooser says who of its writers.

        Raises:
            NoMovesLeft: the policy has nothing to go on from.
            PluginFault: the policy raised, selected what is no node or one node twice, or changed the graph.
        """
        self.collect()
        control = is_controls_turn(self._graph)
        graph = view(self._graph, control)
        brief = self._operator.seed(graph) if not writer and not control else None
        brief = brief or self._chosen(graph, writer, control)
        index = self._graph.asked
        brief = replace(brief, id=f"b{index}", index=index, control=control)
        self._append(Asked(brief))
        return brief

    def collect(self) -> int:
        """Takes in what others left in the run's inbox: a person's notes, briefs to be dropped; how many there were.

        What cannot be used is set aside, and a note in the log names it.
        """
        if self._folder is None:
            return 0

        def note(noted: Noted) -> None:
            refuse_unfitting_note(self._graph, noted)
            self._append(noted)

        return inbox.collect(self._folder, note, lambda brief, reason: self.drop(brief, reason))

    def _chosen(self, graph: Graph, writer: str, control: bool) -> Brief:
        """The brief for the parents that the policy, and the writer and move that the chooser selects."""
        rng = random.Random(f"{graph.created.seed}:{graph.asked}:select")
        parents = () if control else choosing.select(self._policy, graph, rng)
        if graph.is_exhausted(parents):
            raise NoMovesLeft("no moves left")
        arms = [Arm(writer)] if writer else [Arm(*arm) for arm in self._operator.arms(parents)]
        luck = random.Random(f"{graph.created.seed}:{graph.asked}:choose")
        arm = self._chooser.choose(graph, parents, arms, luck)
        return self._operator.brief(graph, parents, arm.writer, arm.move)

    async def write(self, brief: Brief) -> Candidate:
        """The writer's candidate for a pending brief, or the one that it has already.

        Raises:
            WriterError: it was not answered and is now dropped (NoMovesLeft: its parents are exhausted).
            BudgetSpent: the same, and the run has come to its end.
        """
        pending = self._pending(brief.id)
        if pending is not None:
            return pending
        self.feed.tell(brief.id, "", "write")
        try:
            name, answer = await self._retried("writer", brief.id, lambda: self._asked_of_writer(brief))
        except MachineError:
            raise
        except KernelEvolveError as error:
            told = error if isinstance(error, (WriterError, BudgetSpent)) else WriterError(str(error))
            cost = told.cost
            if isinstance(error, BudgetSpent):
                self._spent = Finished(str(error), error.limit)
            if self._is_open(brief.id):
                self.drop(
                    brief.id, str(error), exhausted=isinstance(error, NoMovesLeft), cost=cost, session=told.session
                )
            else:
                name = brief.writer or self._operator.writers[0].name
                self._keep_late(brief.id, name, Answer("", str(error), cost=cost))
            raise
        return self.answered(brief.id, name, answer)

    async def _asked_of_writer(self, brief: Brief) -> tuple[str, Answer]:
        name = brief.writer or self._operator.writers[0].name
        try:
            graph = view(self._graph, brief.control)
            name, answer = await self._operator.write(graph.pending[brief.id].brief, graph)
        except KernelEvolveError:
            raise
        except Exception as error:  # a stranger's package; one brief is dropped, and many in a row end the run
            raise WriterError(f"writer {name!r} raised {type(error).__name__}: {error}") from error
        if not isinstance(answer, Answer):
            raise WriterError(f"writer {name!r} gave {answer!r:.80}, which is no Answer")
        return name, answer

    def answered(self, brief: str, writer: str, answer: Answer) -> Candidate:
        """The candidate that `answer` to a pending brief has become, before its evaluation.

        Raises:
            LateAnswer: the brief has an answer already, was dropped, or the run ended; this one is kept in the log and
                not evaluated.
            UsageError: no such brief was ever asked.
        """
        if not self._is_open(brief):
            raise self._keep_late(brief, writer, answer)
        candidate = Candidate(
            f"n{self._graph.written}", brief, writer, answer.source, answer.note, answer.plan, answer.cost,
            program_digest(answer.source), answer.move, answer.origin,
            control=self._graph.pending[brief].brief.control, session=answer.session,
        )  # fmt: skip
        self._append(Written(candidate))
        self.feed.tell(brief, candidate.id, "wait")
        return candidate

    async def evaluate(self, candidate: Candidate) -> Evaluation:
        """What the harness found; the same source or program is not measured twice.

        Raises:
            MachineError: the machine failed again and again; the candidate stays pending.
            StoreError: an artefact could not be stored; the candidate stays pending.
        """
        twin, _ = same_text(self._graph, candidate) or (None, "")
        if twin is not None and twin.verdict.family != "not-the-candidate":
            return first_of_its_kind(replace(twin.evaluation, device_seconds=0.0))

        def progress(rung: str) -> None:
            self.feed.tell(candidate.brief, candidate.id, rung)

        async def once() -> Evaluation:
            found = await self._equipment.evaluator.evaluate(candidate, progress=progress, keep=self._blobs.put)
            if found.verdict is Verdict.INFRA:
                failed = next((r.message for r in found.rungs if r.status == "failed"), "no rung says more")
                raise SeatLost(f"evaluating {candidate.id}: {failed}")
            return found

        async with self.seats.seat():
            found = await self._retried("seat", candidate.id, once)
        async for note in self._operator.examine(view(self._graph, candidate.control), candidate, found):
            self._append(note)
        return found

    def tell(self, candidate: Candidate, evaluation: Evaluation) -> Node:
        """The node that `candidate` has become.

        Raises:
            UsageError: it does not wait for an evaluation; what is in the log stays as it is.
        """
        if self._pending(candidate.brief) != candidate:
            raise UsageError(f"candidate {candidate.id} is not the pending answer to brief {candidate.brief!r}")
        twin, found = told_as_duplicate(view(self._graph, candidate.control), candidate, evaluation)
        found = replace(found, diagnosis=str(self._operator.diagnose(found)))
        worth = fitness(self._graph.created.problem, found)
        self._append(Evaluated(candidate.id, found, worth, twin))
        self.feed.tell(candidate.brief, candidate.id, "done")
        return self._graph.nodes[candidate.id]

    async def submit(
        self, brief: str, source: str, note: str = "", *, writer: str = "guest", cost: Cost | None = None
    ) -> Node:
        """A guest's answer to the pending brief with id `brief`, evaluated and told.

        After a MachineError the same source may be submitted again.

        Args:
            cost: of writing it; it counts towards the run's limits.

        Raises:
            LateAnswer, UsageError: see `answered`.
            MachineError: the machine failed again and again.
        """
        waits = self._graph.pending.get(brief)
        candidate = waits.candidate if waits is not None else None
        if candidate is None or candidate.source != source:
            candidate = self.answered(brief, writer, Answer(source, note, cost=cost or Cost()))
            self.ledger.charge(candidate.cost)
        found = await self.evaluate(candidate)
        # The driver takes over what it thinks nobody evaluates.
        told = self._graph.nodes.get(candidate.id)
        return told if told is not None else self.tell(candidate, found)

    def drop(
        self, brief: str, reason: str, *, exhausted: bool = False, cost: Cost | None = None, session: str = ""
    ) -> None:
        """Ends a pending brief without a node; who writes or evaluates it for `drive` is stopped, and free again.

        Raises:
            UsageError: no such brief waits for an answer.
        """
        self._pending(brief)
        self._append(Dropped(brief, reason, exhausted, cost or Cost(), session))
        self.feed.tell(brief, "", "dropped")

    def cancel(self, brief: str, reason: str = "cancelled by the user") -> None:
        """Drops a brief if it is still pending. Safe from any thread while `drive` runs."""

        def act() -> None:
            if brief in self._graph.pending:
                self.drop(brief, reason)

        if self._driver is not None:
            self._driver.call(act)
        else:
            act()

    async def drive(self) -> str:
        """Turns the loop until a termination rule says stop; gives its reason, or nothing after `stop`.

        Pending briefs come first. With one writer and one seat it is exactly a sequence of steps, so that the run is
        deterministic; else `Settings.writers`, `seats` and `waiting` say what is done side by side. Guests may ask and
        submit meanwhile.

        Raises:
            MachineError: the machine's fault, RETRIES times over; the run can be resumed.
            KernelEvolveError: what else ends a run: a full disk, a lost lease, an op that nobody can write.
        """
        self._driver = Driver(self)
        try:
            return await self._driver.drive()
        finally:
            self._driver = None

    async def confirm(self) -> None:
        """Measures the best nodes again, where a device measures: what is in the note `result` is the run's result.

        Raises:
            MachineError: the machine's fault, RETRIES times over; nothing is noted.
        """
        nodes = contenders.contenders(self._graph)
        confirm = self._equipment.confirm
        if confirm is None or not nodes or contenders.measured_again(self._graph, nodes):
            return
        again = []
        for node in nodes:
            found = await self._again(node, confirm(node.evaluation, len(nodes)))
            worth = fitness(self._graph.created.problem, found)
            again.append(contenders.Again(node.id, node.fitness, worth, found))
        self._append(contenders.result(again))

    async def _again(self, node: Node, evaluator: Evaluator) -> Evaluation:
        def progress(rung: str) -> None:
            self.feed.tell(node.candidate.brief, node.id, rung)

        async def once() -> Evaluation:
            return await evaluator.evaluate(node.candidate, progress=progress, keep=self._blobs.put)

        try:
            return await self._retried("seat", node.id, once)
        finally:
            self.feed.tell(node.candidate.brief, node.id, "done")

    def stop(self) -> None:
        """Makes `drive` cancel the work in flight and return; its briefs stay pending. Safe from any thread."""
        if self._driver is not None:
            self._driver.stop()

    def finish(self, ended: Finished) -> str:
        """Tells the log why the run ended, once; gives the reason in words."""
        if self._graph.finished != ended.reason:
            self._append(ended)
        return ended.reason

    def adopt(self, settings: Settings) -> None:
        """Puts other settings in force from now on."""
        now = codec.to_data(settings)
        if codec.dumps(now) != codec.dumps(self._graph.settings):
            self._append(Noted("settings", f"effort {settings.effort}", now))
            self._settings, self.seats = settings, Seats(settings.seats)

    def reason(self) -> Finished | None:
        """Why no further brief should be asked; None to go on."""
        if self._spent is not None:
            return self._spent
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
        self._keep(self._graph)
        self._clock = time.monotonic()
        if self._driver is not None:
            self._driver.changed()

    def _is_open(self, brief: str) -> bool:
        """Whether the brief is pending and nobody has answered it."""
        waits = self._graph.pending.get(brief)
        return waits is not None and waits.candidate is None

    def _keep_late(self, brief: str, writer: str, answer: Answer) -> LateAnswer | UsageError:
        """Keeps an answer that nobody waits for, which was paid for all the same; the error that says so."""
        known = ", ".join(name for name in self._graph.pending if self._is_open(name)) or "none"
        text = f"brief {brief!r} waits for no answer; pending: {known}"
        if not (brief[:1] == "b" and brief[1:].isdecimal() and int(brief[1:]) < self._graph.asked):
            return UsageError(text)
        if brief in self._graph.pending:
            text = f"brief {brief!r} is answered already; ask for another one"
        data = {"brief": brief, "writer": writer, "source": answer.source, "note": answer.note, "cost": answer.cost}
        self._append(Noted(LATE, f"{brief}: an answer by {writer} that nobody waits for", codec.to_data(data)))
        return LateAnswer(f"{text}; this answer is kept in the log and not evaluated")

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


def _settings_of(graph: Graph) -> Settings:
    return codec.from_data(Settings, codec.to_data(graph.settings))
