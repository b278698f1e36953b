"""The search graph: a fold over a run's log.

In: the entries of the log, in order. Out: a read-only Graph: nodes, pending briefs, the best node, lineage, and what
reducers made of the same entries. Left to others: choosing (`search`), composing (`propose`), appending (`run`).

`fold` is the only way to change a Graph; policies, writers and terminations receive it to read. Whatever a component
needs at scale it registers as a Reducer, which sees each event once; nobody scans all nodes on each ask.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

from kernelevolve import codec
from kernelevolve.candidate import Brief, Candidate, Cost
from kernelevolve.errors import PluginFault, StoreError, UsageError
from kernelevolve.events import COSTLY, Asked, Created, Dropped, Entry, Evaluated, Event, Finished, Noted, Written
from kernelevolve.node import Node as Node
from kernelevolve.node import Shelf, shelved

RESULT = "result"


@dataclass(frozen=True)
class Pending:
    """A brief that is neither evaluated nor dropped; `candidate` once it is written."""

    brief: Brief
    candidate: Candidate | None = None


class Reducer(Protocol):
    """A fold of its own along the graph's: from `start()`, `fold` returns the next state after each event.

    `fold` is called after the graph itself has taken the event in; it may change `state` in place and return it. It
    must depend on nothing but its arguments, so that a replay gives the same state.
    """

    name: str

    def start(self) -> Any:
        """The state before the first event."""

    def fold(self, state: Any, event: Event, graph: Graph) -> Any:
        """The state after `event`."""


@runtime_checkable
class Restorable(Reducer, Protocol):
    """A Reducer whose state can be kept as data, so that a long run opens without folding its whole log.

    Both methods depend on nothing but their arguments. What `restore` gives equals what was saved, in the order of
    its mappings too. A run with a reducer that is not restorable is folded from its first event at each opening.
    """

    def save(self, state: Any, graph: Graph) -> Any:
        """`state` as JSON data: None, bool, int, float, str, lists, and mappings with str keys."""

    def restore(self, data: Any, graph: Graph) -> Any:
        """The state that `save` was given when `graph` was as it is now."""


class Graph:
    """The state of a run as its log tells it; read-only.

    Args:
        reducers: what is folded along; names must be unique.
        shelf: reads candidates and evaluations from the log again; without one the graph holds them all.
    """

    def __init__(self, reducers: Iterable[Reducer] = (), shelf: Shelf | None = None) -> None:
        self._created: Created | None = None
        self._settings: Mapping[str, Any] = {}
        self._nodes: dict[str, Node] = {}
        self._pending: dict[str, Pending] = {}
        self._children: dict[str, list[str]] = {}
        self._digests: dict[str, str] = {}
        self._exhausted: set[tuple[str, ...]] = set()
        self._notes: list[Noted] = []
        self._best: Node | None = None
        self._furthest: Node | None = None
        self._climbed = -1
        self._written_at: dict[str, int] = {}
        self._ending: Finished | None = None
        self._last_drop = ""
        self._asked = self._written = self._drafts = self._drops_in_a_row = self._best_at = self._next = 0
        self._tokens = 0
        self._money = self._active = self._wall = self._device = 0.0
        self._epoch = -1
        self._shelf = shelf
        self._reducers = {r.name: r for r in reducers}
        self._reduced = {name: r.start() for name, r in self._reducers.items()}

    @property
    def created(self) -> Created:
        """The run's first event.

        Raises:
            StoreError: the log is empty.
        """
        if self._created is None:
            raise StoreError("the run's log is empty; create the run first")
        return self._created

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings in force: those of Created, or of the latest note that replaced them."""
        return MappingProxyType(dict(self._settings))

    @property
    def nodes(self) -> Mapping[str, Node]:
        """Evaluated candidates by id, in the order they were told."""
        return MappingProxyType(self._nodes)

    @property
    def pending(self) -> Mapping[str, Pending]:
        """Briefs without an outcome by id, in the order they were asked."""
        return MappingProxyType(self._pending)

    @property
    def best(self) -> Node | None:
        """The correct node of highest rank, the earliest of equals; None while no node is correct."""
        return self._best

    @property
    def furthest(self) -> Node | None:
        """The node that passed most rungs, the newest of equals; None while there is no node."""
        return self._furthest

    @property
    def finished(self) -> str:
        """Why the run ended; empty while it goes on."""
        return self._ending.reason if self._ending is not None else ""

    @property
    def ending(self) -> Finished | None:
        """The event that ended the run; None while it goes on."""
        return self._ending

    @property
    def notes(self) -> tuple[Noted, ...]:
        return tuple(self._notes)

    @property
    def result(self) -> Noted | None:
        """What came out when the best was measured again: the latest note with topic `result`; None where none was."""
        return next((note for note in reversed(self._notes) if note.topic == RESULT), None)

    @property
    def asked(self) -> int:
        """Number of briefs ever asked: the index of the next ask."""
        return self._asked

    @property
    def written(self) -> int:
        """Number of candidates ever written: the number of the next candidate's id."""
        return self._written

    @property
    def drafts(self) -> int:
        """Number of briefs without parents that were asked and not dropped, pending ones included."""
        return self._drafts

    @property
    def candidates(self) -> int:
        """Nodes and pending briefs together: what the run is committed to."""
        return len(self._nodes) + len(self._pending)

    @property
    def since_best(self) -> int:
        """Number of candidates evaluated since the best node was found (or since the start)."""
        return len(self._nodes) - self._best_at

    @property
    def drops_in_a_row(self) -> int:
        """Briefs dropped since a writer last answered, exhausted parents not counted."""
        return self._drops_in_a_row

    @property
    def last_drop(self) -> str:
        """The reason of the latest drop."""
        return self._last_drop

    @property
    def tokens(self) -> int:
        """Tokens read and written by the writers."""
        return self._tokens

    @property
    def money_usd(self) -> float:
        return self._money

    @property
    def spent(self) -> Cost:
        """What the writers have used in all; tokens read and written are not told apart."""
        return Cost(tokens_in=self._tokens, money_usd=self._money)

    @property
    def active_seconds(self) -> float:
        """Time between entries of one opening, summed: pauses between two openings do not count."""
        return self._active

    @property
    def reducers(self) -> tuple[Reducer, ...]:
        """What is folded along."""
        return tuple(self._reducers.values())

    @property
    def device_seconds(self) -> float:
        """How long candidates held an accelerator, as their evaluations tell."""
        return self._device

    @property
    def next_sequence(self) -> int:
        """Sequence number of the first entry that is not in this graph."""
        return self._next

    def is_exhausted(self, parents: tuple[str, ...]) -> bool:
        """Whether the writer said that no move is left from these parents (() = fresh drafts)."""
        return tuple(sorted(parents)) in self._exhausted

    def children(self, node: str, *, last: int | None = None) -> tuple[str, ...]:
        """Ids of the nodes that have `node` among their parents, in the order they were told; only the `last` ones."""
        told = self._children.get(node, [])
        return tuple(told if last is None else told[-last:])

    def lineage(self, node: str) -> tuple[str, ...]:
        """Ids of `node` and all its ancestors, oldest first."""
        seen: set[str] = set()
        waiting = [node]
        while waiting:
            name = waiting.pop()
            if name not in seen:
                seen.add(name)
                waiting.extend(self._nodes[name].parents)
        return tuple(sorted(seen, key=lambda n: self._nodes[n].index))

    def with_digest(self, digest: str) -> str:
        """Id of the first node whose source has this SHA-256; empty if there is none."""
        return self._digests.get(digest, "")

    def witness(self, *, deep: bool = False) -> Any:
        """What compares equal as long as nobody has changed the graph; not deep: in constant time, and sizes only."""
        sizes = [value for value in vars(self).values() if isinstance(value, (int, float, str))]
        sizes += [len(value) for value in vars(self).values() if isinstance(value, (dict, set, list))]
        if not deep:
            return sizes, id(self._best)
        nodes = {name: id(node) for name, node in self._nodes.items()}
        pending = {name: id(brief) for name, brief in self._pending.items()}
        texts = repr((self._children, self._digests, self._reduced, sorted(self._exhausted)))
        return sizes, id(self._best), nodes, pending, [id(note) for note in self._notes], texts

    def reduced(self, name: str) -> Any:
        """The state of the reducer called `name`.

        Raises:
            UsageError: no such reducer was registered with this graph.
        """
        if name not in self._reduced:
            raise UsageError(f"this graph folds no reducer {name!r}; it folds: {', '.join(self._reduced) or 'none'}")
        return self._reduced[name]


