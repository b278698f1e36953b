"""What policies share: nodes in order of rank, and the frontier of those that may still become parents.

In: the events of a run, as a reducer sees them. Out: ordered nodes, of which the best is known at once and any is added
or taken out in a step or two, however many there are. Left to others: which of them to take (the policies).
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from kernelevolve.candidate import Brief
from kernelevolve.events import Asked, Dropped, Evaluated, Event
from kernelevolve.graph import Graph, Node

Key = tuple[tuple[bool, int, float], int, str]


def key_of(node: Node) -> Key:
    """Orders nodes, best last; of equals the earliest is the best, by its negative index."""
    return (node.rank, -node.index, node.id)


@dataclass
class Ranked:
    """Nodes, the best last."""

    keys: list[Key] = field(default_factory=list)

    def add(self, node: Node) -> None:
        bisect.insort(self.keys, key_of(node))

    def remove(self, node: Node) -> None:
        """Takes `node` out, if it is in."""
        if node in self:
            del self.keys[bisect.bisect_left(self.keys, key_of(node))]

    @property
    def indices(self) -> list[int]:
        """Places of the nodes in the graph, the best last."""
        return [-negative for _, negative, _ in self.keys]

    @classmethod
    def of(cls, indices: Iterable[int], nodes: Sequence[Node]) -> Ranked:
        """Those of all `nodes` at `indices`, in which the best is the last."""
        return cls([key_of(nodes[index]) for index in indices])

    @property
    def best(self) -> str:
        """Id of the best node; empty where there is none."""
        return self.keys[-1][-1] if self.keys else ""

    def first(self, count: int) -> tuple[str, ...]:
        """Ids of the `count` best, best first."""
        return tuple(key[-1] for key in reversed(self.keys[-count:]))

    def __contains__(self, node: Node) -> bool:
        at = bisect.bisect_left(self.keys, key_of(node))
        return at < len(self.keys) and self.keys[at][-1] == node.id

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[str]:
        return (key[-1] for key in self.keys)


@dataclass
class Waiting:
    """Pending briefs by id: an event names the brief that ends, and what was asked for is no longer in the graph."""

    briefs: dict[str, Brief] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: Graph) -> Waiting:
        """The briefs that are pending in `graph`."""
        return cls({name: pending.brief for name, pending in graph.pending.items()})

    def ended_by(self, event: Event, graph: Graph) -> Brief | None:
        """The brief that `event` ends; one that it begins is kept."""
        if isinstance(event, Asked):
            self.briefs[event.brief.id] = event.brief
        elif isinstance(event, Evaluated):
            return self.briefs.pop(graph.nodes[event.candidate].candidate.brief)
        elif isinstance(event, Dropped):
            return self.briefs.pop(event.brief)
        return None


def hopeless(node: Node, graph: Graph, repairs: int) -> bool:
    """Whether more than `repairs` faulty nodes follow each other in the line of descent that ends with `node`."""
    for _ in range(repairs):
        if node.correct or not node.parents:
            return False
        node = graph.nodes[node.parents[0]]
    return not node.correct


@dataclass
class Frontier:
    """Nodes that may still become parents; the correct and the faulty apart, duplicates in neither."""

    correct: Ranked = field(default_factory=Ranked)
    faulty: list[tuple[int, str]] = field(default_factory=list)
    waiting: Waiting = field(default_factory=Waiting)

    @property
    def parents(self) -> tuple[str, ...]:
        """The best correct node, else the latest faulty one, else none: a fresh draft."""
        if self.correct:
            return (self.correct.best,)
        return (self.faulty[-1][-1],) if self.faulty else ()


class FrontierReducer:
    """Keeps the Frontier as nodes come in and parents are exhausted.

    Args:
        repairs: how many faulty nodes may follow each other in one line of descent before it is given up.
    """

    name = "frontier"

    def __init__(self, repairs: int) -> None:
        self._repairs = repairs

    def start(self) -> Frontier:
        return Frontier()

    def fold(self, state: Frontier, event: Event, graph: Graph) -> Frontier:
        brief = state.waiting.ended_by(event, graph)
        if isinstance(event, Evaluated):
            node = graph.nodes[event.candidate]
            if not node.duplicate_of and node.correct:
                state.correct.add(node)
            elif not node.duplicate_of and not hopeless(node, graph, self._repairs):
                state.faulty.append((node.index, node.id))
        elif brief is not None and isinstance(event, Dropped) and event.exhausted and len(brief.parents) == 1:
            gone = graph.nodes[brief.parents[0]]
            state.correct.remove(gone)
            at = bisect.bisect_left(state.faulty, (gone.index, gone.id))
            state.faulty[at : at + 1] = [item for item in state.faulty[at : at + 1] if item[-1] != gone.id]
        return state

    def save(self, state: Frontier, graph: Graph) -> Any:
        """See `Restorable.save`."""
        return {"correct": state.correct.indices, "faulty": [index for index, _ in state.faulty]}

    def restore(self, data: Any, graph: Graph) -> Frontier:
        """See `Restorable.restore`."""
        nodes = tuple(graph.nodes.values())
        faulty = [(index, nodes[index].id) for index in data["faulty"]]
        return Frontier(Ranked.of(data["correct"], nodes), faulty, Waiting.of(graph))
