"""Fakes that take their time, fail and cost, and what a log must show after they were many at once.

In: how long, how often, how much; a log. Out: a writer and an evaluator for runs under load; in words, what in a log is
not as it must be. Left to others: the run itself (`run`, `drive`).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from unittest import mock

from kernelevolve import codec, plugins
from kernelevolve.candidate import Brief, Candidate, Cost
from kernelevolve.errors import SeatLost, StoreError, WriterError
from kernelevolve.evaluation import Evaluation
from kernelevolve.events import LATE, Asked, Created, Dropped, Entry, Evaluated, Finished, Noted, Written
from kernelevolve.graph import Graph, fold
from kernelevolve.propose import Answer, Workbench
from kernelevolve.search import choosing
from kernelevolve.search.novelty import BinariesReducer, ProgramsReducer
from kernelevolve.search.progress import ProgressReducer
from kernelevolve.search.termination import rules_for
from kernelevolve.settings import Settings
from kernelevolve.store.blobs import blobs_of
from kernelevolve.testing import FakeEvaluator

LOADED = "loaded"


@contextmanager
def registered(kind: plugins.Kind, name: str, value: str) -> Iterator[None]:
    """In this process and for a while, `value` (`package.module:Class`) as an installed package registers it."""
    point = EntryPoint(name, value, f"kernelevolve.{kind}")
    known = plugins._points
    with mock.patch.object(plugins, "_points", lambda k: (*known(k), *((point,) if k == kind else ()))):
        yield


class LoadedWriter:
    """Answers each brief from its index alone, after a while, for a price, or not at all.

    Args:
        seconds: least and most that an answer takes.
        failing, raising, silent: shares of briefs at which it fails as writers may, raises what no writer may, and
            never answers. Failing costs, too.
        tokens, money: mean of what an answer costs; each costs between half and one and a half of it.
    """

    name = LOADED
    reducers = ()

    def __init__(
        self,
        workbench: Workbench,
        *,
        seconds: Sequence[float] = (0.0, 0.0),
        failing: float = 0.0,
        raising: float = 0.0,
        silent: float = 0.0,
        tokens: int = 0,
        money: float = 0.0,
    ) -> None:
        self._seed, (self._least, self._most) = workbench.seed, seconds
        self._failing, self._raising, self._silent = failing, raising, silent
        self._tokens, self._money = tokens, money

    async def write(self, brief: Brief, graph: Graph) -> Answer:
        """See `propose.Writer.write`."""
        luck = random.Random(f"{self._seed}:{brief.index}:loaded")
        share = 0.5 + luck.random()
        cost = Cost(0.0, round(self._tokens * share), 0, self._money * share)
        await asyncio.sleep(luck.uniform(self._least, self._most))
        fate = luck.random()
        if fate < self._failing:
            raise WriterError(f"the writer fails at {brief.id}", cost)
        if fate < self._failing + self._raising:
            raise ZeroDivisionError(f"the writer breaks at {brief.id}")
        if fate < self._failing + self._raising + self._silent:
            await asyncio.Event().wait()
        return Answer(f"# seed {self._seed}, brief {brief.index}, parents {brief.parents}\n", cost=cost)


@dataclass(frozen=True)
class Span:
    """One attempt on a seat: of which candidate, from and to when in seconds since 1970."""

    candidate: str
    start: float
    end: float


class LoadedEvaluator:
    """Judges a candidate by its digest, after a while; says who was on a seat and when.

    Args:
        seconds: least and most that an attempt takes.
        faulty: share of candidates that are wrong.
        lost: share of attempts that fail by the machine's fault.
        device: whether a candidate holds an accelerator meanwhile.
    """

    def __init__(
        self,
        *,
        seconds: Sequence[float] = (0.0, 0.0),
        faulty: float = 0.0,
        lost: float = 0.0,
        device: bool = True,
        seed: int = 0,
    ) -> None:
        self._judge, self._seed, self._lost, self._device = FakeEvaluator(seed, faulty=faulty), seed, lost, device
        self._least, self._most = seconds
        self._attempts: Counter[str] = Counter()
        self.spans: list[Span] = []

    async def evaluate(
        self, candidate: Candidate, *, progress: Callable[[str], None], keep: Callable[[bytes], str]
    ) -> Evaluation:
        """See `run.Evaluator.evaluate`."""
        self._attempts[candidate.id] += 1
        luck = random.Random(f"{self._seed}:{candidate.id}:{self._attempts[candidate.id]}")
        start = time.time()
        try:
            await asyncio.sleep(luck.uniform(self._least, self._most))
            if luck.random() < self._lost:
                raise SeatLost(f"the seat of {candidate.id} was lost")
            found = await asyncio.to_thread(self._judge.judged, candidate, keep)  # as the ladder climbs
        finally:
            self.spans.append(Span(candidate.id, start, time.time()))
        return replace(found, device_seconds=self.spans[-1].end - start) if self._device else found


def other_choice(entries: Sequence[Entry]) -> str:
    """Where a replay of a log selects other parents than the log tells, in words; empty if nowhere.

    At each Asked the policy, built anew, chooses from what was in the log before it.
    """
    created = entries[0].event
    assert isinstance(created, Created)
    policy = choosing.build(created.policy)
    graph = Graph((BinariesReducer(), ProgramsReducer(), ProgressReducer(), *policy.reducers))
    for entry in entries:
        if isinstance(entry.event, Asked):
            brief = entry.event.brief
            chosen = choosing.select(policy, graph, random.Random(f"{created.seed}:{graph.asked}:select"))
            if chosen != brief.parents:
                return f"entry {entry.sequence}: {brief.id} has parents {brief.parents}, a replay selects {chosen}"
        fold(graph, entry)
    return ""


def disorder(entries: Sequence[Entry], folder: Path | None = None) -> list[str]:
    """What is lost, doubled or out of order in a log, in words.

    Entries are numbered without gaps and leases rise; each brief index is asked once, answered at most once, and told
    or dropped at most once; each candidate is evaluated at most once; what was written is told, dropped or pending;
    nothing is asked when a rule says stop (but for time, which the log does not tell exactly), and nothing is pending
    after the end; tokens and money are the sums over the events that state them.

    Args:
        folder: of the run: its blobs are read, each one that an evaluation names.
    """
    wrong = []
    if [e.sequence for e in entries] != list(range(len(entries))):
        wrong.append("entries are missing or doubled")
    if [e.epoch for e in entries] != sorted(e.epoch for e in entries):
        wrong.append("an older lease wrote after a newer one")
    graph, costs = Graph((ProgressReducer(),)), []
    asked, written, told = Counter[int](), Counter[str](), Counter[str]()
    for entry in entries:
        event = entry.event
        if isinstance(event, Asked) and (ended := rules_for(_settings(graph)).reason(graph, 0.0)):
            wrong.append(f"{event.brief.id} was asked although the run ends: {ended.reason}")
        fold(graph, entry)  # raises where an event does not follow from those before it
        if isinstance(event, Asked):
            asked[event.brief.index] += 1
        elif isinstance(event, Written):
            written[event.candidate.brief] += 1
            costs.append(event.candidate.cost)
        elif isinstance(event, Evaluated):
            told[event.candidate] += 1
        elif isinstance(event, Dropped):
            costs.append(event.cost)
        elif isinstance(event, Noted) and event.topic == LATE:
            costs.append(Cost(**event.data["cost"]))
        elif isinstance(event, Finished) and graph.pending:
            wrong.append(f"{', '.join(graph.pending)} pending after the end")
    for what, counts in (("brief index", asked), ("answer to", written), ("evaluation of", told)):
        wrong += [f"{what} {name} comes {count} times" for name, count in counts.items() if count > 1]
    if sorted(asked) != list(range(len(asked))):
        wrong.append("a brief index was left out")
    if graph.tokens != sum(c.tokens_in + c.tokens_out for c in costs):
        wrong.append(f"{graph.tokens} tokens are counted")
    if abs(graph.money_usd - sum(c.money_usd for c in costs)) > 1e-9 * (1 + graph.money_usd):
        wrong.append(f"{graph.money_usd} dollars are counted")
    return wrong + (_blobs_missing(graph, folder) if folder is not None else [])


def _settings(graph: Graph) -> Settings:
    return codec.from_data(Settings, dict(graph.settings))


def _blobs_missing(graph: Graph, folder: Path) -> list[str]:
    blobs, wrong = blobs_of(graph.created, folder), []
    for node in graph.nodes.values():
        for reference in node.evaluation.artefacts.values():
            try:
                blobs.get(reference)
            except StoreError as error:
                wrong.append(f"{node.id}: {error}")
    return wrong