def fold(graph: Graph, entry: Entry) -> Graph:
    """`graph` with the next entry of its log taken in.

    Raises:
        StoreError: the entry does not follow from what is in the graph: a gap, an answer to no brief, a second Created.
        PluginFault: a reducer raised.
    """
    if entry.sequence != graph._next:
        raise StoreError(
            f"the log goes from entry {graph._next - 1} to {entry.sequence}; an entry is missing or doubled"
        )
    event = entry.event
    if isinstance(event, Created) != (entry.sequence == 0):
        raise StoreError(f"entry {entry.sequence} is a {entry.kind!r} event; a log has Created first and only there")
    _TAKE[type(event)](graph, event, entry.sequence)
    if entry.epoch == graph._epoch:
        graph._active += max(0.0, entry.wall - graph._wall)
    graph._epoch, graph._wall, graph._next = entry.epoch, entry.wall, entry.sequence + 1
    for name, reducer in graph._reducers.items():
        try:
            graph._reduced[name] = reducer.fold(graph._reduced[name], event, graph)
        except Exception as error:
            raise PluginFault(
                f"reducer {name!r} raised {type(error).__name__} at entry {entry.sequence} ({entry.kind}): {error}; "
                "the log is whole: repair the reducer's package and resume the run"
            ) from error
    return graph


