"""Greedy: some fresh drafts, then always the best node that still has moves.

In: the graph. Out: the parents of the next child. Left to others: everything random (greedy is deterministic).
"""

from __future__ import annotations

import random

from kernelevolve.errors import UsageError
from kernelevolve.graph import Graph
from kernelevolve.search.frontier import Frontier, FrontierReducer


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
        if graph.drafts < self._drafts and not graph.is_exhausted(()):
            return ()
        frontier: Frontier = graph.reduced(FrontierReducer.name)
        return frontier.parents
