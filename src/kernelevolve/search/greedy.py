"""Greedy: some fresh drafts, then always the best node that still has moves.

In: the graph. Out: the parents of the next child. Left to others: everything random (greedy is deterministic).
"""

from __future__ import annotations

import bisect
import random
from dataclasses import dataclass, field

from kernelevolve.errors import UsageError
from kernelevolve.events import Dropped, Evaluated, Event
from kernelevolve.graph import Graph, Node


@dataclass
class Frontier:
    """Nodes that may still become parents, best last; the correct and the faulty apart, duplicates in neither."""

    correct: list[tuple[tuple[bool, int, float], int, str]] = field(default_factory=list)
    faulty: list[tuple[int, str]] = field(default_factory=list)


class FrontierReducer:
    """Keeps the Frontier as nodes come in and parents are exhausted.

    Args:
        repairs: how many faulty nodes may follow each other in one line of descent before it is given up.
    """

    name = "greedy.frontier"

    def __init__(self, repairs: int) -> None:
        self._repairs = repairs

    def start(self) -> Frontier:
        return Frontier()

    def fold(self, state: Frontier, event: Event, graph: Graph) -> Frontier:
        if isinstance(event, Evaluated):
            node = graph.nodes[event.candidate]
            if not node.duplicate_of and node.evaluation.correct:
                # Of equals the earliest is the best: it comes last, by its negative index.
                bisect.insort(state.correct, (node.rank, -node.index, node.id))
            elif not node.duplicate_of and not self._hopeless(node, graph):
                bisect.insort(state.faulty, (node.index, node.id))
        elif isinstance(event, Dropped) and event.exhausted:
            state.correct = [item for item in state.correct if not graph.is_exhausted((item[-1],))]
            state.faulty = [item for item in state.faulty if not graph.is_exhausted((item[-1],))]
        return state

    def _hopeless(self, node: Node, graph: Graph) -> bool:
        for _ in range(self._repairs):
            if node.evaluation.correct or not node.parents:
                return False
            node = graph.nodes[node.parents[0]]
        return not node.evaluation.correct


class Greedy:
    """Drafts first, then the best correct node with moves left, else the latest faulty one, else another draft.

    Args:
        drafts: briefs without parents before the first improvement, pending ones included; at least 1.
        repairs: how many faulty nodes may follow each other before a line of descent is given up; at least 1.
    """

    def __init__(self, drafts: int = 1, repairs: int = 3) -> None:
        if drafts < 1 or repairs < 1:
            raise UsageError(f"greedy needs at least 1 draft and 1 repair, got drafts={drafts}, repairs={repairs}")
        self._drafts = drafts
        self.reducers = (FrontierReducer(repairs),)

    def select(self, graph: Graph, rng: random.Random) -> tuple[str, ...]:
        """See `Policy.select`."""
        frontier: Frontier = graph.reduced(FrontierReducer.name)
        if graph.drafts < self._drafts and not graph.is_exhausted(()):
            return ()
        if frontier.correct:
            return (frontier.correct[-1][-1],)
        if frontier.faulty:
            return (frontier.faulty[-1][-1],)
        return ()