def fold_all(entries: Iterable[Entry], reducers: Iterable[Reducer] = ()) -> Graph:
    """The graph that the whole log tells."""
    graph = Graph(reducers)
    for entry in entries:
        fold(graph, entry)
    return graph


def _take_created(graph: Graph, event: Created, at: int) -> None:
    graph._created, graph._settings = event, event.settings


def _take_asked(graph: Graph, event: Asked, at: int) -> None:
    brief = event.brief
    unknown = [p for p in brief.parents if p not in graph._nodes]
    if unknown or brief.index != graph._asked:
        raise StoreError(
            f"brief {brief.id} has index {brief.index} after {graph._asked} asks, unknown parents {unknown}"
        )
    graph._pending[brief.id] = Pending(brief)
    graph._asked += 1
    graph._drafts += not brief.parents
    graph._ending = None


def _take_written(graph: Graph, event: Written, at: int) -> None:
    candidate = event.candidate
    pending = graph._pending.get(candidate.brief)
    if pending is None or pending.candidate is not None:
        raise StoreError(f"candidate {candidate.id} answers brief {candidate.brief}, which waits for no answer")
    graph._pending[candidate.brief] = replace(pending, candidate=candidate)
    graph._written_at[candidate.brief] = at
    graph._written += 1
    graph._drops_in_a_row = 0
    _spend(graph, candidate.cost)


def _spend(graph: Graph, cost: Cost) -> None:
    graph._tokens += cost.tokens_in + cost.tokens_out
    graph._money += cost.money_usd


def _take_evaluated(graph: Graph, event: Evaluated, at: int) -> None:
    # The pending brief is found through the few that are pending, never through all nodes.
    found = [p for p in graph._pending.values() if p.candidate is not None and p.candidate.id == event.candidate]
    if not found or found[0].candidate is None:
        raise StoreError(f"candidate {event.candidate} was evaluated, but is not waiting for it")
    brief, candidate = found[0].brief, found[0].candidate
    node = _node(graph, brief, candidate, event, (graph._written_at.pop(brief.id), at))
    del graph._pending[brief.id]
    graph._nodes[node.id] = node
    graph._digests.setdefault(candidate.digest, node.id)
    for parent in brief.parents:
        graph._children.setdefault(parent, []).append(node.id)
    if node.correct and (graph._best is None or node.rank > graph._best.rank):
        graph._best, graph._best_at = node, len(graph._nodes)
    climbed = sum(rung.status == "passed" for rung in event.evaluation.rungs)
    if climbed >= graph._climbed:
        graph._furthest, graph._climbed = node, climbed
    graph._device += event.evaluation.device_seconds


def _node(graph: Graph, brief: Brief, candidate: Candidate, event: Evaluated, places: tuple[int, int]) -> Node:
    index, found = len(graph._nodes), event.evaluation
    if graph._shelf is None:
        return Node(index, brief.parents, candidate, found, event.fitness, duplicate_of=event.duplicate_of)
    # Who has just been told of is asked about next.
    graph._shelf.put(places[0], candidate)
    graph._shelf.put(places[1], found)
    return shelved(
        graph._shelf, *places, index=index, parents=brief.parents, fitness=event.fitness,
        duplicate_of=event.duplicate_of, id=candidate.id, verdict=found.verdict,
    )  # fmt: skip


def _take_dropped(graph: Graph, event: Dropped, at: int) -> None:
    pending = graph._pending.pop(event.brief, None)
    if pending is None:
        raise StoreError(f"brief {event.brief} was dropped, but is not pending")
    graph._written_at.pop(event.brief, None)
    graph._drafts -= not pending.brief.parents
    graph._last_drop = event.reason
    _spend(graph, event.cost)
    if event.exhausted:
        graph._exhausted.add(tuple(sorted(pending.brief.parents)))
    else:
        graph._drops_in_a_row += 1


def _take_noted(graph: Graph, event: Noted, at: int) -> None:
    graph._notes.append(event)
    if event.topic == "settings":
        graph._settings = event.data
    elif event.topic in COSTLY:
        _spend(graph, codec.from_data(Cost, event.data["cost"]))


def _take_finished(graph: Graph, event: Finished, at: int) -> None:
    graph._ending = event


_TAKE: Mapping[type[Event], Any] = {
    Created: _take_created,
    Asked: _take_asked,
    Written: _take_written,
    Evaluated: _take_evaluated,
    Dropped: _take_dropped,
    Noted: _take_noted,
    Finished: _take_finished,
}
